"""``fedfmd report``: the page of a run, or of several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.command import Open
from fedfmd.cli.voice import conclude, console


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="DIR[=NAME]...", help="Run directories, each with an optional display name."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default the first run's.")] = None,
    open_: Open = False,
) -> None:
    """Write a report of one or more runs: a self-contained HTML page, figures and tables.

    Example: `fedfmd report runs/first=FMDConv runs/static=Static --out runs/comparison`
    """
    from fedfmd.pages.report import write_report

    named = dict(_named(run) for run in runs)
    labels = {folder: name for folder, name in named.items() if name}
    page = write_report(list(named), out, labels=labels)
    console.say(f"report: {page}")
    conclude(page.parent, page if open_ else None)


def _named(text: str) -> tuple[Path, str]:
    """Read DIR=NAME; a folder may have an equals sign in its own name."""
    folder, _, name = text.rpartition("=")
    return (Path(folder), name) if folder and not Path(text).exists() else (Path(text), "")
