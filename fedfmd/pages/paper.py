"""Figures for print: the widths of a journal's columns, real text, nothing cut off and nothing overprinted.

Every figure is written as PDF and SVG, whose letters stay letters, and as PNG. ``settle`` looks at the boxes
of all text as the renderer has them: ticks are thinned, names turned or broken into lines, until they fit.
"""

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from fedfmd.files import write_atomic
from fedfmd.pages.palette import COLOURS
from fedfmd.pages.press import lay_on, print_figure
from fedfmd.pages.print_font import small_copy
from fedfmd.units import SHARE, number, scale_of

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.16
"""Widths of one column, and of both, of a page of two columns (IEEE, ACM)."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
FAMILIES = ("Liberation Sans", "Arial", "Helvetica", "DejaVu Sans")
STYLE: Any = {
    "text.parse_math": False,  # a name may hold dollar signs
    "font.family": "sans-serif",
    "font.sans-serif": list(FAMILIES),
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.6,
    "pdf.fonttype": 42,  # TrueType: letters that can be searched, and that journals accept
    "svg.fonttype": "none",
    "svg.hashsalt": "fedfmd",  # a repeated report has the same bytes
    "figure.constrained_layout.use": True,
}
MOST_STEPS = 12
"""Of thinning and breaking, for one plot."""
NEAR = 0.25
"""Part of its length by which an axis goes on to reach chance."""
QUIET = "#555555"
GAP_POINTS = 2.2
"""Least distance between two labels of an axis."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Make figures look as printed ones do while the block runs."""
    with matplotlib.rc_context(STYLE | {"font.sans-serif": [small_copy(FAMILIES), *FAMILIES]}):
        yield


def line_style(colour: int, dash: int | None = None) -> dict[str, Any]:
    """Return how a series looks: eight colours, each with its mark and dash, then other pairs of them."""
    turn = colour // len(COLOURS)
    dash = colour + turn if dash is None else dash
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": DASHES[dash % len(DASHES)],
        "marker": MARKS[(colour + turn) % len(MARKS)],
    }


def round_ticks(most: int, *, whole: bool = False) -> MaxNLocator:
    """Return what marks an axis at 1, 2 or 5 times a power of ten, at no more than ``most`` intervals."""
    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1 if whole else 2)


def unit_axis(
    plot: Any, label: str, unit: str, *, axis: str = "x", whole: bool = False, most: int = 6
) -> str:
    """Mark an axis with figures in one unit; returns ``label`` with it. The plot's data are drawn.

    Shares are written as percentages, with no more decimals than they have. ``whole`` is for what is counted.
    """
    one, ends = (plot.xaxis, plot.get_xlim()) if axis == "x" else (plot.yaxis, plot.get_ylim())
    one.set_major_locator(round_ticks(most, whole=whole))
    if unit == SHARE:
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        return label
    scale = scale_of(max(map(abs, ends)), unit)
    one.set_major_formatter(FuncFormatter(lambda value, _: number(value * scale.factor)))
    return f"{label} ({scale.unit})" if scale.unit else label


def draw_chance(
    plots: Sequence[Any], chance: float | None, more: str = "", *, axis: str = "y"
) -> dict[str, Any]:
    """Draw what guessing scores as a thin line across plots of one scale; returns it by its name.

    The axis goes on to it if that takes no more than a quarter of what it shows; else nothing is drawn.
    """
    if chance is None:
        return {}
    across, plot = axis == "x", plots[0]
    low, high = plot.get_xlim() if across else plot.get_ylim()
    room = NEAR * (high - low)
    if not low - room <= chance <= high + room:
        return {}
    ends = min(low, chance - 0.03 * (high - low)), max(high, chance + 0.03 * (high - low))
    plot.set_xlim(*ends) if across else plot.set_ylim(*ends)
    for one in plots:
        line = one.axvline if across else one.axhline
        drawn = line(chance, color=QUIET, linewidth=0.7, linestyle=(0, (5, 2)), zorder=1)
    return {f"chance {100 * chance:.3g}%{more}": drawn}


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Settle a figure and write ``stem``.png, .svg and .pdf, the same bytes each time; returns the files."""
    settle(figure)
    written = []
    for suffix, image in print_figure(figure).items():
        path = stem.with_name(f"{stem.name}.{suffix}")
        write_atomic(path, image)
        written.append(path)
    return written


def legend_above(figure: Figure, drawn: Mapping[str, Any]) -> None:
    """Put the names of what is drawn above the plots, in as many columns as fit; the figure grows by that."""
    if not drawn:
        return
    handles, labels = list(drawn.values()), list(drawn)
    renderer = lay_on(figure)
    tries = [(columns, labels) for columns in range(len(labels), 0, -1)]
    tries += [(1, [textwrap.fill(label, letters) for label in labels]) for letters in range(60, 10, -6)]
    for columns, names in tries:
        legend = figure.legend(
            handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4, handlelength=2.6
        )
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
    height = legend.get_window_extent(renderer).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def legend_name(name: str) -> str:
    """Return a name as matplotlib takes it for a legend, which leaves out what begins with "_"."""
    return f" {name}" if name.startswith("_") else name


def named(plot: Any) -> dict[str, Any]:
    """Return what a plot shows under a name."""
    handles, labels = plot.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def settle(figure: Figure) -> None:
    """Lay a figure out so that no text is cut or printed over another; the layout is fixed from then on."""
    renderer = lay_on(figure)
    layout: Any = figure.get_layout_engine()
    layout.execute(figure)
    changed = False
    for plot in figure.axes:
        for _ in range(MOST_STEPS):
            if not any(list(_relieved(plot, renderer))):
                break
            changed = True
    for text, side in ((figure._supxlabel, "width"), (figure._supylabel, "height")):  # type: ignore[attr-defined]
        while text is not None and _side(text, renderer, side) > getattr(figure.bbox, side) and _broken(text):
            changed = True
    if changed:
        layout.execute(figure)
    figure.set_layout_engine("none")


def _relieved(plot: Any, renderer: Any) -> Iterator[bool]:
    """Take one step against each crowded axis and each label that is too long; yields what was changed."""
    for axis, along in ((plot.xaxis, "x"), (plot.yaxis, "y")):
        yield _crowded(axis, renderer, along) and _thinned(axis, renderer)
    box = plot.get_window_extent(renderer)
    for text, side in ((plot.title, "width"), (plot.xaxis.label, "width"), (plot.yaxis.label, "height")):
        yield _side(text, renderer, side) > getattr(box, side) + 1 and _broken(text)


def _side(text: Any, renderer: Any, side: str) -> float:
    """Return the width or height of a text in points."""
    return float(getattr(text.get_window_extent(renderer), side)) if text.get_text() else 0.0


def _crowded(axis: Any, renderer: Any, along: str) -> bool:
    boxes = [label.get_window_extent(renderer) for label in shown_ticks(axis)]
    starts = sorted((getattr(box, f"{along}0"), getattr(box, f"{along}1")) for box in boxes)
    return any(end + GAP_POINTS > start for (_, end), (start, _) in itertools.pairwise(starts))


def shown_ticks(axis: Any) -> list[Any]:
    """Return the labels of an axis that are drawn: not empty, and within its limits."""
    low, high = sorted(axis.get_view_interval())
    span = (high - low) * 1e-9
    axis.get_majorticklabels()  # brings ticks and labels up to date
    ticks = axis.get_major_ticks(len(axis.get_majorticklocs()))
    places = zip(ticks, axis.get_majorticklocs(), strict=True)
    return [
        label
        for tick, place in places
        if low - span <= place <= high + span
        for label in (tick.label1,)
        if label.get_visible() and label.get_text()
    ]


def _thinned(axis: Any, renderer: Any) -> bool:
    """Show fewer numbers, or turn names; whether anything was left to do."""
    locator, labels = axis.get_major_locator(), shown_ticks(axis)
    if isinstance(locator, MaxNLocator):
        if len(labels) < 3:
            return False
        axis.set_major_locator(round_ticks(len(labels) - 2, whole=bool(locator._integer)))  # type: ignore[attr-defined]
        return True
    if isinstance(axis.get_major_formatter(), FuncFormatter):
        axis.set_major_locator(FixedLocator(_apart(axis, renderer)))
        return True
    if axis.axis_name == "y" or labels[0].get_rotation():
        return False
    for label in axis.get_ticklabels():
        label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    return True


def _apart(axis: Any, renderer: Any) -> list[float]:
    """Return the marked places whose labels have room beside the one before; the first is kept."""
    kept: list[float] = []
    end = -float("inf")
    for label, place in zip(shown_ticks(axis), axis.get_majorticklocs(), strict=False):
        box = label.get_window_extent(renderer)
        low, high = (box.x0, box.x1) if axis.axis_name == "x" else (box.y0, box.y1)
        if low >= end + GAP_POINTS:
            kept.append(float(place))
            end = high
    return kept


def _broken(text: Any) -> bool:
    """Break a label into one line more."""
    words = " ".join(text.get_text().split())
    lines = text.get_text().count("\n") + 2
    width = max(-(-len(words) // lines) + 2, 6)
    while len(found := textwrap.wrap(words, width)) > lines:
        width += 1
    if len(found) < lines:
        return False
    text.set_text("\n".join(found))
    return True
