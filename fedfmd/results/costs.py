"""The costs that a report holds accuracy against."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.results.runs import Run


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One cost: ``key`` names it in a row's ``cumulative``; ``rated`` if IES and RCS exist for it."""

    key: str
    label: str
    unit: str
    meaning: str
    rated: bool = True

    @property
    def in_text(self) -> str:
        """The label inside a sentence."""
        return self.label if self.key == "macs" else self.label.lower()

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
