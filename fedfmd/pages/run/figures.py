"""The printed figures of runs: PDF, SVG and PNG, readable without colour."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
)
from numpy.typing import NDArray

from fedfmd.files import make_folder
from fedfmd.pages.palette import COLOURS
from fedfmd.pages.paper import (
    COLUMN_INCHES,
    HATCHES,
    PAGE_INCHES,
    draw_chance,
    legend_above,
    legend_name,
    line_style,
    named,
    paper_style,
    round_ticks,
    save_figure,
    unit_axis,
)
from fedfmd.pages.run.budgets import PlanCounts, plan_counts
from fedfmd.pages.run.dynamics import dynamics_picture
from fedfmd.pages.run.payload import unique_labels
from fedfmd.pages.training import TrainRun
from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number, one_line
from fedfmd.results.costs import AXES, Axis, used_axes
from fedfmd.results.runs import Run
from fedfmd.results.summary import chance_level, client_totals, common_chance, compare, measured_on
from fedfmd.units import SHARE, rate

MOST_BARS = 60
"""More bars stand so close that nobody sees a gap between them."""
MOST_CLASSES = 20
"""Named; of more, numbers are marked."""
LONGEST_CLASS = 18
MOST_STEPS = 2000
"""More are narrower than a dot of a printed page, and a hundred thousand make an SVG of 40 MB."""
OUTCOMES = (("completed", 0, ""), ("partial", 5, ".."), ("dropped", 6, "//"), ("failed", 1, "xx"))
"""What became of clients, the number of its colour, and its pattern."""
ACCURACY = {"test set": "Test accuracy", "clients": "Accuracy on clients' images", "both": "Accuracy"}
"""What an accuracy is called, by whose images it is a fraction of."""
COLUMN_SIZE, PAGE_SIZE = (COLUMN_INCHES, 2.3), (PAGE_INCHES, 2.6)


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw every figure that the runs have data for; returns the files written.

    Several runs share one figure of accuracy, loss and efficiency each; clients, partition and rounds are
    drawn for the first of them only when it is alone.
    """
    make_folder(folder)
    written: list[Path] = []
    with paper_style():
        for name, figure in _figures(runs, unique_labels(runs)):
            written += save_figure(figure, folder / name)
    return written


def write_training_figures(runs: Sequence[TrainRun], folder: Path) -> list[Path]:
    """Draw accuracy and loss of centralised runs by epoch; returns the files written."""
    make_folder(folder)
    written: list[Path] = []
    with paper_style():
        for name, key, label in (("accuracy", "top1", "Test accuracy"), ("loss", "test_loss", "Test loss")):
            written += save_figure(_epochs(runs, key, label), folder / f"{name}_by_epoch")
    return written


def _epochs(runs: Sequence[TrainRun], key: str, label: str) -> Figure:
    figure, plot = _plot()
    for i, (run, name) in enumerate(zip(runs, unique_labels(runs), strict=True)):
        points = [(row.epoch, y) for row in run.epochs if (y := getattr(row, key)) is not None]
        _line(plot, [x for x, _ in points], [y for _, y in points], i, name)
    chance = {}
    if key == "top1":
        unit_axis(plot, label, SHARE, axis="y")
        chance = draw_chance([plot], common_chance(run.chance for run in runs))
    plot.set(xlabel="Epoch", ylabel=label)
    plot.xaxis.set_major_locator(round_ticks(6, whole=True))
    legend_above(figure, named(plot) | chance)
    return figure


def _figures(runs: Sequence[Run], labels: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    axes = used_axes(runs)
    if not any(run.rounds for run in runs):
        return
    for axis in axes:
        yield f"accuracy_by_{axis.key}", _accuracy(runs, labels, axis)
        if len(runs) > 1:
            yield f"pareto_{axis.key}", _pareto(runs, labels, axis)
    yield "loss", _loss(runs, labels)
    for axis in axes:
        if axis.rated:
            yield f"efficiency_{axis.key}", _efficiency(runs, labels, axis)
    if len(runs) == 1:
        yield from _single(runs[0])


def _single(run: Run) -> Iterator[tuple[str, Figure]]:
    if run.clients:
        yield "clients", _clients(run)
    if plans := plan_counts(run):
        yield "plans", _plans(plans)
    if picture := dynamics_picture(run):
        yield "diagnostics", _dynamics(picture)
    if run.partition.label_counts:
        yield "partition", _partition(run)
    if len(run.rounds) > 1:
        yield "rounds", _rounds(run)


def _plot(size: tuple[float, float] = COLUMN_SIZE, panels: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=size)
    return figure, figure.subplots(1, panels)


def _curve(run: Run, axis: Axis, value: Callable[[RoundRow], Number]) -> tuple[list[float], list[float]]:
    points = [(axis.total(row), value(row)) for row in run.rounds]
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


def _line(plot: Any, xs: Sequence[float], ys: Sequence[float], index: int, label: str) -> None:
    plot.plot(
        xs,
        ys,
        markevery=max(1, len(xs) // 8),
        label=legend_name(label),
        **line_style(index),
    )


def _cost_axis(plot: Any, axis: Axis) -> None:
    label = "Round" if axis.key == "round" else f"Cumulative {axis.in_text}"
    plot.set_xlabel(unit_axis(plot, label, axis.unit, whole=axis.key == "round"))


def _accuracy(runs: Sequence[Run], labels: Sequence[str], axis: Axis) -> Figure:
    figure, plot = _plot()
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        _line(plot, *_curve(run, axis, lambda row: row.accuracy), i, label if len(runs) > 1 else "Top-1")
    if len(runs) == 1 and any((row.top5 or 1) < 1 for row in runs[0].rounds):
        _line(plot, *_curve(runs[0], axis, lambda row: row.top5), 1, "Top-5")
    plot.set_ylabel(unit_axis(plot, ACCURACY[measured_on(runs)], SHARE, axis="y"))
    _cost_axis(plot, axis)
    legend_above(figure, named(plot) | draw_chance([plot], chance_level(runs)))
    return figure


def _loss(runs: Sequence[Run], labels: Sequence[str]) -> Figure:
    axis = AXES[0]
    figure, plot = _plot()
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        _line(plot, *_curve(run, axis, lambda row: row.test_loss), i, label if len(runs) > 1 else "Test")
    if len(runs) == 1:
        _line(plot, *_curve(runs[0], axis, lambda row: row.train_loss), 1, "Training")
    top = max((y for line in plot.lines for y in np.atleast_1d(line.get_ydata())), default=1.0)
    plot.set_ylim(0, 1.05 * top)
    plot.set_ylabel("Cross-entropy loss")
    _cost_axis(plot, axis)
    legend_above(figure, named(plot))
    return figure


def _efficiency(runs: Sequence[Run], labels: Sequence[str], axis: Axis) -> Figure:
    rounds = AXES[0]
    figure, plots = _plot(PAGE_SIZE, 2)
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        _line(plots[0], *_curve(run, rounds, lambda row: row.ies.get(axis.key)), i, label)
        _line(plots[1], *_curve(run, rounds, lambda row: row.rcs.get(axis.key)), i, label)
    plots[0].set_ylabel(unit_axis(plots[0], f"IES: {axis.label} per accuracy", axis.unit, axis="y"))
    plots[1].set_ylabel("RCS: correct answers per cost")
    plots[1].set_yscale("log")
    plots[1].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    plots[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value, axis.unit)))
    plots[1].yaxis.set_minor_formatter(NullFormatter())
    for plot in plots:
        _cost_axis(plot, rounds)
    if len(runs) > 1:
        legend_above(figure, named(plots[0]))
    return figure


def _pareto(runs: Sequence[Run], labels: Sequence[str], axis: Axis) -> Figure:
    rows = compare(runs, axis).rows
    figure, plot = _plot()
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        plot.scatter(
            [row.cost if row.cost is not None else np.nan],
            [row.final_top1 if row.final_top1 is not None else np.nan],
            s=44 if row.on_front else 20,
            color=line_style(i)["color"],
            marker=line_style(i)["marker"],
            label=legend_name(label),
            zorder=3,
        )
    front = sorted((r.cost or 0.0, r.final_top1 or 0.0) for r in rows if r.on_front)
    plot.step(*zip(*front, strict=True), where="post", color="#777777", linestyle=":") if front else None
    plot.set_ylabel(unit_axis(plot, f"Final {ACCURACY[measured_on(runs)].lower()}", SHARE, axis="y"))
    _cost_axis(plot, axis)
    legend_above(figure, named(plot) | draw_chance([plot], chance_level(runs)))
    return figure


def _clients(run: Run) -> Figure:
    totals = sorted(client_totals(run), key=lambda total: -total.macs)
    ranks = range(1, len(totals) + 1)
    figure, plots = _plot(PAGE_SIZE, 2)
    for plot, whole, lost, label, unit in (
        (plots[0], [t.macs for t in totals], [t.wasted_macs for t in totals], "Training compute", "MAC"),
        (plots[1], [t.bytes for t in totals], [t.wasted_bytes for t in totals], "Bytes up and down", "B"),
    ):
        used = Layer("used", np.subtract(whole, lost), COLOURS[0])
        wasted = Layer("wasted", np.array(lost), COLOURS[1], "//////")
        _stack(plot, ranks, [used, *([wasted] if any(lost) else [])])
        plot.set_ylabel(unit_axis(plot, label, unit, axis="y"))
        plot.set_xlabel(f"Clients, from the most to the least computing{_means(len(totals))}")
    legend_above(figure, named(plots[0]))
    return figure


class Layer(NamedTuple):
    """What is stacked on the layers before it: a value for each place, its colour and its pattern."""

    label: str
    values: NDArray[Any]
    colour: str
    hatch: str = ""


def _stack(plot: Any, places: Sequence[int], layers: Sequence[Layer]) -> None:
    """Draw stacked bars at whole numbers in a row; where they are many, each layer as one outline.

    A bar is an object that matplotlib lays out and draws in every format: a thousand take a minute. Of more
    than ``MOST_STEPS``, neighbours stand together with their mean, as ``_means`` says on the axis.
    """
    together = _together(len(places))
    starts = np.arange(0, len(places), together)
    edges = np.append(np.asarray(places)[starts], places[-1] + 1) - 0.5
    sizes = np.diff(np.append(starts, len(places)))
    base = np.zeros(len(starts))
    for label, all_values, colour, hatch in layers:
        look: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "label": label}
        values = np.add.reduceat(all_values, starts) / sizes
        if len(places) > MOST_BARS:
            tops, bottoms = base + values, cast(Any, base)
            _outline(plot, StepPatch(tops, edges, baseline=bottoms, fill=True, linewidth=0, **look))
        else:
            plot.bar(places, values, bottom=base, width=0.85, **look)
        base = base + values


def _together(count: int) -> int:
    """Return how many neighbours of ``count`` places stand together as one step."""
    return -(-count // MOST_STEPS)


def _means(count: int) -> str:
    """Return what an axis of ``count`` places says of its steps; nothing where each place has its own."""
    return f" (means of {_together(count)})" if count > MOST_STEPS else ""


def _outline(plot: Any, steps: StepPatch) -> None:
    """Add an outline of bars that stand on zero; ``stairs`` would look for its limits corner by corner."""
    heights, edges, _ = steps.get_data()
    steps.sticky_edges.y.append(0)
    plot.add_artist(steps)
    plot.update_datalim([(edges[0], 0), (edges[-1], heights.max())])
    plot.autoscale_view()


def _plans(plans: PlanCounts) -> Figure:
    figure, plot = _plot(PAGE_SIZE)
    base = np.zeros(len(plans.groups))
    for i, plan in enumerate(plans.plans):
        values = np.array([counts[i] for counts in plans.counts])
        colour, hatch = COLOURS[i % len(COLOURS)], HATCHES[i % len(HATCHES)]
        plot.bar(plans.groups, values, bottom=base, color=colour, hatch=hatch, label=plan)
        base += values
    plot.set_ylabel("Clients asked, over all rounds")
    legend_above(figure, named(plot))
    return figure


def _dynamics(picture: dict[str, Any]) -> Figure:
    """Entropy by layer and round as shades; the cosines of all layers, and their mean, as lines."""
    rounds = picture["rounds"]
    figure, plots = _plot(PAGE_SIZE, 2)
    shades = np.array(picture["entropy"], dtype=float)
    image = plots[0].imshow(shades, aspect="auto", cmap="Blues", interpolation="nearest")
    plots[0].grid(False)
    plots[0].set_yticks(range(len(picture["layers"])), picture["layers"], fontsize=5)
    name = FuncFormatter(lambda i, _: str(rounds[int(i)]) if 0 <= i < len(rounds) else "")
    plots[0].xaxis.set_major_formatter(name)
    figure.colorbar(image, ax=plots[0], pad=0.01, label="Entropy / log K").outline.set_visible(False)
    cosines = np.ma.masked_invalid(np.array(picture["cosine"], dtype=float))
    plots[1].plot(rounds, cosines.T, color="#aaaaaa", linewidth=0.6)
    _line(plots[1], rounds, cosines.mean(axis=0), 0, "mean of the layers")
    plots[1].set_ylabel("Mean cosine of kernel updates")
    legend_above(figure, named(plots[1]))
    for plot in plots:
        plot.set_xlabel("Round")
        plot.xaxis.set_major_locator(round_ticks(6, whole=True))
    return figure


def _partition(run: Run) -> Figure:
    counts = np.asarray(run.partition.label_counts).T
    figure, plot = _plot(PAGE_SIZE)
    image = plot.imshow(np.sqrt(counts), aspect="auto", cmap="Blues", interpolation="nearest")
    plot.grid(False)
    plot.set_xlabel("Client")
    plot.set_ylabel("Class")
    names = [one_line(name, LONGEST_CLASS) for name in run.partition.class_names]
    if len(names) == len(counts) <= MOST_CLASSES:
        plot.set_yticks(range(len(names)), names)
    else:
        plot.yaxis.set_major_locator(round_ticks(10, whole=True))
    bar = figure.colorbar(image, ax=plot, pad=0.01, label="Training images")
    marked = _round_counts(int(counts.max()))
    bar.set_ticks(np.sqrt(marked).tolist(), labels=[f"{n:,}" for n in marked])
    bar.outline.set_visible(False)
    return figure


def _round_counts(most: int) -> list[int]:
    """Return round numbers up to ``most`` that stand apart on an axis of square roots."""
    series = [digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)]
    return [0, *(n for n in series if most / 50 <= n <= most)]


def _rounds(run: Run) -> Figure:
    rows = [row for row in run.rounds if row.round > 0]
    numbers = [row.round for row in rows]
    figure, plots = _plot(PAGE_SIZE, 2)
    _stack(plots[0], numbers, [Layer("", np.array([row.host_seconds or 0 for row in rows]), COLOURS[0])])
    plots[0].set_ylabel(unit_axis(plots[0], "Measured time of a round", "s", axis="y"))
    layers = [
        Layer(kind, np.array([getattr(row, kind) or 0 for row in rows]), COLOURS[colour], hatch)
        for kind, colour, hatch in OUTCOMES
        if any(getattr(row, kind) for row in rows)
    ]
    _stack(plots[1], numbers, layers)
    plots[1].set_ylabel(unit_axis(plots[1], "Clients", "", axis="y", whole=True))
    legend_above(figure, named(plots[1]))
    for plot in plots:
        plot.set_xlabel(f"Round{_means(len(rows))}")
        plot.xaxis.set_major_locator(round_ticks(6, whole=True))
    return figure
