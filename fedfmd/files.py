"""Files that are either the old one or the new one, never half of one, and the locks that guard them."""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedfmd.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows: what needs a lock then says so, and the rest can be imported
    fcntl = None  # type: ignore[assignment]

LOCK_POLL_SECONDS = 0.1
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")


def check_file(option: str, path: Path) -> None:
    """Raise ``UserError`` where the file that an option names cannot be written: known before any work."""
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"{option} {path}: must be a file in a folder that exists")


def regular_file(path: Path) -> Path:
    """Return the path of a file that is read as a whole.

    Raises ``OSError`` for none, for a folder, and for what may never end or never begin, as a pipe.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path


def expanded(path: Path, what: str, cure: str) -> Path:
    """Return a path whose ~ is a home folder; raises ``UserError`` that begins with ``what`` for none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{what} = {str(path)!r}: there is no such home folder; {cure}") from None


def check_encoded(option: str, path: Path) -> None:
    """Raise ``UserError`` for a path that is no text in UTF-8, which the files of a run must hold."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{option} {str(path)!a}: is no name in UTF-8, as files of a run hold it; choose another"
        ) from None


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content``; a reader or a crash sees the old file or the new one.

    The bytes reach the disk before the name does: the temporary file and its folder are synced.
    Raises ``OSError`` as the file system does; the old file is then still whole.
    """
    data = content.encode() if isinstance(content, str) else content
    replace_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_guarded(path: Path, content: bytes, mode: int) -> None:
    """Replace ``path`` by a file that never had other rights than ``mode``; else as ``write_atomic``."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)  # of a killed process that had this one's number
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)

    replace_atomically(path, write)


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


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left of their atomic writes, or of those of the file ``name`` alone.

    Those of living processes stay.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found and name in (None, found[1]) and not _alive(int(found[2])):
                path.unlink(missing_ok=True)


def take_lock(path: Path, patience_seconds: float = 0.0) -> BinaryIO:
    """Return the open lock file ``path``, held until it is closed or the process ends, however it ends.

    Raises ``BlockingIOError`` when another process still holds it after ``patience_seconds``, and ``OSError``
    where the file cannot be made.
    """
    file = path.open("ab")
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            lock_descriptor(file.fileno())
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise
            time.sleep(LOCK_POLL_SECONDS)


def lock_descriptor(descriptor: int) -> None:
    """Lock an open file or folder until it is closed or the process ends, however it ends.

    Raises ``BlockingIOError`` when another process holds it, and ``OSError`` where there are no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no locks (flock); fedfmd runs on Linux and macOS")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock file ``path``; it is looked at for an instant."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def locked(path: Path, patience_seconds: float = float("inf")) -> Iterator[BinaryIO]:
    """Hold the lock file ``path`` inside the ``with``; waits and raises as ``take_lock`` does."""
    with take_lock(path, patience_seconds) as file:
        yield file


class _BrokenOffError(Exception):
    """A file that could not be copied."""


def copy_folder(source: Path, target: Path, *ignored: str) -> None:
    """Copy a folder into ``target``, in the place of what has the same names, but for the names ``ignored``.

    Raises the ``OSError`` of the first file that fails; shutil would try all others, and list them.
    """

    def copy(file: str, to: str) -> None:
        try:
            shutil.copy2(file, to)
        except OSError as error:
            raise _BrokenOffError(error) from error

    pattern = shutil.ignore_patterns(*ignored)
    try:
        shutil.copytree(source, target, ignore=pattern, dirs_exist_ok=True, copy_function=copy)
    except _BrokenOffError as broken:
        raise broken.args[0] from None


def make_folder(folder: Path) -> None:
    """Make a folder of ours, or take the one that is there without what killed processes left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
