"""Modules of one's own that this user has run or approved; a run made elsewhere may run no others.

A text file in the user's state folder holds an entry a line: the SHA-256 of a module's file, the path of one
that a run of the user's own was started with, which may change, or the name of a part in what is installed.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from fedfmd.errors import UserError, first_few, pasted
from fedfmd.files import regular_file
from fedfmd.sources import file_sha256, importable, own_files


@dataclass
class Doubt:
    """That a run was made by this user, and what it names that is not approved."""

    run: Path
    """Its directory, or a model file."""
    missing: dict[str, str] = field(default_factory=dict)
    """In words, by the entry that would approve it."""

    def check(self, name: str, found: tuple[Path, Path] | None) -> None:
        """Raise ``UserError`` for a module, or a part in it, that is not approved.

        ``found`` are the module's file and the folder that Python would look in for it and for others, or
        null for what is installed: the name alone counts then, as it may call whatever is there.
        """
        known, where = approved(), f"fedfmd approve {pasted(self.run)}"
        if found is None:
            if name not in known:
                self.missing[name] = f"{name}, of what is installed"
                raise UserError(
                    f"names {name}, which no run of yours on this machine has named; if this run may call "
                    f"it: {where}"
                )
            return
        file, folder = found
        if str(file) in known:
            return
        files = dict.fromkeys(
            [*own_files(name.partition(":")[0], file, folder).values(), *importable(folder)]
        )
        missing = {
            digest: f"{file} (SHA-256 {digest})"
            for file in files
            if (digest := file_sha256(file)) not in known
        }
        self.missing |= missing
        if missing:
            raise UserError(
                "names a module that no run of yours on this machine has used, and that would run as you: "
                f"{first_few(list(missing.values()))}; look at them, then: {where}"
            )


_doubt: ContextVar[Doubt | None] = ContextVar("doubt", default=None)


@contextmanager
def doubting(run: Path) -> Iterator[Doubt]:
    """Inside the ``with``, import only approved modules for what a run names: a stranger may have made it."""
    doubt = _doubt.get() or Doubt(run)
    token = _doubt.set(doubt)
    try:
        yield doubt
    finally:
        _doubt.reset(token)


def doubted() -> Doubt | None:
    """Return the doubt that this is inside of; null where the user has named a part himself."""
    return _doubt.get()


def approvals_file() -> Path:
    """Return ``$XDG_STATE_HOME/fedfmd/approved``, by default below ``~/.local/state``.

    Raises ``OSError`` where there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "fedfmd" / "approved"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


def approved() -> frozenset[str]:
    """Return all entries; none where the file is missing or cannot be read."""
    with suppress(OSError):
        return frozenset(regular_file(approvals_file()).read_text("utf-8", "surrogateescape").split("\n"))
    return frozenset()


def approve(entries: Iterable[str]) -> None:
    """Add entries; raises ``OSError`` where they cannot be written."""
    known = approved()
    lines = [f"{entry}\n" for entry in dict.fromkeys(entries) if entry not in known and "\n" not in entry]
    if not lines:
        return
    file = approvals_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, "".join(lines).encode("utf-8", "surrogateescape"))  # at once: others append, too
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
