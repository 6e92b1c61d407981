"""What each client got: the section, its data for the page's script, and its rows for the tables."""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from fedfmd.pages.run.parts import figure_box, switch, table, table_line
from fedfmd.results.clients import MODELS, ClientGroup, ClientOutcome, outcome
from fedfmd.results.runs import Run
from fedfmd.units import ABSENT, percent

GROUP_NAMES = {"tier": "Kind of device", "examples": "Training images", "labels": "Labels"}
MODEL_NAMES = {
    "affordable": "Affordable",
    "global": "Global",
    "finetuned": "Fine-tuned",
    "local": "Trained alone",
}
PAID = [("macs", "MACs"), ("bytes", "Bytes"), ("asked", "Times asked")]


def got_payload(run: Run) -> dict[str, Any] | None:
    """Return what the page's script draws; null where no client has measured anything."""
    found = outcome(run)
    if found is None:
        return None
    columns = {name: [getattr(c, name) for c in found.clients] for name in asdict(found.clients[0])}
    names = dict(enumerate(run.partition.client_names))
    columns["name"] = [names.get(c.client) or None for c in found.clients]
    return {
        "round": found.round,
        "model": found.model,
        "clients": columns,
        "groups": {name: [asdict(group) for group in groups] for name, groups in found.groups.items()},
    }


def got_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row for each client that has measured."""
    found = outcome(run)
    return [asdict(client) for client in found.clients] if found else []


def got_section(runs: Sequence[Run]) -> str:
    """Return the section; nothing where no run has measured on clients."""
    found = [outcome(run) for run in runs]
    known = [one for one in found if one is not None]
    if not known:
        return ""
    panels = "".join(
        f'<div data-run="{i}">{_panel(one) if one else "<p>No client of this run has measured.</p>"}</div>'
        for i, one in enumerate(found)
    )
    models = [m for m in MODELS if any(c.top1(m) is not None for one in known for c in one.clients)]
    shown = [(m, MODEL_NAMES[m]) for m in models]
    gain = [("gain", "Gain")] if any(c.gain is not None for one in known for c in one.clients) else []
    groups = [(k, name) for k, name in GROUP_NAMES.items() if any(k in one.groups for one in known)]
    by_group = (
        f"{switch('group', 'By', groups)}{figure_box('gotgroups', 'By kind of client')}" if groups else ""
    )
    return f"""<section aria-labelledby="h-got"><h2 id="h-got">What each client got</h2>
<div class="intro">{panels}</div>
{switch("got", "Model", [*shown, *gain])}
{figure_box("got", "Accuracy of each client on its own images")}
{by_group}
{switch("paid", "Paid", PAID)}
{figure_box("gotpaid", "Accuracy against what the client paid")}
{_table()}
</section>"""


def _panel(found: ClientOutcome) -> str:
    lines = (table_line(e.what, (f"{e.clients:,}", _index(e.gini), _index(e.jain))) for e in found.evenness)
    heads = ("Spread over clients", "Clients", "Gini", "Jain")
    return f"""<p>{escape(_story(found))}</p>
<p>{escape(_participation(found))}</p>
{table("How evenly work and gain are spread", heads, lines)}"""


def _story(found: ClientOutcome) -> str:
    """Say how the clients fare, the worst tenth first, and whether they gained over training alone."""
    own = [top1 for c in found.clients if (top1 := c.top1(found.model)) is not None]
    worst = [top1 for c in found.clients if c.worst and (top1 := c.top1(found.model)) is not None]
    name = MODEL_NAMES[found.model].lower()
    low, high = min(c.held for c in found.clients), max(c.held for c in found.clients)
    held = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    said = (
        f"After round {found.round}, {len(own):,} clients measured the {name} model on {held} images of "
        f"their own: {percent(sum(own) / len(own))} on average, {percent(sum(worst) / len(worst))} for the "
        f"worst tenth ({len(worst):,}), which is marked."
    )
    if without := len(found.clients) - len(own):
        said += f" {without:,} more can afford no model, and are in none of these figures."
    gained = [c.gain for c in found.clients if c.gain is not None]
    if not gained:
        return said
    tuned = [c.tuned_gain for c in found.clients if c.tuned_gain is not None]
    return " ".join(
        [
            f"{said} Against training alone by the same steps they gain {_mean(gained)} on average; "
            f"{_gainers(gained)}",
            *map(_gain, found.groups.get("tier", ())),
            *([_tuned(tuned)] if tuned else []),
        ]
    )


def _tuned(gained: Sequence[float]) -> str:
    """Say what is gained after training of their own."""
    return f"Fine-tuned on their own images they gain {_mean(gained)} over training alone; {_gainers(gained)}"


def _mean(gained: Sequence[float]) -> str:
    return _points(sum(gained) / len(gained))


def _gainers(gained: Sequence[float]) -> str:
    return f"{sum(gain > 0 for gain in gained):,} of {len(gained):,} gain anything."


def _gain(group: ClientGroup) -> str:
    if not group.gained:
        return f"{group.name}: no model that it can afford, or never asked."
    return f"{group.name}: {_points(group.gain or 0.0)} ({group.gained:,} clients)."


def _participation(found: ClientOutcome) -> str:
    asked = sum(c.asked for c in found.clients)
    used, late = sum(c.completed for c in found.clients), sum(c.late for c in found.clients)
    return (
        f"{found.asked:,} clients were asked in the whole run, and the work of {found.completed:,} was used. "
        f"Those who measured were asked {asked:,} times: {used:,} times used, {late:,} times late or lost."
    )


def _points(gain: float) -> str:
    return f"{100 * gain:+.2f} points"


def _index(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _table() -> str:
    return """<details class="block" data-grid="got"><summary>Table of clients</summary>
<div class="controls"><label>Filter <input type="search" data-filter="got" placeholder="weak, or worst"
aria-label="Show clients whose row holds this text"></label>
<button type="button" data-export="got">Save as CSV</button>
<span class="readout" data-count="got"></span></div>
<div class="scroll" tabindex="0" role="region" aria-label="Table of clients"></div></details>"""
