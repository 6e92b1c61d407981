"""What the renderer says of the text of a printed figure: cut off, or printed over other text."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from fedfmd.pages.paper import shown_ticks
from fedfmd.pages.press import lay_on, print_figure

TOUCH = 0.5
"""Points by which boxes may touch."""


def texts(figure: Figure) -> list[Text]:
    """Return all text that is drawn; of ticks only those within their axis."""
    hidden = {id(label) for plot in figure.axes for axis in (plot.xaxis, plot.yaxis)
              for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}  # fmt: skip
    seen = {
        id(label)
        for plot in figure.axes
        for axis in (plot.xaxis, plot.yaxis)
        for label in shown_ticks(axis)
        if axis.get_tick_params().get("labelbottom", axis.get_tick_params().get("labelleft", True))
    }
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if id(text) not in hidden or id(text) in seen]


def faults(figure: Figure) -> list[str]:
    """Name what is cut off or overprinted in a figure whose layout is settled."""
    print_figure(figure)  # puts labels where they are drawn
    renderer = lay_on(figure)
    boxes: list[tuple[str, Any]] = [(t.get_text(), t.get_window_extent(renderer)) for t in texts(figure)]
    page = figure.bbox
    cut = [
        f"cut: {text!r}"
        for text, box in boxes
        if box.x0 < page.x0 - TOUCH
        or box.y0 < page.y0 - TOUCH
        or box.x1 > page.x1 + TOUCH
        or box.y1 > page.y1 + TOUCH
    ]
    over = [
        f"overprinted: {a!r}, {b!r}"
        for (a, one), (b, other) in combinations(boxes, 2)
        if one.x0 < other.x1 - TOUCH and other.x0 < one.x1 - TOUCH
        and one.y0 < other.y1 - TOUCH and other.y0 < one.y1 - TOUCH
    ]  # fmt: skip
    return cut + over
