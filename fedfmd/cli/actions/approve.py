"""What ``fedfmd approve`` does: it reads runs as a command would, until nothing that they name is missing."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from fedfmd.approvals import approvals_file, approve, doubting
from fedfmd.errors import UserError
from fedfmd.nn.model_file import MODEL_FILE, load_model
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.studies.plan import load_study
from fedfmd.terminal.consoles import PlainConsole


def approve_shown(console: PlainConsole, runs: Sequence[Path]) -> None:
    """Approve what runs, studies and model files name, and say what that is.

    Raises ``UserError`` for what is none of these, lacks a module, or cannot be kept.
    """
    for run in runs:
        needed = False
        for told in _approved(run):
            needed = True
            console.say(f"approved: {told}")
        if not needed:
            console.say(f"{run}: names nothing that is not approved")


def _approved(run: Path) -> Iterator[str]:
    """Yield in words what is approved; what only approved modules can name is found in a next pass."""
    while True:
        missing, error = _missing(run)
        if not missing:
            if error is not None:
                raise error
            return
        yield from missing.values()
        try:
            approve(missing)
        except OSError as failed:
            raise UserError(
                f"{failed.filename or approvals_file()}: cannot be written: {failed.strerror}; set "
                "XDG_STATE_HOME to a folder that can"
            ) from None


def _missing(run: Path) -> tuple[dict[str, str], UserError | None]:
    error = None
    with doubting(run) as doubt:
        for read in _readings(run):
            try:
                read()
            except UserError as failed:
                error = error or failed
    return doubt.missing, error


def _readings(run: Path) -> Iterator[Callable[[], object]]:
    """Yield all ways in which a run's modules are looked for."""
    if not run.is_dir():
        yield partial(load_model, run)
        return
    if (run / filenames.STUDY).is_file():
        yield partial(load_study, run / filenames.STUDY, folder=run)
        for config in sorted(run.glob(f"**/{filenames.CONFIG}")):
            yield from _readings(config.parent)
        return
    directory = RunDirectory.open(run)
    yield lambda: directory.settings.now
    yield lambda: directory.settings.started
    yield directory.foundations.changes
    if (run / MODEL_FILE).is_file():
        yield partial(load_model, run)
