"""The costs that a report holds accuracy against, and how figures are written for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.report.runs import Run

ABSENT = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One cost: ``key`` names it in a row's ``cumulative``; ``rated`` if IES and RCS exist for it."""

    key: str
    label: str
    unit: str
    meaning: str
    rated: bool = True

    def total(self, row: RoundRow) -> Number:
        """Return the cumulative cost at the end of the round; rounds themselves count as a cost too."""
        return row.round if self.key == "round" else row.cumulative.get(self.key)


AXES: tuple[Axis, ...] = (
    Axis(key="round", label="Rounds", unit="", meaning="communication rounds", rated=False),
    Axis(key="macs", label="MACs", unit="MAC", meaning="analytic training MACs, summed over the cohort"),
    Axis(key="bytes", label="Bytes", unit="B", meaning="payload up and down, summed over the cohort"),
    Axis(
        key="client_train_seconds",
        label="Client seconds",
        unit="s",
        meaning="measured training time on this machine, summed over the cohort",
    ),
    Axis(
        key="device_seconds",
        label="Device seconds",
        unit="s",
        meaning="simulated time on the clients' devices, summed over the cohort",
    ),
    Axis(
        key="device_clock_seconds",
        label="Device clock",
        unit="s",
        meaning="simulated time until a round ends, its slowest accepted client",
        rated=False,
    ),
    Axis(
        key="host_seconds",
        label="Host clock",
        unit="s",
        meaning="measured time of a round on this machine, all clients and the server",
        rated=False,
    ),
    Axis(key="energy_joules", label="Energy", unit="J", meaning="simulated energy, summed over the cohort"),
)


def used_axes(runs: Sequence[Run]) -> list[Axis]:
    """Return the rounds, and the other axes on which at least one run has spent something."""
    rounds, *costs = AXES
    return [rounds] + [axis for axis in costs if any(axis.total(row) for run in runs for row in run.rounds)]


_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(value: Number, unit: str) -> str:
    """Write a cost for people: ``12.4 TMAC``, ``184 MB``, ``1,234 s``; absent is a dash."""
    if value is None:
        return ABSENT
    if not unit or unit == "s":
        return f"{significant(value)} {unit}".strip()
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f), (1.0, ""))
    return f"{significant(value / factor)} {prefix}{unit}"


def rate(value: Number, unit: str) -> str:
    """Write correct answers per cost, with the prefix that makes a readable number: ``3.2 / TMAC``."""
    if value is None:
        return ABSENT
    if not value:
        return f"0 / {unit}"
    steps = [(1.0, "")] if unit == "s" else [(1.0, ""), *reversed(_PREFIXES)]
    factor, prefix = next(((f, p) for f, p in steps if value * f >= 1), steps[-1])
    return f"{significant(value * factor)} / {prefix}{unit}"


def significant(value: float) -> str:
    """Write whole numbers in full and others with three significant digits, thousands separated."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(value: Number, digits: int = 1) -> str:
    """Write a fraction as a percentage; absent is a dash."""
    return ABSENT if value is None else f"{100 * value:.{digits}f}%"
