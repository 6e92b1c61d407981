"""The printed figures of a study: PDF, SVG and PNG, told apart by dash and mark as well as by colour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fedfmd.config.study import FigureConfig
from fedfmd.files import make_folder
from fedfmd.pages.paper import (
    COLUMN_INCHES,
    PAGE_INCHES,
    draw_chance,
    legend_above,
    line_style,
    paper_style,
    round_ticks,
    save_figure,
    unit_axis,
)
from fedfmd.pages.study.answer import (
    ACROSS,
    PANEL_INCHES,
    SINGLE_INCHES,
    Shown,
    apart,
    bars,
    draw_answer,
    list_inches,
    listed,
    mark_cut,
    name_axes,
    with_interval,
)
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.wording import name
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.metrics import MET, WASTED
from fedfmd.results.question import Answer, curve_groups
from fedfmd.results.trials import Trial
from fedfmd.units import SHARE


@dataclass(frozen=True)
class Paper:
    """How a study's figures are drawn."""

    looks: Looks
    figure: FigureConfig

    @property
    def inches(self) -> float:
        """Width of a figure."""
        return COLUMN_INCHES if self.figure.width == "column" else PAGE_INCHES


def write_study_figures(
    found: Sequence[Comparison], answer: Answer, trials: Sequence[Trial], paper: Paper, folder: Path
) -> list[Path]:
    """Draw the answer to the study's question, then for each cost the curves, the Pareto picture and the
    paired differences; returns the files written."""
    make_folder(folder)
    with paper_style():
        drawn = [*_answers(answer, paper)]
        costs = paper.figure.costs
        wanted = [comparison for comparison in found if comparison.axis.key in costs] or found[:1]
        drawn += [item for comparison in wanted for item in _figures(comparison, trials, paper)]
        return [path for stem, figure in drawn for path in save_figure(figure, folder / stem)]


def _answers(answer: Answer, paper: Paper) -> Iterator[tuple[str, Figure]]:
    looks, width, log_x = paper.looks, paper.figure.width, paper.figure.log_x
    yield "answer", draw_answer(answer, looks, width, log_x, Shown.asked(answer, looks))
    sides = {
        MET.key: Shown(looks.metric(MET), SHARE, lambda point: point.met),
        WASTED.key: Shown(looks.metric(WASTED), SHARE, lambda point: point.wasted),
    }
    for key, shown in sides.items():
        if len({shown.of(point).mean for _, _, point in answer.points} - {None}) > 1:
            yield f"answer_{key}", draw_answer(answer, looks, width, log_x, shown)


def _figures(found: Comparison, trials: Sequence[Trial], paper: Paper) -> Iterator[tuple[str, Figure]]:
    key = found.axis.key
    yield f"budget_{key}", draw_budgets(found, paper)
    yield f"pareto_{key}", draw_pareto(found, trials, paper)
    if len(found.arms) > 1:
        yield f"differences_{key}", draw_differences(found, paper)


def draw_budgets(found: Comparison, paper: Paper) -> Figure:
    """Draw the accuracy that each arm has within a budget: mean over seeds, and its interval as a band."""

    def curves(plot: Any, arms: Sequence[str]) -> None:
        for arm in arms:
            curve, style = found.curves[arm], _style(paper, arm)
            if not curve.budgets:
                continue
            means = [e.mean for e in curve.estimates]
            marked = list(range(len(means) - 1, -1, -max(1, len(means) // 6)))  # the last one always
            plot.step(curve.budgets, means, where="post", markevery=marked, **style)
            bounds = [(e.low, e.high) if e.low is not None else (e.mean, e.mean) for e in curve.estimates]
            lows, highs = zip(*bounds, strict=True)
            plot.fill_between(
                curve.budgets, lows, highs, step="post", color=style["color"], alpha=0.16, linewidth=0
            )
        for budget in found.budgets:
            plot.axvline(budget, color="#888888", linewidth=0.7, linestyle=(0, (1, 3)), zorder=1)

    label = f"Budget: cumulative {found.axis.in_text}"
    return _multiples(found, paper, curves, label, "Top-1 within the budget")


def draw_pareto(found: Comparison, trials: Sequence[Trial], paper: Paper) -> Figure:
    """Draw final accuracy against what was spent: each run small, the arms' means large."""
    ends = [(found.cell(a, "cost").estimate.mean, found.cell(a, "final").estimate.mean) for a in found.front]
    front = [(cost, top1) for cost, top1 in ends if cost is not None and top1 is not None]

    def points(plot: Any, arms: Sequence[str]) -> None:
        for arm in arms:
            style = _style(paper, arm)
            own = [(t.total(found.axis), t.final) for t in trials if t.arm == arm and t.total(found.axis)]
            if not own:
                continue
            plot.scatter(
                *zip(*own, strict=True), s=9, color=style["color"], marker=style["marker"], alpha=0.45,
                linewidths=0,
            )  # fmt: skip
            cost, final = found.cell(arm, "cost").estimate, found.cell(arm, "final").estimate
            face = "white" if found.cell(arm, "final").at_chance else style["color"]
            plot.errorbar(
                [cost.mean], [final.mean], xerr=bars(cost), yerr=bars(final), color=style["color"],
                marker=style["marker"], markersize=5.5, markerfacecolor=face, linewidth=0.8,
                linestyle="none", zorder=3,
            )  # fmt: skip
        if front:
            plot.step(*zip(*front, strict=True), where="post", color="#777777", linestyle=":", linewidth=1)

    return _multiples(
        found, paper, points, f"{found.axis.label} of the whole run", "Final top-1", lines=False
    )


def _multiples(found: Comparison, paper: Paper, draw: Any, x: str, y: str, *, lines: bool = True) -> Figure:
    """Draw arms in small multiples of one scale, each named once."""
    looks = paper.looks
    groups = curve_groups(looks.design, looks.roles, found.arms)
    across = min(ACROSS[paper.figure.width], len(groups))
    down = -(-len(groups) // across)
    height = SINGLE_INCHES if len(groups) == 1 else PANEL_INCHES * down
    figure = Figure(figsize=(paper.inches, height))
    plots = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for i, (plot, arms) in enumerate(zip(plots, groups, strict=False)):
        draw(plot, arms)
        plot.set_title(looks.panel(arms[0]))
        plot.tick_params(labelbottom=i + across >= len(groups), labelleft=i % across == 0)
    _within_what_is_possible(plots[0])  # of all, which share their scale
    for plot in plots[len(groups) :]:
        plot.remove()
    chance = draw_chance(plots[: len(groups)], found.chance)
    label = "Rounds" if found.axis.key == "round" else x
    for plot in plots[: len(groups)]:
        mark_cut(plot)
        title = unit_axis(plot, label, found.axis.unit, whole=found.axis.key == "round")
        unit_axis(plot, y, SHARE, axis="y")
    counts = [found.cell(arm, "final").estimate.count for arm in found.arms]
    name_axes(figure, plots[: len(groups)], title, with_interval(y, counts, found.confidence))
    handles = {looks.curve(arm): _handle(paper, arm, lines) for arms in groups for arm in arms}
    legend_above(figure, (handles if len(handles) > 1 else {}) | chance)
    return figure


def _handle(paper: Paper, arm: str, lines: bool) -> Line2D:
    style = _style(paper, arm)
    return Line2D([], [], **(style if lines else style | {"linestyle": "none"}))


def draw_differences(found: Comparison, paper: Paper) -> Figure:
    """Draw each arm's accuracy minus the baseline's, seed by seed, with the interval of the mean."""
    measures = [m for m in found.measures if m.key == "final"]
    if paper.figure.width == "page":
        measures = [m for m in found.measures if m.at_budget][-1:] + measures
    arms = [arm for arm in found.arms if arm != found.baseline]
    names = [listed(paper.looks.arm(arm), paper.figure.width) for arm in arms]
    figure = Figure(figsize=(paper.inches, 0.75 + list_inches(names)))
    plots = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for plot, measure in zip(plots, measures, strict=True):
        _forest(plot, found, arms, measure, paper)
    plots[0].set_yticks(range(len(arms)), names)
    plots[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def _forest(plot: Any, found: Comparison, arms: Sequence[str], measure: Measure, paper: Paper) -> None:
    reference = found.cell(found.baseline, measure).values
    plot.axvline(0, color="#555555", linewidth=0.8)
    for row, arm in enumerate(arms):
        cell, style = found.cell(arm, measure), _style(paper, arm)
        pairs = zip(cell.values, reference, strict=True)
        seeds = [a - b for a, b in pairs if a is not None and b is not None]
        plot.scatter(seeds, [row] * len(seeds), s=12, facecolors="none", edgecolors=style["color"], zorder=2)
        if cell.paired.mean is not None:
            plot.errorbar(
                [cell.paired.mean], [row], xerr=bars(cell.paired), color=style["color"],
                marker=style["marker"], markersize=4.5, linewidth=1.2, zorder=3,
            )  # fmt: skip
    plot.grid(True, axis="x")
    plot.grid(False, axis="y")
    plot.tick_params(axis="y", length=0)
    plot.spines["left"].set_visible(False)
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+g}" if value else "0"))
    plot.xaxis.set_major_locator(round_ticks(6))
    label = f"{name(measure, found.axis)}: points over {paper.looks.arm(found.baseline)}"
    counts = [found.cell(arm, measure).paired.count for arm in arms]
    plot.set_xlabel(with_interval(label, counts, found.confidence))


def _style(paper: Paper, arm: str) -> dict[str, Any]:
    look = paper.looks.of(arm)
    return line_style(look.colour, look.dash)


def _within_what_is_possible(plot: Any) -> None:
    """Cut the axes where no accuracy and no cost is: intervals of two or three seeds reach far beyond."""
    low, high = plot.get_ylim()
    plot.set_ylim(*apart(max(low, 0.0), min(high, 1.0)))
    if plot.containers:  # the costs have intervals
        plot.set_xlim(left=max(plot.get_xlim()[0], 0.0))
