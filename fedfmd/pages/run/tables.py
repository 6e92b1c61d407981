"""CSV tables: the data of every figure at full precision, absent figures as empty cells."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fedfmd.files import make_folder, write_atomic
from fedfmd.pages.run.budgets import limit_uses, plan_counts
from fedfmd.pages.run.clients import got_rows
from fedfmd.pages.run.deployed import measured_clients
from fedfmd.pages.run.dynamics import diagnostics_rows
from fedfmd.pages.run.payload import unique_labels
from fedfmd.records.rows import RoundRow
from fedfmd.results.costs import used_axes
from fedfmd.results.runs import Run
from fedfmd.results.summary import ClientTotal, client_totals, compare

_NESTED = ("cumulative", "ies", "rcs", "ies_round", "rcs_round")
_APART = ("diagnostics",)


def write_tables(runs: Sequence[Run], folder: Path) -> None:
    """Write ``rounds``, ``clients``, ``partition`` and ``comparison`` as CSV, a line for each run's row.

    ``evaluations``, ``got`` (a line for each client that measured), ``plans``, ``limits``, ``measured`` and
    ``diagnostics`` are written where a run has any.
    """
    make_folder(folder)
    labels = unique_labels(runs)
    pairs = list(zip(labels, runs, strict=True))
    write_csv(folder / "rounds.csv", [_round(label, row) for label, run in pairs for row in run.rounds])
    write_csv(folder / "clients.csv", [_client(label, t) for label, run in pairs for t in client_totals(run)])
    write_csv(folder / "partition.csv", [row for label, run in pairs for row in _partition(label, run)])
    write_csv(folder / "comparison.csv", _comparison(runs, labels))
    extras = {
        "evaluations": [{"run": label} | row.to_json() for label, run in pairs for row in run.evaluations],
        "got": [{"run": label} | row for label, run in pairs for row in got_rows(run)],
        "plans": [row for label, run in pairs for row in _plans(label, run)],
        "limits": [{"run": label} | asdict(use) for label, run in pairs for use in limit_uses(run)],
        "measured": [{"run": label} | asdict(m) for label, run in pairs for m in measured_clients(run)],
        "diagnostics": [row for label, run in pairs for row in diagnostics_rows(label, run)],
    }
    for name, rows in extras.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows)


def _round(label: str, row: RoundRow) -> dict[str, Any]:
    own = (name for name in RoundRow.columns() if name not in _NESTED + _APART)
    flat = {"run": label} | {name: getattr(row, name) for name in own}
    nested = {f"{name}_{key}": value for name in _NESTED for key, value in getattr(row, name).items()}
    return flat | nested


def _client(label: str, total: ClientTotal) -> dict[str, Any]:
    return {"run": label} | {f.name: getattr(total, f.name) for f in fields(total) if f.name != "reasons"}


def _partition(label: str, run: Run) -> Iterable[dict[str, Any]]:
    for client, counts in enumerate(run.partition.label_counts):
        yield {"run": label, "client": client} | {f"class_{k}": count for k, count in enumerate(counts)}


def _plans(label: str, run: Run) -> Iterable[dict[str, Any]]:
    found = plan_counts(run)
    for group, counts in zip(found.groups, found.counts, strict=True) if found else ():
        for plan, times in zip(found.plans if found else (), counts, strict=True):
            yield {"run": label, "device": group, "plan": plan, "times": times}


def _comparison(runs: Sequence[Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for axis in used_axes(runs):
        found = compare(runs, axis)
        for label, row in zip(labels, found.rows, strict=True):
            figures = {f.name: getattr(row, f.name) for f in fields(row)}
            rows.append(
                {"run": label, "cost_axis": axis.key, "budget": found.budget, "target": found.target}
                | figures
            )
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the names of all their keys; an absent figure is an empty cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    write_atomic(path, text.getvalue())


def _cell(value: Any) -> Any:
    """A spreadsheet runs a text that begins like a formula: a quote mark before it keeps it a text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
