"""``fedfmd plan``: what a run or a study will do and cost."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.command import Set
from fedfmd.cli.voice import console


def plan(
    config: Annotated[Path, typer.Argument(help="Experiment or study file (TOML).")],
    set_: Set = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="COST=NUMBER",
            help="Say how many rounds a total of `macs`, `bytes`, `device_seconds` or `energy_joules` "
            "allows.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Time a few training steps, or leave out the time on this machine.")
    ] = True,
) -> None:
    """Forecast a run or study: what each tier can afford, what each policy gives, and what it will cost.

    Example: `fedfmd plan configs/quickstart.toml --set budget.macs_fraction=0.3 --until macs=100e9`
    """
    from fedfmd.cli.actions.plan import plan_shown

    plan_shown(console, config, set_ or [], until, measure)
