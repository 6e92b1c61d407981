"""Pieces of a page: the place of a figure, and a switch."""

from collections.abc import Sequence
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


def guess_notes(remark: str | None, *, finished: bool) -> list[str]:
    """Say that a run's accuracy is within noise of chance, if there is such a remark."""
    which = "final top-1" if finished else "top-1 so far"
    return [f"The {which} is {remark}: IES and RCS say nothing about this run."] if remark else []
