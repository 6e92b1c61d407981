"""``fedfmd study``: a grid of experiments with seeds, compared."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.command import Open, Quiet, Set
from fedfmd.cli.voice import INTERRUPTED, conclude, console, speak


def study(
    config: Annotated[Path | None, typer.Argument(help="Study file (TOML).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default studies/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the study in this folder.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of runs at the same time; default one per core or GPU.")
    ] = None,
    set_: Set = None,
    quiet: Quiet = False,
    open_: Open = False,
) -> None:
    """Run a grid of experiments over several seeds, compare them at equal cost, and write the report.

    Started again, it keeps finished runs and continues interrupted ones.

    Example: `fedfmd study configs/study-kernels.toml --set seeds=[0] --set server.rounds=2`
    """
    from fedfmd.cli.actions.study import study_shown

    speak(quiet, verbose=False)
    try:
        page = study_shown(console, config, out, resume, jobs, set_ or [])
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    conclude(page.parent, page if open_ else None)
