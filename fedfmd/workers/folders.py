"""Folders that live as long as the process that made them: after a kill, the next start removes them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from fedfmd.files import lock_descriptor


class OwnFolder:
    """A new folder in ``root`` that no other process of this kind removes while this one lives.

    Its owner holds a lock on it, and the kernel drops a lock with its process: so neither a number that is
    given to another process nor a container that counts processes anew can make the living look dead.
    Raises ``OSError`` when it cannot be made.
    """

    def __init__(self, root: Path, prefix: str):
        remove_left_over(root, prefix)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_own(prefix), dir=root))
            self._lock = _locked(self.path)
            if self._lock is not None and self.path.exists():
                return
            self._unlock()  # taken for a left-over between the two lines above

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and all that it holds; doing it again is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_left_over(root: Path, prefix: str) -> None:
    """Remove what killed processes of this user have left in ``root``."""
    for folder in _folders(root, prefix):
        lock = _locked(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _folders(root: Path, prefix: str) -> Iterator[Path]:
    return (path for path in root.glob(f"{_own(prefix)}*") if path.is_dir() and not path.is_symlink())


def _own(prefix: str) -> str:
    return f"{prefix}-{os.getuid()}-"


def _locked(folder: Path) -> int | None:
    """Lock a folder; gives the descriptor that holds the lock, null where another process holds it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            lock_descriptor(descriptor)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None
