"""``fedfmd simulate``: a federated run from its config, or from where it was left, to its report."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from fedfmd.cli.command import set_once
from fedfmd.cli.voice import console, errors, resumable, tell_notes
from fedfmd.errors import UserError, pasted
from fedfmd.records import filenames

if TYPE_CHECKING:  # imported where needed, so that --help does not wait for torch
    from fedfmd.launch import Launch
    from fedfmd.records.rundir import RunDirectory


class Backend(StrEnum):
    """Where clients are computed."""

    ray = "ray"
    inline = "inline"


def overridden(
    set_: list[str] | None, rounds: int | None, backend: Backend | None, workers: int | None
) -> list[str]:
    """Return the options that stand for keys behind the others, as --set has them."""
    extra = [f"server.rounds={rounds}"] if rounds is not None else []
    extra += [f'backend.kind="{backend.value}"'] if backend else []
    extra += [f"backend.workers={workers}"] if workers is not None else []
    return set_once(set_, extra)


def check_resumed(resume: Path | None, accept: bool, config: Path | None, out: Path | None) -> None:
    """Raise ``UserError`` for options that do not go with, or without, ``--resume``."""
    if resume is not None and (config or out):
        raise UserError(f"--resume {resume}: takes its config from that run; give no CONFIG or --out with it")
    if accept and resume is None:
        raise UserError("--accept: belongs to --resume DIR")


def _reopened(resume: Path, overrides: list[str], *, accept: bool) -> "RunDirectory | None":
    """Open a run to go on with it; null for a finished one that had lacked nothing but its report."""
    from fedfmd.pages.report import write_report
    from fedfmd.records.rundir import RunDirectory
    from fedfmd.rounds.resumption import take_changes

    directory = RunDirectory.open(resume)
    if filenames.holds_central_run(resume):
        raise UserError(f"--resume {resume}: is a run of fedfmd train; continue it with that")
    take_changes(directory, overrides, accept=accept)
    if not directory.finished():
        return directory
    if (resume / filenames.REPORT).exists():
        raise UserError(
            f"--resume {resume}: this run is finished; there is nothing to continue but for more rounds: "
            "--rounds N"
        )
    console.print(f"report: {write_report([resume])}", soft_wrap=True)
    return None


def simulated(config: Path, overrides: list[str], out: Path | None) -> "tuple[RunDirectory, Path]":
    """Make a run directory and run it to its end; returns it, and the page of its report."""
    from fedfmd.config.experiment import load_config
    from fedfmd.launch import launching
    from fedfmd.records.unfinished import check_free

    settings = load_config(config, overrides)
    if out is not None:
        check_free(out)
    with launching(settings.backend) as launch:  # before PyTorch is imported, as workers import it, too
        from fedfmd.api import check_logging
        from fedfmd.rounds.lifecycle import start_run

        check_logging(settings)
        with console.status("preparing data ..."):
            directory = start_run(settings, out)
        return directory, _run(directory, launch)


def resumed(resume: Path, overrides: list[str], *, accept: bool) -> "tuple[RunDirectory, Path] | None":
    """Run a run directory to its end; null for a finished one that had lacked nothing but its report."""
    from fedfmd.launch import launching

    directory = _reopened(resume, overrides, accept=accept)
    if directory is None:
        return None
    with launching(directory.config.backend) as launch:
        return directory, _run(directory, launch)


def _run(directory: "RunDirectory", launch: "Launch") -> Path:
    """Run a directory to its end and say what it gave; returns the page of its report."""
    from fedfmd.api import run
    from fedfmd.building import cut_off
    from fedfmd.terminal.rounds import RunProgress
    from fedfmd.terminal.summary import summary_table

    settings = directory.config
    checkpoint = directory.recover()
    told = tell_notes(directory, 0)
    console.print(f"run directory: {directory.path}", soft_wrap=True)
    if said := cut_off(settings):
        errors.print(f"note: {said}", soft_wrap=True, highlight=False)
    with resumable(f"fedfmd simulate --resume {pasted(directory.path)}"):
        with RunProgress(console, settings.server.rounds, checkpoint.round if checkpoint else 0) as progress:
            result = run(directory, launch, progress.on_round)
        console.print(summary_table(result.summary))
        with console.status("writing the report ..."):
            page = result.report()
        console.print(f"report: {page}", soft_wrap=True)
    tell_notes(directory, told)
    return page
