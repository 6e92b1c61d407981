"""Runs that diverge: a loss far beyond the untrained model's is said aloud, in words that name the cure."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedfmd.records.runlog import LOGGER

DIVERGED = 4.0
"""Times the first loss of its column beyond which a run counts as diverged; see ``DivergenceWatch.first``."""


class DivergenceWatch:
    """Hears the rows of ``rounds.jsonl`` and warns once, in the first round whose loss is far too large."""

    def __init__(self, heard: Iterable[Mapping[str, Any]] = ()):
        """Begin after the rows ``heard`` already, by a run that goes on."""
        self.first: dict[str, float] = {}
        """By column: with several exits the training loss sums over them, and the test loss does not. Where
        clients have few classes their first loss is small: then the untrained model's test loss counts."""
        self.round: int | None = None
        for row in heard:
            self.hear(row)

    def hear(self, row: Mapping[str, Any]) -> str | None:
        """Note a round; gives a warning where the loss is ``DIVERGED`` times the first for the first time."""
        losses = {name: row[name] for name in ("test_loss", "train_loss") if row.get(name) is not None}
        if self.round is not None:
            return None
        for name, loss in losses.items():
            self.first.setdefault(name, max(loss, *self.first.values(), 1e-12))
        times = {name: loss / self.first[name] for name, loss in losses.items()}
        worst = max(times, key=lambda name: times[name], default=None)
        if worst is None or times[worst] <= DIVERGED:
            return None
        self.round = row["round"]
        return (
            f"round {self.round}: the loss is {losses[worst]:.3g}, {times[worst]:.1f} times the first one: "
            "the run diverges; lower server.learning_rate or client.learning_rate"
        )

    def on_round(self, row: Mapping[str, Any]) -> None:
        """Note a round, and log its warning."""
        if warning := self.hear(row):
            LOGGER.warning(warning)
