"""What the benchmarks share: interleaved timing, tables, and a record of the machine."""

import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def clock() -> float:
    """Seconds: of the wall, or with one thread its CPU time, which other processes disturb less."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(runs: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, list[float]]:
    """Time every run once a round, in turn, so that a disturbance hits all alike; the first is warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and least, the latter being what the code takes when nothing else runs."""
    return {"median": round(1e3 * statistics.median(seconds), 3), "least": round(1e3 * min(seconds), 3)}


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Row:
    """Median and middle half of the ratios, turn by turn: a machine whose speed drifts changes them least."""
    lower, median, upper = statistics.quantiles([a / b for a, b in zip(seconds, base, strict=True)], n=4)
    return {"x": round(median, 2), "middle half": f"{lower:.2f}-{upper:.2f}"}


def machine() -> Row:
    """The machine, versions and command a figure belongs to."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(title: str, rows: Sequence[Row], path: Path | None) -> None:
    """Print rows as a table and, given a path, write them with the machine as JSON and the table as text."""
    document = {"title": title, "machine": machine(), "rows": list(rows)}
    consoles = [Console(width=140)]
    if path:
        path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        consoles.append(Console(width=140, file=path.with_suffix(".txt").open("w")))
    for console in consoles:
        console.print(_table(title, rows))
        console.print(", ".join(f"{key} {value}" for key, value in document["machine"].items()))


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    return table


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
