"""Runs that diverge: a loss far beyond the untrained model's is said aloud, in words that name the cure."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedfmd.records.runlog import LOGGER

DIVERGED = 4.0
"""Times the first loss of the run, that of the untrained model, beyond which a run counts as diverged."""


class DivergenceWatch:
    """Hears the rows of ``rounds.jsonl`` and warns once, in the first round whose loss is far too large."""

    def __init__(self, heard: Iterable[Mapping[str, Any]] = ()):
        """Begin after the rows ``heard`` already, by a run that goes on."""
        self.first: float | None = None
        self.round: int | None = None
        for row in heard:
            self.hear(row)

    def hear(self, row: Mapping[str, Any]) -> str | None:
        """Note a round; gives a warning where the loss is ``DIVERGED`` times the first for the first time."""
        losses = [row[name] for name in ("test_loss", "train_loss") if row.get(name) is not None]
        if self.round is not None or not losses:
            return None
        if self.first is None:
            self.first = losses[0]
            return None
        if max(losses) <= DIVERGED * self.first:
            return None
        self.round = row["round"]
        return (
            f"round {self.round}: the loss is {max(losses):.3g}, {max(losses) / self.first:.1f} times that "
            "of the untrained model: the run diverges; lower server.learning_rate or client.learning_rate"
        )

    def on_round(self, row: Mapping[str, Any]) -> None:
        """Note a round, and log its warning."""
        if warning := self.hear(row):
            LOGGER.warning(warning)
