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
    out: Annotated[
        Path, typer.Option(help="File to write (.onnx); with --tiers, the files are named after it.")
    ],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="Format of the file.")
    ] = ExportFormat.onnx,
    width: Annotated[float | None, typer.Option(help="Fraction of the channels; default all.")] = None,
    kernels: Annotated[
        int | None, typer.Option(help="Number of kernels of each dynamic layer; default all.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Number of stages, with their exits; default all.")
    ] = None,
    client: Annotated[int | None, typer.Option(help="With FedBN: the client whose norms to use.")] = None,
    tiers: Annotated[
        bool, typer.Option("--tiers", help="Write every part that the run's devices get.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="Number of test images to check the files with; default all.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for the check.")] = 1,
    table: Annotated[Path | None, typer.Option(help="JSON file to write the table to.")] = None,
) -> None:
    """Export a run's network, or the part that a device gets, as ONNX, and check it against PyTorch.

    Example: `fedfmd export runs/first --width 0.5 --kernels 2 --out phone.onnx`
    """
    from fedfmd.cli.actions.export import export_shown
    from fedfmd.export import Wanted

    del format_  # there is one so far
    wanted = Wanted(width=width, kernels=kernels, depth=depth, client=client, tiers=tiers)
    export_shown(console, run, out, wanted, images=images, threads=threads, table=table)
