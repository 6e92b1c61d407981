"""What ``fedfmd profile`` does once its arguments are read."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from fedfmd.config.sections.model import ModelConfig
from fedfmd.errors import UserError
from fedfmd.files import check_file, write_atomic
from fedfmd.machine.processes import available_cores
from fedfmd.modules import look_in
from fedfmd.profiling.profile import Profile, analyse, measure
from fedfmd.profiling.variants import Task, grid, read_models
from fedfmd.rounds.limits import check_training_memory
from fedfmd.rounds.places import check_places
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.whole import print_whole
from fedfmd.units import column, quantity

DEFAULTS: dict[str, list[Any]] = {
    "names": ["resnet18"],
    "convs": ["static", "fmdconv"],
    "widths": [1.0],
    "kernels": [4],
}
DEFAULT_NORM, DEFAULT_PIXELS, DEFAULT_CLASSES = "bn", 32, 10
IMAGENET_PIXELS = 128
"""From this size on a network takes the stem of ImageNet."""


def profile_models(
    console: PlainConsole,
    file: Path | None,
    options: Mapping[str, Sequence[Any]],
    *,
    norm: str | None,
    image_size: int | None,
    classes: int | None,
    batch_sizes: Sequence[int],
    repeats: int,
    threads: int | None,
    device: str,
    out: Path | None,
    figure: Path | None,
) -> None:
    """Profile the models of a file or of the options' grid, show tables, write what is asked for.

    ``repeats`` = 0 measures nothing. Raises ``UserError`` before any work for everything that is wrong.
    """
    from fedfmd.profiling.view import (
        RATIO,
        batch_table,
        check_figure_name,
        cost_table,
        device_table,
        write_figure,
    )

    check_places("--threads", threads)
    for option, file_ in (("--out", out), ("--figure", figure)):
        if file_ is not None:
            check_file(option, file_)
    if figure is not None:
        check_figure_name(figure)
    place = _device(device)
    if file is None:
        look_in(Path.cwd())  # where --conv my_module:MyConv is, as beside a file
    models, own_task = _models(file, options, norm, image_size or DEFAULT_PIXELS)
    if own_task is not None and (image_size or classes):
        raise UserError(f"{file}: says which images; give no --image-size or --classes with it")
    side = image_size or DEFAULT_PIXELS
    task = Task(input_shape=(3, side, side), num_classes=classes or DEFAULT_CLASSES)
    profile = analyse(models, own_task or task, _sizes(batch_sizes), device=place)
    if repeats:
        _check_memory(profile)
        profile = _measured(profile, console, repeats, threads or available_cores())
    print_whole(console, cost_table(profile), tied=[RATIO])
    print_whole(console, batch_table(profile), names=2, tied=[RATIO])
    print_whole(console, device_table(profile))
    if out is not None:
        document = json.dumps(profile.to_json(), indent=1, allow_nan=False)
        _write(out, lambda: write_atomic(out, document + "\n"))
        console.say(f"profile: {out}")
    if figure is not None:
        _write(figure, lambda: write_figure(profile, figure))
        console.say(f"figure: {figure}")


def calibrate_machine(console: PlainConsole, out: Path, threads: int | None) -> None:
    """Measure this machine's rates, show them, and write what ``devices.calibration`` reads."""
    from fedfmd.profiling.calibrate import calibrate

    check_places("--threads", threads)
    check_file("--calibrate", out)
    with console.status("measuring ..."):
        document = calibrate(threads=threads or available_cores())
    table = Table("operator", Column("GMAC/s in training", justify="right"), title="This machine")
    rates = document["macs_per_second"]
    for row in zip(rates, column(list(rates.values()), 1e-9), strict=True):
        table.add_row(*row)
    console.print(table)
    _write(out, lambda: write_atomic(out, json.dumps(document, indent=1) + "\n"))
    console.say(f"calibration: {out}; name it in a config as devices.calibration")


def make_card(
    console: PlainConsole, path: Path, *, memory_limit: int | None, plug: Path | None, server: str | None
) -> None:
    """Measure this machine's card, or go on with one, and show what it says."""
    from fedfmd.config.sections.devices import is_card
    from fedfmd.machine.cgroups import processors
    from fedfmd.machine.plug import Plug
    from fedfmd.machine.ports import address
    from fedfmd.profiling.card import measure_card

    if not is_card(str(path)):
        raise UserError(f"--device-card {path}: must end in .toml")
    share, log = min(1.0, processors() or 1.0), None if plug is None else Plug(plug, "--plug")
    with console.status("measuring ...") as status:
        card = measure_card(
            path,
            like="laptop",
            memory_limit=memory_limit,
            share=share,
            tell=lambda what: status.update(f"measuring {what} ..."),
            plug=log,
            server=None if server is None else address(server, "--server "),
        )
    table = Table("operator", "shape", Column("GMAC/s", justify="right"), Column("spread", justify="right"))
    rates = column([row["macs_per_second"] for row in card["operators"]], 1e-9)
    for row, rate in zip(card["operators"], rates, strict=True):
        table.add_row(row["kind"], row["shape"], rate, f"{row['spread']:.0%}")
    console.print(table)
    found = card["validation"]
    console.say(
        f"steps of other networks, predicted over measured: median {found['median_ratio']:.2f}, worst "
        f"{found['worst_ratio']:.2f}; start of a process {card['start']['seconds']:.1f} s"
    )
    if link := card.get("link"):
        down, up = (quantity(link[way]["bits_per_second"], "bit/s") for way in ("downlink", "uplink"))
        trip = quantity(link["round_trip_seconds"], "s")
        console.say(f"link to {link['server']}: {down} down, {up} up, round trip {trip}")
    power = card["power"]
    if power["source"] == "none":
        console.say(f"power: not measured: {power['reason']}")
    else:
        watts, idle = quantity(card["device"]["compute_watts"], "W"), quantity(power["idle_watts"], "W")
        console.say(f"power of training: {watts} beyond {idle} at rest ({power['source']})")
    console.say(f'card: {path}; a tier of an experiment takes it with like = "{path}"')


def answer_links(console: PlainConsole, listen: str) -> None:
    """Answer those who measure their link to this machine, until Ctrl-C."""
    from fedfmd.machine.ports import address
    from fedfmd.profiling.link import serve_link, serving

    host, port = address(listen, "--serve-link ")
    with serving(host, port) as listening, suppress(KeyboardInterrupt):
        command = f"fedfmd profile --device-card CARD.toml --server HOST:{port}"
        console.say(f"on the other machine, where HOST is this one: {command}")
        serve_link(listening, console.say)


def _models(
    file: Path | None, options: Mapping[str, Sequence[Any]], norm: str | None, image_size: int
) -> tuple[list[ModelConfig], Task | None]:
    if file is not None:
        if options or norm:
            raise UserError(f"{file}: says which models; give no option for that with it")
        return read_models(file)
    stem = "imagenet" if image_size >= IMAGENET_PIXELS else "cifar"
    norm = norm or DEFAULT_NORM
    attention_norm = "bn" if norm == "bn" else "ln"
    chosen = {**DEFAULTS, **options}
    return grid(**chosen, norm=norm, attention_norm=attention_norm, stem=stem), None


def _check_memory(profile: Profile) -> None:
    """Raise ``UserError`` for a training step that this machine's memory does not hold."""
    if profile.device == "cpu":
        for batch in (batch for model in profile.models for batch in model.batches):
            check_training_memory(batch.estimated_training_bytes, "--batch", batch.batch_size)


def _measured(profile: Profile, console: PlainConsole, repeats: int, threads: int) -> Profile:
    with console.status("measuring ...") as status:
        return measure(
            profile,
            repeats=repeats,
            threads=threads,
            tell=lambda what: status.update(f"measuring {what} ..."),
        )


def _sizes(batch_sizes: Sequence[int]) -> list[int]:
    for size in batch_sizes:
        if size < 1:
            raise UserError(f"--batch {size}: must be at least 1")
    return sorted(set(batch_sizes))


def _device(name: str) -> str:
    cuda = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: allowed: auto, cpu, cuda")
    if name == "cuda" and not cuda:
        raise UserError("--device cuda: this machine has no usable GPU; allowed here: auto, cpu")
    return "cuda" if cuda and name == "auto" else name.replace("auto", "cpu")


def _write(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
