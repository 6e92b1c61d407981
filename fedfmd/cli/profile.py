"""``fedfmd profile``: what models cost, and what this machine is."""

from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from fedfmd.cli.voice import console
from fedfmd.errors import UserError


def profile(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="Experiment (its model is profiled), or a file with [[models]] (TOML)."),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Network; repeatable; default resnet18.")] = None,
    conv: Annotated[
        list[str] | None, typer.Option(help="Convolution; repeatable; default static and fmdconv.")
    ] = None,
    width: Annotated[
        list[float] | None, typer.Option(help="Width multiplier of the channels; repeatable.")
    ] = None,
    kernels: Annotated[
        list[int] | None, typer.Option(help="Number of kernels K; repeatable; default 4.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Norm layer; default bn.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8, max=512, help="Image side in pixels; default 32; 128 or more uses the ImageNet stem."
        ),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="Number of classes; default 10.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeatable; default 32.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure seconds and memory, or only count.")] = True,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of interleaved repeats; their median is reported.")
    ] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch threads; default all cores.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    figure: Annotated[Path | None, typer.Option(help="File of a figure (.png, .svg or .pdf).")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Only measure this machine's MAC/s and write them to this JSON file.")
    ] = None,
    device_card: Annotated[
        Path | None,
        typer.Option(help="Only measure this machine and write, or complete, this device card (.toml)."),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Upper limit of the card's memory search, such as 768m or 2g; default 4 GB."
        ),
    ] = None,
    plug: Annotated[
        Path | None,
        typer.Option(
            help="With --device-card: CSV log of a metering plug, still being written, for the power."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="With --device-card: a machine that runs --serve-link, to measure the link to.",
        ),
    ] = None,
    serve_link: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Only answer link measurements of other machines, until Ctrl-C."
        ),
    ] = None,
) -> None:
    """Compare what models cost: parameters, MACs, bytes, memory and seconds.

    Example: `fedfmd profile --conv fmdconv --conv odconv --kernels 1 --kernels 4 --no-measure`
    """
    from fedfmd.cli.actions.profile import answer_links, calibrate_machine, make_card, profile_models
    from fedfmd.units import memory_size

    if serve_link is not None:
        _given_alone(context, "--serve-link")
        answer_links(console, serve_link)
        return
    if device_card is not None:
        _given_alone(context, "--device-card", "memory_limit", "plug", "server")
        limit = None if memory_limit is None else memory_size(memory_limit, "--memory-limit", 100 << 20)
        make_card(console, device_card, memory_limit=limit, plug=plug, server=server)
        return
    for option, value in (("--plug", plug), ("--server", server), ("--memory-limit", memory_limit)):
        if value is not None:
            raise UserError(f"{option}: counts only with --device-card")
    if calibrate is not None:
        _given_alone(context, "--calibrate", "threads")
        calibrate_machine(console, calibrate, threads)
        return
    for idle in [] if measure else ["repeats", "threads"]:
        if _given(context, idle):
            raise UserError(f"--{idle}: counts only with --measure; leave it out")
    options = {"names": name, "convs": conv, "widths": width, "kernels": kernels}
    profile_models(
        console,
        file,
        {key: values for key, values in options.items() if values},
        norm=norm,
        image_size=image_size,
        classes=classes,
        batch_sizes=batch or [32],
        repeats=repeats if measure else 0,
        threads=threads,
        device=device,
        out=out,
        figure=figure,
    )


def _given(context: typer.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _given_alone(context: typer.Context, option: str, *beside: str) -> None:
    """Raise ``UserError`` for what is given together with an option that does something else."""
    own = option.removeprefix("--").replace("-", "_")
    for name in context.params:
        if _given(context, name) and name not in (own, *beside):
            shown = name.upper() if name == "file" else f"--{name.replace('_', '-')}"
            raise UserError(f"{shown}: cannot be given with {option}; leave one of them out")
