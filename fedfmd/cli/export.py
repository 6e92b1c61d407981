"""``fedfmd export``: a trained network as a file for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.voice import console


class ExportFormat(StrEnum):
    """What a network can be exported to."""

    onnx = "onnx"


def export(
    run: Annotated[Path, typer.Argument(help="Finished run, or a model file.")],
    out: Annotated[Path, typer.Option(help="File to write, .onnx; parts of tiers are named after it.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.onnx,
    width: Annotated[float | None, typer.Option(help="Share of the channels; default all.")] = None,
    kernels: Annotated[int | None, typer.Option(help="Kernels of a dynamic layer; default all.")] = None,
    depth: Annotated[int | None, typer.Option(help="First stages, with their exits; default all.")] = None,
    client: Annotated[
        int | None, typer.Option(help="Client whose own norms to take, where they stay on clients.")
    ] = None,
    tiers: Annotated[bool, typer.Option("--tiers", help="Every part that the run's devices get.")] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images to try the files on; default all.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads while trying.")] = 1,
    table: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
) -> None:
    """Write a run's network, or the part that a device gets, as ONNX, and try it against PyTorch.

    Example: `fedfmd export runs/first --width 0.5 --kernels 2 --out phone.onnx`
    """
    from fedfmd.cli.actions.export import export_shown
    from fedfmd.export import Wanted

    del format_  # there is one so far
    wanted = Wanted(width=width, kernels=kernels, depth=depth, client=client, tiers=tiers)
    export_shown(console, run, out, wanted, images=images, threads=threads, table=table)
