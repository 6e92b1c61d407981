"""The data that a page carries: plain columns, ready for JSON, from runs and their comparisons."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from fedfmd.pages.run.budgets import plan_counts
from fedfmd.pages.run.clients import got_payload
from fedfmd.pages.run.dynamics import dynamics_picture
from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Json, headings
from fedfmd.results.costs import Axis, used_axes
from fedfmd.results.runs import Run
from fedfmd.results.summary import ClientTotal, chance_level, client_totals, compare

MAX_DRAWN_CLIENTS = 300
MAX_DRAWN_CLASSES = 100

CLIENT_COSTS: tuple[dict[str, str | None], ...] = (
    {"key": "macs", "label": "MACs", "unit": "MAC", "wasted": "wasted_macs"},
    {"key": "bytes", "label": "Bytes", "unit": "B", "wasted": "wasted_bytes"},
    {"key": "train_seconds", "label": "Client seconds", "unit": "s", "wasted": "wasted_train_seconds"},
    {"key": "device_seconds", "label": "Device seconds", "unit": "s", "wasted": None},
    {"key": "energy_joules", "label": "Energy", "unit": "J", "wasted": None},
    {"key": "participations", "label": "Rounds taken part", "unit": "", "wasted": "unused"},
)


def page_data(runs: Sequence[Run], labels: Sequence[str]) -> Json:
    """Collect everything the figures and tables of a page show."""
    axes = used_axes(runs)
    totals = [client_totals(run) for run in runs]
    return {
        "axes": [asdict(axis) for axis in axes],
        "chance": chance_level(runs),
        "clientCosts": client_costs(totals),
        "roundColumns": headings(RoundRow),
        "runs": [_run(*each, axes) for each in zip(runs, labels, totals, strict=True)],
        "comparisons": {axis.key: [asdict(row) for row in compare(runs, axis).rows] for axis in axes},
    }


def client_costs(totals: Sequence[Sequence[ClientTotal]]) -> list[dict[str, str | None]]:
    """Return the costs per client that at least one client has."""
    everyone = [total for run in totals for total in run]
    return [cost for cost in CLIENT_COSTS if any(getattr(total, str(cost["key"])) for total in everyone)]


class Labelled(Protocol):
    """A run of either kind, as its label is made of it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def folder(self) -> Path:
        """Its directory."""


def unique_labels(runs: Sequence[Labelled]) -> list[str]:
    """Return the runs' names; of those that share one, with the folder added, and a number if need be."""
    names = [run.name for run in runs]
    labels = [
        n if names.count(n) == 1 else f"{n} ({r.folder.name})" for n, r in zip(names, runs, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label} {labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]


def columns(rows: Sequence[Any], names: Iterable[str]) -> dict[str, list[Any]]:
    """Turn rows into columns by name."""
    return {name: [getattr(row, name) for row in rows] for name in names}


def partition_picture(run: Run) -> Json | None:
    """Return class-by-client sample counts to draw; large populations and label sets are thinned evenly."""
    counts, names = run.partition.label_counts, run.partition.class_names
    if not counts:
        return None
    if len(names) != len(counts[0]):  # of an older run
        names = [str(k) for k in range(len(counts[0]))]
    step = -(-len(counts) // MAX_DRAWN_CLIENTS)
    class_step = -(-len(counts[0]) // MAX_DRAWN_CLASSES)
    clients = list(range(0, len(counts), step))
    classes = list(range(0, len(counts[0]), class_step))
    return {
        "clients": [called(run, c) for c in clients],
        "classes": [names[k] for k in classes],
        "counts": [[counts[c][k] for c in clients] for k in classes],
        "thinned": step > 1 or class_step > 1,
    }


def called(run: Run, client: int) -> str:
    """Return a client's name where it has one, else its number."""
    names = run.partition.client_names
    return names[client] if client < len(names) and names[client] else str(client)


def _run(run: Run, label: str, totals: Sequence[ClientTotal], axes: Sequence[Axis]) -> Json:
    scores = {
        kind: {
            axis.key: [getattr(row, kind).get(axis.key) for row in run.rounds] for axis in axes if axis.rated
        }
        for kind in ("ies", "rcs", "ies_round", "rcs_round")
    }
    plans = plan_counts(run)
    return {
        "label": label,
        "names": run.partition.client_names,
        "finished": run.finished,
        "plans": asdict(plans) if plans else None,
        "dynamics": dynamics_picture(run),
        "x": {axis.key: [axis.total(row) for row in run.rounds] for axis in axes},
        "rounds": columns(run.rounds, (name for name, *_ in headings(RoundRow))),
        "clients": columns(totals, (f.name for f in fields(ClientTotal) if f.name != "reasons")),
        "picture": partition_picture(run),
        "got": got_payload(run),
        **scores,
    }
