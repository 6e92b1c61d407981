"""``fedfmd approve``: modules that a run made elsewhere may run here."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.voice import console


def approve(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs, studies' folders or model files.", metavar="RUN...")
    ],
) -> None:
    """Let runs that were made elsewhere use the modules of their own that they name: look at these first.

    What you have run here yourself needs no approval.

    Example: `fedfmd approve runs/theirs`
    """
    from fedfmd.cli.actions.approve import approve_shown

    approve_shown(console, runs)
