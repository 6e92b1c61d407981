"""The figure that answers the study's question: a metric against a factor, lines by colour, small panels."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from fedfmd.pages.paper import (
    COLUMN_INCHES,
    PAGE_INCHES,
    draw_chance,
    legend_above,
    line_style,
    unit_axis,
)
from fedfmd.pages.study.looks import Looks, axis_title, in_a_list, spread, tick
from fedfmd.records.schema import Number
from fedfmd.results.question import Answer, Panel, Point, Roles, Series
from fedfmd.results.statistics import Estimate
from fedfmd.units import level

ACROSS = {"column": 2, "page": 4}
"""Panels side by side."""
SINGLE_INCHES, PANEL_INCHES = 2.25, 1.6
DODGE_POINTS = {True: 2.6, False: 5.0}
"""Between marks at one x, so that intervals do not hide each other; by whether lines lead to them."""
LISTED_LETTERS = {"column": 26, "page": 52}
LINE_INCHES = 0.16
ROOM = 0.03
"""Of an axis of shares beyond what is possible, for marks at its ends."""
LEAST_SHARES = 0.04
"""What an axis of shares shows at least: a difference of a tenth of a point shall not fill the figure."""
BAR = {"linestyle": "none", "elinewidth": 0.9, "capsize": 1.8, "capthick": 0.9}


@dataclass(frozen=True)
class Shown:
    """What stands on the axis of values."""

    label: str
    unit: str
    of: Callable[[Point], Estimate]
    """Its mean over the seeds, with the interval."""
    possible: tuple[float, float] | None = (0.0, 1.0)
    """Its least and greatest value; null where it has none."""
    chance: Number = None
    """What guessing scores; then hollow marks are arms that do no better."""

    @classmethod
    def asked(cls, answer: Answer, looks: Looks) -> "Shown":
        """Return the metric that the study asks for."""
        metric = answer.metric
        return cls(looks.metric(metric), metric.unit, lambda point: point.y, metric.possible, answer.chance)

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """Return the ends of an axis of shares, of what would go from ``low`` to ``high`` the possible."""
        least, most = self.possible or (low, high)
        return apart(max(low, least - ROOM), min(high, most + ROOM))

    def hollow(self, point: Point) -> bool:
        """Whether the mark of a point is not filled."""
        return self.chance is not None and point.guess


def draw_answer(answer: Answer, looks: Looks, width: str, log_x: bool | None, shown: Shown) -> Figure:
    """Draw a figure of each point: mean over seeds with the interval as a bar."""
    if in_a_list(answer, looks):
        return draw_list(answer, looks, width, shown)
    panels = answer.panels
    across = min(ACROSS[width], len(panels))
    down = -(-len(panels) // across)
    height = SINGLE_INCHES if len(panels) == 1 else PANEL_INCHES * down
    figure = Figure(figsize=(COLUMN_INCHES if width == "column" else PAGE_INCHES, height))
    plots = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    names: dict[str, Any] = {}
    for plot, panel in zip(plots, panels, strict=False):
        for series in panel.series:
            names |= _draw_series(figure, plot, answer, looks, series, panel, shown)
        plot.set_title(looks.places(panel.levels))
        _x_axis(plot, answer, looks, log_x)
    plots[0].autoscale_view()
    if shown.possible:  # an interval of few seeds ends at the frame
        plots[0].set_ylim(*shown.ends(*plots[0].get_ylim()))
    chance = draw_chance(plots[: len(panels)], shown.chance, _hollow_words(answer, shown))
    for plot in plots[len(panels) :]:
        plot.remove()
    for i, plot in enumerate(plots[: len(panels)]):
        mark_cut(plot)
        plot.tick_params(labelbottom=i + across >= len(panels), labelleft=i % across == 0)
    label = unit_axis(plots[0], shown.label, shown.unit, axis="y")
    label = with_interval(label, [shown.of(point).count for _, _, point in answer.points], answer.confidence)
    name_axes(figure, plots[: len(panels)], _x_title(answer, looks), label)
    legend_above(figure, (names if answer.roles.joined or answer.roles.line else {}) | chance)
    return figure


def apart(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis of shares, at least ``LEAST_SHARES`` apart."""
    more = max(0.0, LEAST_SHARES - (high - low)) / 2
    return low - more, high + more


def with_interval(label: str, counts: Iterable[int], confidence: float) -> str:
    """Name the axis of means with their intervals, so that a figure says what it shows wherever it is put.

    ``counts`` are the seeds of each mean: not all have those of arms that lost runs.
    """
    known = sorted(count for count in counts if count)
    if not known or known[-1] < 2:
        return label
    seeds = f"{known[0]} to {known[-1]}" if known[0] < known[-1] else f"{known[0]}"
    return f"{label} (mean of {seeds} seeds, {level(confidence)} interval)"


def _hollow_words(answer: Answer, shown: Shown) -> str:
    return ", hollow: no better" if any(shown.hollow(point) for _, _, point in answer.points) else ""


def _mark(point: Point, looks: Looks, shown: Shown) -> dict[str, Any]:
    """Return how the mark and the bar of a point look."""
    look = looks.of(point.arm)
    style = line_style(look.colour, look.dash)
    face = "white" if shown.hollow(point) else style["color"]
    return BAR | {"color": style["color"], "marker": style["marker"], "markerfacecolor": face}


def draw_list(answer: Answer, looks: Looks, width: str, shown: Shown) -> Figure:
    """Draw the arms below each other, named in full: for many of them, or for long names."""
    points = [point for _, _, point in answer.points]
    names = {point.arm: listed(looks.arm(point.arm), width) for point in points}
    inches = COLUMN_INCHES if width == "column" else PAGE_INCHES
    figure = Figure(figsize=(inches, 0.6 + list_inches(list(names.values()))))
    plot: Any = figure.subplots()
    for row, point in enumerate(points):
        found = shown.of(point)
        if found.mean is not None:
            plot.errorbar([found.mean], [row], xerr=bars(found), **_mark(point, looks, shown))
    plot.set_yticks(range(len(points)), [names[point.arm] for point in points])
    plot.set_ylim(len(points) - 0.5, -0.5)
    plot.grid(True, axis="x")
    plot.grid(False, axis="y")
    if shown.possible:
        plot.set_xlim(*shown.ends(*plot.get_xlim()))
    legend_above(figure, draw_chance([plot], shown.chance, _hollow_words(answer, shown), axis="x"))
    mark_cut(plot)
    label = unit_axis(plot, shown.label, shown.unit, most=10)
    plot.set_xlabel(with_interval(label, [shown.of(point).count for point in points], answer.confidence))
    return figure


def listed(name: str, width: str) -> str:
    """Break a name that stands before its row, so that most of the width is left for the figures."""
    return textwrap.fill(name, LISTED_LETTERS[width])


def list_inches(names: Sequence[str]) -> float:
    """Return the height of rows with these names, all as high as the one of most lines."""
    return LINE_INCHES * len(names) * max((name.count("\n") + 1.2 for name in names), default=1)


def name_axes(figure: Figure, plots: Sequence[Any], x: str, y: str) -> None:
    """Name the axes that some plots share, beside all of them."""
    if len(plots) == 1:
        plots[0].set(xlabel=x, ylabel=y)
        return
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)


def _draw_series(
    figure: Figure, plot: Any, answer: Answer, looks: Looks, series: Series, panel: Panel, shown: Shown
) -> dict[str, Any]:
    """Draw one line with its bars; returns its handle by its name for the legend."""
    told = answer.roles
    known = [point for point in series.points if shown.of(point).mean is not None]
    xs = [_place(answer, point.level) for point in known]
    ys = [shown.of(point).mean for point in known]
    if not known:
        return {}
    ends = [end for point in known for end in (shown.of(point).low, shown.of(point).high) if end is not None]
    plot.update_datalim([(x, y) for x in xs for y in (*ys, *ends)])  # what is moved has none of its own
    if not told.joined and told.x.numeric:
        plot.plot(xs, ys, color="#999999", linewidth=0.9, zorder=1.5)
    for x, point in zip(xs, known, strict=True):
        found, moved = shown.of(point), _beside(figure, plot, told, panel, series, point)
        mark = _mark(point, looks, shown)
        plot.errorbar([x], [found.mean], yerr=bars(found), transform=moved, zorder=3, **mark)
    if not (told.joined or told.line):
        return {}
    look = looks.of(known[0].arm)
    style = line_style(look.colour, look.dash)
    if not told.lined:
        drawn = Line2D([], [], **style | {"linestyle": "none"})
    else:
        moved = _beside(figure, plot, told, panel, series, known[0])
        (drawn,) = plot.plot(xs, ys, transform=moved, zorder=2, **style)
    name = looks.places(told.drawn_at(series.colour, series.line))
    return {name if told.joined else looks.curve(known[0].arm): drawn}


def _beside(figure: Figure, plot: Any, told: Roles, panel: Panel, series: Series, point: Point) -> Any:
    """Return where a mark stands: beside those of other series that have one at its x, or that have lines."""
    there = [s for s in panel.series if told.lined or any(p.level == point.level for p in s.points)]
    shift = DODGE_POINTS[told.lined] * (there.index(series) - (len(there) - 1) / 2)
    return plot.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)


def _place(answer: Answer, level: Any) -> float:
    x = answer.roles.x
    return float(level) if x.numeric else float(x.levels.index(level))


def _x_title(answer: Answer, looks: Looks) -> str:
    x = answer.roles.x
    return axis_title(looks, x)[0] if x.numeric else looks.factor(x.key)


def _x_axis(plot: Any, answer: Answer, looks: Looks, log_x: bool | None) -> None:
    """Mark the levels themselves; nothing was measured between them."""
    x = answer.roles.x
    if not x.numeric:
        plot.set_xticks(range(len(x.levels)), [looks.level(x.key, level) for level in x.levels])
        plot.set_xlim(-0.5, len(x.levels) - 0.5)
        return
    if log_x if log_x is not None else spread(x.levels):
        plot.set_xscale("log")
    scale = axis_title(looks, x)[1]
    plot.xaxis.set_major_locator(FixedLocator(sorted(map(float, x.levels))))
    plot.xaxis.set_minor_locator(NullLocator())
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(x, value, scale)))


def bars(found: Estimate) -> list[list[float]] | None:
    """Return the lengths of an error bar below and above the mean; null without an interval."""
    if found.low is None or found.mean is None or found.high is None:
        return None
    return [[found.mean - found.low], [found.high - found.mean]]


def mark_cut(plot: Any) -> None:
    """Set an arrow at the frame for the rest of every error bar that the axis cuts."""
    boxes = [box for box in plot.containers if isinstance(box, ErrorbarContainer)]
    for drawn in (lines for box in boxes for lines in box[2]):
        for segment in drawn.get_segments():
            along = 0 if segment[0, 1] == segment[1, 1] else 1
            low, high = plot.get_ylim() if along else plot.get_xlim()
            ends = segment[:, along]
            for frame, cut, head in ((low, ends.min() < low, "<v"), (high, ends.max() > high, ">^")):
                if not cut:
                    continue
                place = segment[0].copy()
                place[along] = frame
                arrow = Line2D(
                    place[:1], place[1:], marker=head[along], markersize=3.5, color=drawn.get_color()[0],
                    linestyle="none", clip_on=False, transform=drawn.get_transform(), zorder=4,
                )  # fmt: skip
                plot.add_artist(arrow)
