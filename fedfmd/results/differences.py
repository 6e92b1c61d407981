"""Two runs or more side by side: in what their configs and what they rest on differ, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfmd.errors import UserError
from fedfmd.records import filenames
from fedfmd.records.documents import Parts
from fedfmd.records.schema import Json, Number
from fedfmd.results.catalogue import Entry, differing_keys, entry, is_run
from fedfmd.results.runs import read_environment, salvaged_document

RESULTS = (
    ("done", "Rounds or epochs", ""),
    ("top1", "Final top-1", "%"),
    ("macs", "MACs", "MAC"),
    ("bytes", "Bytes up and down", "B"),
    ("device_seconds", "Device seconds", "s"),
    ("host_seconds", "Host clock", "s"),
)
"""Figures of an entry with their labels and units."""
PACKAGES = ("torch", "numpy")
"""Those of the environment that can change a bit."""
SHOWN_DIGITS = 12
"""Of a hash."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure of each run; ``change`` is the last less the first, relative to the first but for shares."""

    key: str
    label: str
    unit: str
    values: tuple[Number, ...]
    change: Number = None


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What ``fedfmd compare`` says."""

    runs: tuple[Entry, ...]
    keys: dict[str, tuple[Any, ...]]
    """Keys of the configs that differ, with each run's value; null where it has none."""
    grounds: dict[str, tuple[str | None, ...]]
    """What else the runs rest on and that differs: versions, images, parts of their own, by what it is."""
    figures: tuple[Difference, ...]

    def to_json(self) -> Json:
        """Return the comparison as plain data."""
        return {
            "runs": [str(run.folder) for run in self.runs],
            "config": {key: list(values) for key, values in self.keys.items()},
            "grounds": {name: list(values) for name, values in self.grounds.items()},
            "results": {one.key: list(one.values) for one in self.figures},
        }


def compare_runs(folders: Sequence[Path]) -> Differences:
    """Return what tells runs apart; raises ``UserError`` for less than two, and for what is no run."""
    if len(folders) < 2:
        raise UserError("compare: name at least two run directories")
    for folder in folders:
        if not is_run(folder):
            raise UserError(f"{filenames.no_run(folder)}; fedfmd runs lists them")
    runs = tuple(map(entry, folders))
    if damaged := next((run for run in runs if run.status == "damaged"), None):
        raise UserError(f"{damaged.damage}; it cannot be compared")
    keys = {key: tuple((run.config or {}).get(key) for run in runs) for key in differing_keys(runs)}
    return Differences(runs=runs, keys=keys, grounds=_grounds(folders), figures=tuple(_figures(runs)))


def _grounds(folders: Sequence[Path]) -> dict[str, tuple[str | None, ...]]:
    """Return what the runs rest on beside their configs, where it differs; null where a run has not said."""
    found = [_grounds_of(folder) for folder in folders]
    names = dict.fromkeys(name for one in found for name in one)
    values = {name: tuple(one.get(name) for one in found) for name in names}
    return {name: told for name, told in values.items() if len(set(told)) > 1}


def _grounds_of(folder: Path) -> dict[str, str | None]:
    """Return what can change a bit of a run: code, versions, the processor's kernels, images, own parts."""
    environment = read_environment(folder, [])
    parts = salvaged_document(folder / filenames.PARTS, Parts, [])
    commit = environment.commit and environment.commit[:SHOWN_DIGITS]
    told = {"fedfmd": environment.fedfmd, "commit": commit, "Python": environment.python}
    told |= {name: environment.packages.get(name) for name in PACKAGES}
    told |= {"kernels": environment.kernels, "processor": environment.processor}
    told |= {"images": parts.images and parts.images[:SHOWN_DIGITS]}
    told |= {part.words: part.version and part.version[:SHOWN_DIGITS] for part in parts.registered}
    return told | {file: digest[:SHOWN_DIGITS] for file, digest in parts.files.items()}


def _figures(runs: Sequence[Entry]) -> list[Difference]:
    found = []
    for key, label, unit in RESULTS:
        values = tuple(getattr(run, key) for run in runs)
        if any(value is not None for value in values):
            change = _change(values[0], values[-1], absolute=unit == "%")
            found.append(Difference(key=key, label=label, unit=unit, values=values, change=change))
    return found


def _change(first: Number, last: Number, *, absolute: bool) -> Number:
    if first is None or last is None:
        return None
    if absolute:
        return last - first
    return (last - first) / first if first else None
