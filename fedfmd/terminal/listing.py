"""Tables of runs on a terminal: the list of a folder, and runs side by side."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedfmd.records.schema import one_line
from fedfmd.results.catalogue import Entry, differing_keys
from fedfmd.results.differences import Differences
from fedfmd.units import ABSENT, SHARE, decimals, quantity

UNITS = {"study": "runs", "federated": "rounds", "central": "epochs"}
COLOURS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "stopped": "red",
    "damaged": "red",
}
WIDE, WIDER, WIDEST = 80, 96, 120
"""Columns of a terminal from which on more figures, the time, and keys of the configs are shown."""
DEVICE = ("Device", "device_seconds", "s")
"""Shown where the clients of a run have devices."""
MOST_KEYS = 3
LONGEST_VALUE = 24


def runs_table(entries: Sequence[Entry], width: int, keys: Sequence[str] = ()) -> Table:
    """Return the table of ``fedfmd runs`` for a terminal ``width`` columns wide.

    ``keys`` of the config get a column each; by default the first few in which the runs differ, if they fit.
    """
    shown = list(keys) or (differing_keys(entries)[:MOST_KEYS] if width >= WIDEST else [])
    figures = [("Top-1", "top1", SHARE), ("MACs", "macs", "MAC")]
    if width >= WIDE:
        figures += [("Bytes", "bytes", "B")]
        figures += [DEVICE] if any(one.device_seconds is not None for one in entries) else []
    names = names_of(entries)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Run", overflow="fold", min_width=12)
    table.add_column("Status", no_wrap=True)
    table.add_column("Done", no_wrap=True, justify="right")
    for heading, *_ in figures:
        table.add_column(heading, no_wrap=True, justify="right")
    for key in shown:
        table.add_column(key, overflow="fold")
    if width >= WIDER:
        table.add_column("Changed", no_wrap=True)
    for one, name in zip(entries, names, strict=True):
        cells: list[str | Text] = [name, Text(one.status, style=COLOURS[one.status]), _done(one)]
        cells += [quantity(getattr(one, name), unit) for _, name, unit in figures]
        cells += [_value(one.value(key)) for key in shown]
        cells += [_day(one.changed)] if width >= WIDER else []
        table.add_row(*cells)
    return table


def comparison_tables(comparison: Differences, names: Sequence[str]) -> list[Table]:
    """Return what differs, and the results, a column per run; two runs get their difference, too.

    ``names`` are what the columns are called.
    """
    configs = _side_by_side("Config", names)
    for key, values in comparison.keys.items():
        configs.add_row(key, *map(_value, values))
    if not comparison.keys:
        configs.add_row("no key differs", *([""] * len(names)))
    grounds = _side_by_side("Code, data, machine", names)
    for name, told in comparison.grounds.items():
        grounds.add_row(name, *(_value(one) for one in told))
    two = len(names) == 2
    results = _side_by_side("Results", [*names, "Change"] if two else names, right=True)
    results.add_row("Status", *(run.status for run in comparison.runs), *([""] if two else []))
    for one in comparison.figures:
        cells = [quantity(value, one.unit) for value in one.values]
        results.add_row(one.label, *cells, *([_change(one.change, one.unit)] if two else []))
    return [configs, *([grounds] if comparison.grounds else []), results]


def _side_by_side(title: str, names: Sequence[str], *, right: bool = False) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(title, overflow="fold")
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if right else "left", no_wrap=right)
    return table


def _change(value: float | int | None, unit: str) -> str:
    if value is None:
        return ABSENT
    sign = "+" if value > 0 else ""
    return f"{sign}{decimals(100 * value, 2)}{' points' if unit == SHARE else '%'}"


def _done(one: Entry) -> str:
    of = f"/{one.wanted}" if one.wanted is not None else ""
    return f"{one.done}{of} {UNITS[one.kind]}"


def _value(value: Any) -> str:
    text = ABSENT if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return one_line(text, LONGEST_VALUE)


def place_of(entries: Sequence[Entry]) -> Path:
    """Return the folder in which the tables name the runs: the working directory where it holds them all."""
    paths = [one.folder.resolve() for one in entries]
    here = Path.cwd()
    if all(path.is_relative_to(here) for path in paths):
        return here
    return Path(os.path.commonpath([path.parent for path in paths]))


def names_of(entries: Sequence[Entry]) -> list[str]:
    """Return the runs' folders, as they are called from there."""
    place = place_of(entries)
    return [str(one.folder.resolve().relative_to(place)) for one in entries]


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ABSENT
