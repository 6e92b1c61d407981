"""What a notebook shows of a run: a table of its figures, and its accuracy as it went."""

import io
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from fedfmd.records.schema import Json
from fedfmd.units import percent, quantity

FIGURES = {
    "final_top1": ("top-1 at the end", ""),
    "best_top1": ("best top-1, chosen by validation", ""),
    "rounds": ("rounds", None),
    "epochs": ("epochs", None),
    "macs": ("training", "MAC"),
    "bytes": ("traffic", "B"),
    "train_seconds": ("training on the host", "s"),
    "device_clock_seconds": ("simulated clock", "s"),
}
"""Keys of a summary, their words, and their units: none for fractions, null for counts."""


def run_html(title: str, summary: Json, rows: Sequence[Json], step: str) -> str:
    """Return a run as HTML: ``rows`` of the ledger have ``top1`` by ``step``, which is round or epoch."""
    figures = {**summary.get("cumulative", {}), **summary}
    lines = [
        f"<tr><td>{escape(words)}</td><td>{escape(_text(figures[key], unit))}</td></tr>"
        for key, (words, unit) in FIGURES.items()
        if isinstance(figures.get(key), int | float)
    ]
    state = summary.get("status", "unfinished")
    head = f"<caption>{escape(title)}: {escape(str(state))}</caption>"
    return f"<div><table>{head}{''.join(lines)}</table>{_curve(rows, step)}</div>"


def table_html(title: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as an HTML table, with the keys of the first as its head."""
    if not rows:
        return f"<p>{escape(title)}: nothing yet</p>"
    head = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    body = ("".join(f"<td>{escape(str(value))}</td>" for value in row.values()) for row in rows)
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{lines}</table>"


def _text(value: float, unit: str | None) -> str:
    if unit is None:
        return f"{value:,}"
    return quantity(value, unit) if unit else percent(value)


def _curve(rows: Sequence[Json], step: str) -> str:
    """Draw the top-1 of the evaluated rows as SVG; empty where none was evaluated."""
    points = [(row[step], 100 * row["top1"]) for row in rows if row.get("top1") is not None]
    if not points:
        return ""
    figure = Figure(figsize=(5, 2.5), layout="constrained")
    plot = figure.add_subplot()
    plot.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
    plot.set(xlabel=step, ylabel="test top-1, %")
    plot.spines[["top", "right"]].set_visible(False)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
