"""``fedfmd runs``, ``compare`` and ``watch``: what there is, what tells it apart, and how it goes on."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.voice import console

Json_ = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="Runs, studies, or folders of them; default runs/ and studies/."
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="Field or config key to sort by; a leading - sorts in descending order.")
    ] = "-changed",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="List only runs with this value; repeatable."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Config key to show; repeatable; default those that differ.")
    ] = None,
    as_json: Json_ = False,
) -> None:
    """List runs and studies: status, accuracy, costs, and the config keys that differ.

    Example: `fedfmd runs --where model.conv=fmdconv --sort -top1`
    """
    from fedfmd.cli.actions.runs import list_runs

    list_runs(console, folders or [], sort=sort, where=where or [], keys=key or [], as_json=as_json)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="Run directories.")],
    as_json: Json_ = False,
) -> None:
    """Show how runs differ in config, code and data, and their results side by side.

    Example: `fedfmd compare runs/static runs/fmdconv`
    """
    from fedfmd.cli.actions.runs import show_comparison

    show_comparison(console, folders, as_json=as_json)


def watch(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="Runs, studies, or folders of them; default runs/ and studies/."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 makes the pages visible to other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8008,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve live reports of runs and studies to a browser.

    Example: `fedfmd watch runs/my-study --open`
    """
    from fedfmd.cli.actions.runs import watch_runs

    watch_runs(console, folders or [], host, port, open_page=open_)
