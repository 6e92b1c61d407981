"""The figures of a study for print: PNG and SVG, told apart by dash and mark as well as by colour."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from fedfmd.pages.run.figures import COLOURS, DASHES, MARKS, STYLE, cost_format, save_figure
from fedfmd.pages.study.wording import axis_name, name
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.costs import Axis
from fedfmd.results.trials import Trial

COLUMN_INCHES = (3.5, 2.7)
LEGEND_LINES = 3
"""As many lines of names as a figure of this height has room for."""
LEGEND_LINE_INCHES = 0.17


def write_study_figures(found: Sequence[Comparison], trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Draw, for each cost axis, accuracy within a budget, the Pareto picture and the paired differences."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        drawn = [item for comparison in found for item in _figures(comparison, trials)]
        return [path for stem, figure in drawn for path in save_figure(figure, folder / stem)]


def _figures(found: Comparison, trials: Sequence[Trial]) -> Iterator[tuple[str, Figure]]:
    key = found.axis.key
    yield f"budget_{key}", draw_budgets(found)
    yield f"pareto_{key}", draw_pareto(found, trials)
    if len(found.arms) > 1:
        yield f"differences_{key}", draw_differences(found)


def draw_budgets(found: Comparison) -> Figure:
    """Draw the accuracy that each arm has within a budget: mean over seeds, and its interval as a band."""
    figure = Figure(figsize=COLUMN_INCHES)
    plot: Any = figure.subplots()
    for i, arm in enumerate(found.arms):
        curve = found.curves[arm]
        if not curve.budgets:
            continue
        style = _style(i)
        means = [e.mean for e in curve.estimates]
        marked = list(range(len(means) - 1, -1, -max(1, len(means) // 6)))  # the last one always
        plot.step(curve.budgets, means, where="post", markevery=marked, label=arm, **style)
        bounds = [(e.low, e.high) if e.low is not None else (e.mean, e.mean) for e in curve.estimates]
        lows, highs = zip(*bounds, strict=True)
        plot.fill_between(
            curve.budgets, lows, highs, step="post", color=style["color"], alpha=0.16, linewidth=0
        )
    for budget in found.budgets:
        plot.axvline(budget, color="#888888", linewidth=0.7, linestyle=(0, (1, 3)), zorder=1)
    plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    plot.set_ylabel("Test accuracy within the budget")
    _within_fractions(plot)
    _cost_axis(plot, found.axis, f"Budget: cumulative {axis_name(found.axis)}")
    _legend(figure, plot)
    return figure


def draw_pareto(found: Comparison, trials: Sequence[Trial]) -> Figure:
    """Draw final accuracy against what was spent: each run small, the arms' means large."""
    figure = Figure(figsize=COLUMN_INCHES)
    plot: Any = figure.subplots()
    for i, arm in enumerate(found.arms):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        points = [(t.total(found.axis), t.final) for t in trials if t.arm == arm and t.total(found.axis)]
        if not points:
            continue
        plot.scatter(*zip(*points, strict=True), s=9, color=colour, marker=mark, alpha=0.45, linewidths=0)
        cost, final = found.cell(arm, "cost").estimate, found.cell(arm, "final").estimate
        plot.errorbar(
            [cost.mean], [final.mean], xerr=_bars(cost), yerr=_bars(final), color=colour, marker=mark,
            markersize=5.5, linewidth=0.8, label=arm, linestyle="none", zorder=3,
        )  # fmt: skip
    front = [(found.cell(a, "cost").estimate.mean, found.cell(a, "final").estimate.mean) for a in found.front]
    if front:
        plot.step(*zip(*front, strict=True), where="post", color="#777777", linestyle=":", linewidth=1)
    plot.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    plot.yaxis.set_major_locator(MaxNLocator(nbins=6))
    plot.set_ylabel("Final test accuracy")
    _within_fractions(plot)
    _cost_axis(plot, found.axis, f"{found.axis.label} of the whole run")
    _legend(figure, plot)
    return figure


def draw_differences(found: Comparison) -> Figure:
    """Draw each arm's accuracy minus the baseline's, seed by seed, with the interval of the mean."""
    measures = [m for m in found.measures if m.key.startswith("at_budget")][-1:]
    measures += [m for m in found.measures if m.key == "final"]
    arms = [arm for arm in found.arms if arm != found.baseline]
    figure = Figure(figsize=(7.2, 0.75 + 0.3 * len(arms)))
    plots = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for plot, measure in zip(plots, measures, strict=True):
        _forest(plot, found, arms, measure)
    plots[0].set_yticks(range(len(arms)), arms)
    plots[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def _forest(plot: Any, found: Comparison, arms: Sequence[str], measure: Measure) -> None:
    reference = found.cell(found.baseline, measure).values
    plot.axvline(0, color="#555555", linewidth=0.8)
    for row, arm in enumerate(arms):
        cell, style = found.cell(arm, measure), _style(found.arms.index(arm))
        pairs = zip(cell.values, reference, strict=True)
        seeds = [a - b for a, b in pairs if a is not None and b is not None]
        plot.scatter(seeds, [row] * len(seeds), s=12, facecolors="none", edgecolors=style["color"], zorder=2)
        if cell.paired.mean is not None:
            plot.errorbar(
                [cell.paired.mean], [row], xerr=_bars(cell.paired), color=style["color"],
                marker=style["marker"], markersize=4.5, linewidth=1.2, zorder=3,
            )  # fmt: skip
    plot.grid(True, axis="x")
    plot.grid(False, axis="y")
    plot.tick_params(axis="y", length=0)
    plot.spines["left"].set_visible(False)
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+g}" if value else "0"))
    plot.xaxis.set_major_locator(MaxNLocator(nbins=6))
    plot.set_xlabel(f"{name(measure, found.axis)}: points over {found.baseline}")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKS[index % len(MARKS)],
    }


def _bars(estimate: Any) -> list[list[float]] | None:
    """Give the arms of an error bar; matplotlib wants distances, not places."""
    if None in (estimate.low, estimate.mean, estimate.high):
        return None
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


def _within_fractions(plot: Any) -> None:
    """Cut the axis of accuracies where there are none: bands of two or three seeds reach far beyond."""
    low, high = plot.get_ylim()
    plot.set_ylim(max(low, 0.0), min(high, 1.0))


def _cost_axis(plot: Any, axis: Axis, label: str) -> None:
    plot.set_xlabel("Rounds" if axis.key == "round" else label)
    plot.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=axis.key == "round"))
    if axis.key != "round":
        plot.xaxis.set_major_formatter(cost_format(axis))


def _legend(figure: Figure, plot: Any) -> None:
    """Put the names above the plot, where they cover nothing; the figure grows with them."""
    handles, labels = plot.get_legend_handles_labels()
    if labels:
        columns = max(1, 56 // (max(map(len, labels)) + 6))
        lines = -(-len(labels) // columns)
        figure.set_figheight(COLUMN_INCHES[1] + LEGEND_LINE_INCHES * max(0, lines - LEGEND_LINES))
        figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(labels)))
