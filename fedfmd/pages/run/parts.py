"""Pieces of a page: the place of a figure, a switch, a table, a card."""

from collections.abc import Iterable, Sequence
from html import escape

Choice = tuple[str, str]


def figure_box(name: str, title: str) -> str:
    """Return the place of the figure ``name``: its title, key, plot and the table of its data."""
    return f"""<figure data-figure="{name}" id="figure-{name}"><figcaption><h3>{escape(title)}</h3>
<div class="key"></div></figcaption>
<div class="plot" tabindex="0" role="img" aria-label="{escape(title)}"></div>
<p class="readout" aria-live="polite"></p>
<details class="data"><summary>Data<span class="readout"> of the figure {escape(title)}</span></summary>
<div class="scroll" tabindex="0" role="region" aria-label="Data of the figure {escape(title)}"></div>
</details>
</figure>"""


def switch(name: str, legend: str, choices: Sequence[Choice], checked: str | None = None) -> str:
    """Return radio buttons that set ``name`` in the page's state; a single choice is made and not shown."""
    chosen = checked if checked in dict(choices) else choices[0][0]
    options = "".join(
        f'<label><input type="radio" name="{name}" data-set="{name}" value="{escape(value)}"'
        f"{' checked' if value == chosen else ''}><span>{escape(label)}</span></label>"
        for value, label in choices
    )
    hidden = " hidden" if len(choices) == 1 else ""
    return (
        f'<fieldset class="switch"{hidden}><legend>{escape(legend)}</legend>'
        f'<div class="options">{options}</div></fieldset>'
    )


def table(
    title: str, heads: Iterable[str], lines: Iterable[str], *, css: str = "free", data: str = ""
) -> str:
    """Return a table in a region that can be scrolled; ``lines`` are made by ``table_line``.

    ``data`` is an attribute that the page's script shows and hides it by.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="{f"scroll {css}".strip()}"{f" {data}" if data else ""} tabindex="0" role="region" '
        f'aria-label="{escape(title)}"><table>\n<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def table_line(name: str, cells: Iterable[str], attributes: str = "") -> str:
    """Return a row of a table: what it is about, then its figures."""
    figures = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr{attributes}><th scope="row">{escape(name)}</th>{figures}</tr>'


def card(label: str, value: str, more: str) -> str:
    """Return a figure that one looks for first, with what belongs beside it."""
    return (
        f'<div class="card"><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="more">{escape(more)}</dd></div>'
    )


def guess_notes(remark: str | None, *, finished: bool) -> list[str]:
    """Say that a run's accuracy is within noise of chance, if there is such a remark."""
    which = "final top-1" if finished else "top-1 so far"
    return [f"The {which} is {remark}: IES and RCS say nothing about this run."] if remark else []
