"""A profile to look at: tables for the terminal, a figure for print."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.pages.palette import COLOURS
from fedfmd.pages.paper import HATCHES, STYLE
from fedfmd.profiling.profile import ModelProfile, Profile, ratio
from fedfmd.units import ABSENT, column, counted, decimals, number

FORMATS = (".png", ".svg", ".pdf")
UNREPEATABLE = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
"""What each format would say of the moment or the program, so that the same figure had other bytes."""
RATIO = "x"
"""Heading of a column of ratios to the static network, of the figures on its left."""
SHOWN_KINDS = {"conv": "conv", "aggregation": "mixing", "attention": "attn"}
"""Kinds of MACs, and what their columns are called."""


def cost_table(profile: Profile) -> Table:
    """Lay out what follows from the layers: parameters, MACs by kind, bytes."""
    shape = " x ".join(map(str, profile.task.input_shape))
    models, bases = profile.models, [profile.baseline_of(own) for own in profile.models]
    parameters, macs = ([getattr(p.cost, name) for p in models] for name in ("parameters", "forward_macs"))
    kinds = [[getattr(p.cost.macs_by_kind, kind) for p in models] for kind in SHOWN_KINDS]
    return _table(
        title=f"Cost of one image, {shape}, {profile.task.num_classes} classes",
        caption="M = million; MACs of a forward pass; MB each way, float32; x: ratio to the static network",
        columns=[
            ("model", [p.label for p in models]),
            ("params M", column(parameters, 1e-6)),
            (RATIO, _ratios(parameters, [base.cost.parameters for base in bases])),
            ("MACs M", column(macs, 1e-6)),
            (RATIO, _ratios(macs, [base.cost.forward_macs for base in bases])),
            *((name, column(found, 1e-6)) for name, found in zip(SHOWN_KINDS.values(), kinds, strict=True)),
            ("MB", column([p.payload_bytes for p in models], 1e-6)),
        ],
    )


def batch_table(profile: Profile) -> Table:
    """Lay out memory and seconds by batch size, measured beside estimated."""
    how = (
        f"{profile.device}, {profile.threads} threads; median of {profile.repeats} interleaved turns after a "
        "warm-up; x: ratio to the static network"
        if profile.repeats
        else f"{profile.device}; nothing was measured"
    )
    rows = [
        (own.label, batch, base)
        for own in profile.models
        for batch, base in zip(own.batches, profile.baseline_of(own).batches, strict=True)
    ]
    batches, bases = [batch for _, batch, _ in rows], [base for *_, base in rows]
    steps, inferences = (
        ([getattr(b, name) for b in batches], [getattr(b, name) for b in bases])
        for name in ("train_step_seconds", "inference_seconds")
    )
    return _table(
        title="Training memory and seconds of a batch",
        caption=how,
        columns=[
            ("model", [name for name, *_ in rows]),
            ("batch", [str(batch.batch_size) for batch in batches]),
            ("MB est.", column([batch.estimated_training_bytes for batch in batches], 1e-6)),
            ("MB meas.", column([batch.measured_training_bytes for batch in batches], 1e-6)),
            ("step ms", column(steps[0], 1e3)),
            (RATIO, _ratios(*steps)),
            ("infer ms", column(inferences[0], 1e3)),
            (RATIO, _ratios(*inferences)),
        ],
    )


def device_table(profile: Profile) -> Table:
    """Lay out the seconds that the built-in devices would take for the largest batch, and for an exchange.

    Round figures by round figures: two significant digits each, from milliseconds to minutes in one column.
    """
    size = profile.models[0].batches[-1].batch_size
    found = [(own.label, own.device_seconds(size)) for own in profile.models]
    return _table(
        title=f"Predicted seconds of a training step of {size} images, and of one exchange of the model",
        caption="by the device profiles' round figures; fedfmd profile --calibrate measures this machine",
        columns=[
            ("model", [f"{name}, {what}" for name, _ in found for what in ("step", "exchange")]),
            *(
                (device.replace("-", "\n"), [number(s, 2) for _, seconds in found for s in seconds[device]])
                for device in found[0][1]
            ),
        ],
    )


def write_figure(profile: Profile, path: Path) -> None:
    """Draw the profile as bars, PNG, SVG or PDF by the name of ``path``."""
    check_figure_name(path)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = _figure(profile)
        image = io.BytesIO()
        metadata: Any = {UNREPEATABLE[path.suffix]: None}
        figure.savefig(image, format=path.suffix[1:], dpi=300, metadata=metadata)
    write_atomic(path, image.getvalue())


def check_figure_name(path: Path) -> None:
    """Raise ``UserError`` for a name whose format cannot be drawn."""
    if path.suffix not in FORMATS:
        raise UserError(f"--figure {path}: must end in one of {', '.join(FORMATS)}")


def _figure(profile: Profile) -> Figure:
    models = profile.models
    measured = profile.repeats > 0
    panels = 4 if measured else 3
    figure = Figure(figsize=(2.2 * panels, 0.9 + 0.32 * len(models)))
    plots = figure.subplots(1, panels, sharey=True)
    _stack(plots[0], "Parameters (M)", {"": [p.cost.parameters / 1e6 for p in models]})
    _stack(plots[1], "Forward MACs (M)", _macs_by_kind(models))
    size = models[0].batches[-1].batch_size
    memory = {"estimated": [p.batches[-1].estimated_training_bytes / 1e6 for p in models]}
    if measured:
        memory["measured"] = [(p.batches[-1].measured_training_bytes or 0) / 1e6 for p in models]
        steps = {"training step": [1e3 * (p.batches[-1].train_step_seconds or 0) for p in models]}
        steps["inference"] = [1e3 * (p.batches[-1].inference_seconds or 0) for p in models]
        _side_by_side(plots[3], f"Time (ms) at batch {size},\n{counted(profile.threads, 'thread')}", steps)
    _side_by_side(plots[2], f"Training memory (MB)\nat batch {size}", memory)
    plots[0].set_yticks(range(len(models)), [p.label for p in models])
    plots[0].invert_yaxis()
    return figure


def _macs_by_kind(models: Sequence[ModelProfile]) -> dict[str, list[float]]:
    kinds = {"convolution": "conv", "mixing": "aggregation", "attention": "attention", "linear": "linear"}
    return {
        name: [getattr(p.cost.macs_by_kind, field) / 1e6 for p in models] for name, field in kinds.items()
    }


def _stack(plot: Any, title: str, parts: dict[str, list[float]]) -> None:
    left = [0.0] * len(next(iter(parts.values())))
    for i, (name, values) in enumerate(parts.items()):
        plot.barh(range(len(values)), values, left=left, color=COLOURS[i], hatch=HATCHES[i], label=name)
        left = [a + b for a, b in zip(left, values, strict=True)]
    _finish(plot, title, legend=len(parts) > 1)


def _side_by_side(plot: Any, title: str, parts: dict[str, list[float]]) -> None:
    height = 0.8 / len(parts)
    for i, (name, values) in enumerate(parts.items()):
        places = [y - 0.4 + height * (i + 0.5) for y in range(len(values))]
        plot.barh(places, values, height, color=COLOURS[i], hatch=HATCHES[i], label=name)
    _finish(plot, title, legend=True)


def _finish(plot: Any, title: str, *, legend: bool) -> None:
    plot.set_xlabel(title)
    if legend:
        plot.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=7, handlelength=1.2)


def _table(title: str, caption: str, columns: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """Return a table of columns, each with its head; figures stand to the right of the first one's names."""
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for place, (heading, _) in enumerate(columns):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    return table


def _ratios(values: Sequence[float | None], bases: Sequence[float | None]) -> list[str]:
    found = map(ratio, values, bases)
    return [ABSENT if relative is None else decimals(relative, 2) for relative in found]
