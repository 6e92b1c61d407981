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
from fedfmd.profiling.profile import BatchProfile, ModelProfile, Profile, ratio
from fedfmd.units import number

FORMATS = (".png", ".svg")


def cost_table(profile: Profile) -> Table:
    """Lay out what follows from the layers: parameters, MACs by kind, bytes."""
    shape = " x ".join(map(str, profile.task.input_shape))
    table = Table(
        title=f"Cost of one image, {shape}, {profile.task.num_classes} classes",
        caption="M = million; MACs of a forward pass; MB each way, float32; x: ratio to the static network",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    _columns(table, "params M", "x", "MACs M", "x", "conv", "mixing", "attn", "MB")
    for own in profile.models:
        base, kinds = profile.baseline_of(own), own.cost.macs_by_kind
        table.add_row(
            own.label,
            _figure_text(own.cost.parameters, 1e-6),
            _ratio_text(own.cost.parameters, base.cost.parameters),
            _figure_text(own.cost.forward_macs, 1e-6),
            _ratio_text(own.cost.forward_macs, base.cost.forward_macs),
            *(_figure_text(macs, 1e-6) for macs in (kinds.conv, kinds.aggregation, kinds.attention)),
            _figure_text(own.payload_bytes, 1e-6),
        )
    return table


def batch_table(profile: Profile) -> Table:
    """Lay out memory and seconds by batch size, measured beside estimated."""
    how = (
        f"{profile.device}, {profile.threads} threads; median of {profile.repeats} interleaved turns after a "
        "warm-up; x: ratio to the static network"
        if profile.repeats
        else f"{profile.device}; nothing was measured"
    )
    table = Table(
        title="Training memory and seconds of a batch",
        caption=how,
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    _columns(table, "batch", "MB est.", "MB meas.", "step ms", "x", "infer ms", "x")
    for own in profile.models:
        for batch, base in zip(own.batches, profile.baseline_of(own).batches, strict=True):
            table.add_row(own.label, *_batch_row(batch, base))
    return table


def device_table(profile: Profile) -> Table:
    """Lay out the seconds that the built-in devices would take for the largest batch, and for an exchange."""
    size = profile.models[0].batches[-1].batch_size
    table = Table(
        title=f"Predicted seconds of a training step of {size} images, and of one exchange of the model",
        caption="by the device profiles' round figures; fedfmd profile --calibrate measures this machine",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    _columns(table, *(name.replace("-", "\n") for name in profile.models[0].device_seconds(size)))
    for own in profile.models:
        steps, exchanges = zip(*own.device_seconds(size).values(), strict=True)
        table.add_row(f"{own.label}, step", *(number(seconds) for seconds in steps))
        table.add_row(f"{own.label}, exchange", *(number(seconds) for seconds in exchanges))
    return table


def write_figure(profile: Profile, path: Path) -> None:
    """Draw the profile as bars, PNG or SVG by the name of ``path``."""
    check_figure_name(path)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = _figure(profile)
        image = io.BytesIO()
        metadata: Any = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(image, format=path.suffix[1:], dpi=300, metadata=metadata)
    write_atomic(path, image.getvalue())


def check_figure_name(path: Path) -> None:
    """Raise ``UserError`` for a name whose format cannot be drawn."""
    if path.suffix not in FORMATS:
        raise UserError(f"--figure {path}: must end in {' or '.join(FORMATS)}")


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
        _side_by_side(plots[3], f"ms at batch {size}, {profile.threads} threads", steps)
    _side_by_side(plots[2], f"Training MB at batch {size}", memory)
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
        plot.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=6, handlelength=1.2)


def _columns(table: Table, *headings: str) -> None:
    table.add_column("model", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _batch_row(batch: BatchProfile, base: BatchProfile) -> tuple[str, ...]:
    return (
        str(batch.batch_size),
        _figure_text(batch.estimated_training_bytes, 1e-6),
        _figure_text(batch.measured_training_bytes, 1e-6),
        _figure_text(batch.train_step_seconds, 1e3),
        _ratio_text(batch.train_step_seconds, base.train_step_seconds),
        _figure_text(batch.inference_seconds, 1e3),
        _ratio_text(batch.inference_seconds, base.inference_seconds),
    )


def _figure_text(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:.4g}"


def _ratio_text(value: float | None, base: float | None) -> str:
    relative = ratio(value, base)
    return "-" if relative is None else f"{relative:.2f}"
