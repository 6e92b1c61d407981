"""Folders that appear whole or not at all: made under a hidden name, then renamed."""

import errno
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fedfmd.errors import UserError, pasted
from fedfmd.files import check_encoded, sync_folder, take_lock
from fedfmd.records import filenames

_SUFFIX = ".fedfmd-new"
"""Of hidden folders that nobody but this module makes, and that it may delete."""
_JUST_MADE_SECONDS = 60.0
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def check_free(path: Path) -> None:
    """Raise ``UserError`` if a run directory cannot be made at ``path``, by its name or for what is there."""
    check_encoded("--out", path)
    if path.exists() or path.is_symlink():
        goes_on = f", or continue it with --resume {pasted(path)}" if filenames.holds_run(path) else ""
        raise UserError(f"--out {path}: exists already; choose another folder{goes_on}")


def make_unfinished(path: Path) -> Path:
    """Make a hidden folder beside ``path``, to become it; those of killed processes are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f".*{_SUFFIX}"):
        if _abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    made = Path(tempfile.mkdtemp(_SUFFIX, f".{path.name}.", path.parent))
    made.chmod(0o755)
    return made


def publish(made: Path, candidates: Iterable[Path]) -> Path:
    """Rename a finished folder to the first of ``candidates`` that is free, and return that one.

    Raises ``UserError`` when none is.
    """
    path = made
    for path in candidates:
        with suppress(UserError):
            check_free(path)
            if _renamed(made, path):
                sync_folder(path.parent)
                return path
    check_free(path)
    raise UserError(f"{path.parent}: holds too many runs of this name; choose another --out")


def numbered(path: Path) -> Iterator[Path]:
    """Return ``path``, then ``path-2``, ``path-3`` and so on."""
    yield path
    yield from (path.with_name(f"{path.name}-{n}") for n in itertools.islice(itertools.count(2), 100_000))


def free_run_folder(name: str, root: Path = Path(filenames.RUNS)) -> Path:
    """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3`` ... that does not exist yet."""
    return next(path for path in numbered(root / name) if not path.exists())


def _renamed(made: Path, path: Path) -> bool:
    try:
        made.rename(path)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _abandoned(folder: Path) -> bool:
    """Whether nobody works on an unfinished folder any more."""
    try:
        if not (folder / filenames.LOCK).exists():
            return time.time() - folder.stat().st_mtime > _JUST_MADE_SECONDS
        take_lock(folder / filenames.LOCK).close()
    except OSError:
        return False
    return True
