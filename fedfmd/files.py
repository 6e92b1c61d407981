"""Files that are either the old one or the new one, never half of one."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content``; a reader or a crash sees the old file or the new one.

    The bytes reach the disk before the name does: the temporary file and its folder are synced.
    Raises ``OSError`` as the file system does; the old file is then still whole.
    """
    data = content.encode() if isinstance(content, str) else content
    replace_atomically(path, lambda temporary: temporary.write_bytes(data))


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace ``path`` by what ``write`` writes to the file it is given; else as ``write_atomic``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` as durable as their contents, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
