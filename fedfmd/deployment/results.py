"""Run directories of a server, copied to where they are looked at."""

import itertools
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.files import copy_folder, write_atomic
from fedfmd.records import filenames


def copy_runs(there: Path, into: Path) -> list[Path]:
    """Copy the run directories of which ``into`` has no copy, or not one of their end; returns the copies.

    What else is in a copy stays. Raises ``UserError`` for the copy of another run in the place of one, and
    where there is no room.
    """
    runs = [config.parent for config in sorted(there.glob(f"*/{filenames.CONFIG}"))]
    new = [run for run in runs if not _ended_alike(run, into / run.name)]
    for run in new:
        if _is_another(run, into / run.name):
            raise UserError(
                f"--out {into}: {into / run.name} is another run of that name; choose another folder, or "
                "move that one"
            )
    for run in new:
        try:
            _copy(run, into / run.name)
        except OSError as error:
            raise UserError(f"--out {into}: {run.name} cannot be copied: {error.strerror}") from None
    return [into / run.name for run in new]


def _copy(run: Path, copy: Path) -> None:
    """Copy a run, its end last: a copy that has the end has all."""
    for name in (filenames.SUMMARY, filenames.REPORT):  # of a run that has gone on since
        (copy / name).unlink(missing_ok=True)
    end = run / filenames.SUMMARY
    told = end.read_bytes() if end.is_file() else None
    copy_folder(run, copy, filenames.SUMMARY)
    if told is not None:
        write_atomic(copy / filenames.SUMMARY, told)


def _ended_alike(run: Path, copy: Path) -> bool:
    """Whether both have the same end; a summary holds seconds that no other run has taken."""
    ends = [folder / filenames.SUMMARY for folder in (run, copy)]
    return all(end.is_file() for end in ends) and ends[0].read_bytes() == ends[1].read_bytes()


def _is_another(run: Path, copy: Path) -> bool:
    """Whether a copy is of another run: its first round of training took other seconds."""
    before = _beginning(copy)
    return len(before) > 1 and before != _beginning(run)


def _beginning(folder: Path) -> list[bytes]:
    """Return the rows of the untrained model and of the first round, as far as they are whole."""
    try:
        with (folder / filenames.ROUNDS).open("rb") as ledger:
            return [row for row in itertools.islice(ledger, 2) if row.endswith(b"\n")]
    except FileNotFoundError:
        return []
