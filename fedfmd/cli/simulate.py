"""``fedfmd simulate``: a federated run from its config, or from where it was left, to its report."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedfmd.cli.command import Accept, Open, Quiet, Set, Verbose, check_resumed, set_once
from fedfmd.cli.voice import (
    FINISHED_OTHERWISE,
    conclude,
    console,
    errors,
    resumable,
    speak,
    tell_notes,
)
from fedfmd.config.templates import QUICKSTART
from fedfmd.errors import RunError, UserError, pasted
from fedfmd.records import filenames

if TYPE_CHECKING:  # imported where needed, so that --help does not wait for torch
    from fedfmd.launch import Launch
    from fedfmd.records.rundir import RunDirectory


class Backend(StrEnum):
    """Where clients are computed."""

    ray = "ray"
    inline = "inline"


def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="Experiment file (TOML); default the quickstart.")
    ] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to create; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run directory.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Override `server.rounds`; with --resume, run up to this many rounds.")
    ] = None,
    accept: Accept = False,
    backend: Annotated[Backend | None, typer.Option(help="Override `backend.kind`.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Override `backend.workers`, the number of worker processes."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    open_: Open = False,
) -> None:
    """Run a federated experiment and write its report.

    Example: `fedfmd simulate configs/quickstart.toml --set server.rounds=5 --out runs/first`
    """
    speak(quiet, verbose)
    overrides = _overridden(set_, rounds, backend, workers)
    check_resumed(resume, accept, config, out)
    ended = (
        _simulated(config or QUICKSTART, overrides, out)
        if resume is None
        else _resumed(resume, overrides, accept=accept)
    )
    if ended is None:
        return
    directory, page = ended
    conclude(directory.path, page if open_ else None)
    from fedfmd.records.rundir import LOST_STATE

    if any(note.kind == LOST_STATE for note in directory.notes()):
        raise typer.Exit(FINISHED_OTHERWISE)


def _overridden(
    set_: list[str] | None, rounds: int | None, backend: Backend | None, workers: int | None
) -> list[str]:
    """Return the options that stand for keys behind the others, as --set has them."""
    extra = [f"server.rounds={rounds}"] if rounds is not None else []
    extra += [f'backend.kind="{backend.value}"'] if backend else []
    extra += [f"backend.workers={workers}"] if workers is not None else []
    return set_once(set_, extra)


def _reopened(resume: Path, overrides: list[str], *, accept: bool) -> "RunDirectory | None":
    """Open a run to go on with it; null for a complete one that had lacked nothing but its report."""
    from fedfmd.config.experiment import CENTRAL_ALONE, check_asked
    from fedfmd.pages.report import write_report
    from fedfmd.rounds.resumption import open_interrupted

    check_asked(overrides, CENTRAL_ALONE, "fedfmd train")
    directory = open_interrupted(resume, overrides, accept=accept)
    if not directory.complete():
        return directory
    if (resume / filenames.REPORT).exists():
        raise UserError(
            f"--resume {resume}: this run is finished; there is nothing to continue but for more rounds: "
            "--rounds N"
        )
    console.say(f"report: {write_report([resume])}")
    return None


def _simulated(config: Path, overrides: list[str], out: Path | None) -> "tuple[RunDirectory, Path]":
    """Make a run directory and run it to its end; returns it, and the page of its report."""
    from fedfmd.config.experiment import CENTRAL_ALONE, check_asked, load_config
    from fedfmd.launch import launching
    from fedfmd.records.unfinished import check_free

    check_asked(overrides, CENTRAL_ALONE, "fedfmd train")
    settings = load_config(config, overrides)
    if out is not None:
        check_free(out)
    with launching(settings.backend) as launch:  # before PyTorch is imported, as workers import it, too
        from fedfmd.records.logbook import check_installed
        from fedfmd.rounds.lifecycle import start_run

        check_installed(settings.logging)
        with console.status("preparing data ..."):
            directory = start_run(settings, out, source=f"{config}: ")
        return directory, _run(directory, launch)


def _resumed(resume: Path, overrides: list[str], *, accept: bool) -> "tuple[RunDirectory, Path] | None":
    """Run a run directory to its end; null for a finished one that had lacked nothing but its report."""
    from fedfmd.launch import launching

    directory = _reopened(resume, overrides, accept=accept)
    if directory is None:
        return None
    with launching(directory.config.backend) as launch:
        return directory, _run(directory, launch)


def _run(directory: "RunDirectory", launch: "Launch") -> Path:
    """Run a directory to its end and say what it gave; returns the page of its report."""
    with resumable(f"fedfmd simulate --resume {pasted(directory.path)}"):
        return _shown(directory, launch)


def _shown(directory: "RunDirectory", launch: "Launch") -> Path:
    from fedfmd.api import run
    from fedfmd.planning.remarks import remarks
    from fedfmd.terminal.rounds import RunProgress
    from fedfmd.terminal.summary import summary_table

    settings = directory.config
    checkpoint = directory.recover()
    told = tell_notes(directory, 0)
    console.say(f"run directory: {directory.path}")
    for said in remarks(settings):
        errors.say(f"note: {said}")
    with RunProgress(console, settings.server.rounds, checkpoint.round if checkpoint else 0) as progress:
        result = run(directory, launch, progress.on_round)
    console.print(summary_table(result.summary))
    with console.status("writing the report ..."):
        try:
            page = result.report()
        except UserError as error:  # the run has ended: nothing of the input was wrong
            raise RunError(str(error)) from error
    console.say(f"report: {page}")
    tell_notes(directory, told)
    return page
