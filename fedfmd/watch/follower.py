"""What the folder of a run says now, read as it grows; a ledger that was cut back is read anew."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from fedfmd.records import filenames
from fedfmd.records.documents import Ending
from fedfmd.records.rows import ClientRow, EpochRow, RoundRow
from fedfmd.records.schema import Json
from fedfmd.records.tail import Tail
from fedfmd.results.catalogue import FIGURES, entry
from fedfmd.results.runs import salvaged_document, sound_rows

PACE_ROUNDS = 10
"""The time left follows from the median of so many last rounds."""
MOST_CLIENTS = 50
"""Clients of the last round that are told one by one."""
MOST_REASONS = 5


@dataclass
class Follower:
    """Follows one run directory."""

    folder: Path
    rounds: list[RoundRow] = field(default_factory=list)
    epochs: list[EpochRow] = field(default_factory=list)
    cohort: list[ClientRow] = field(default_factory=list)
    """Client rows of the last round."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How often clients were not completed, by reason."""

    def __post_init__(self) -> None:
        self._rounds = Tail(self.folder / filenames.ROUNDS)
        self._clients = Tail(self.folder / filenames.CLIENTS)
        self._epochs = Tail(self.folder / filenames.EPOCHS)

    def look(self) -> Json:
        """Return the state of the run as plain data, for its page."""
        self._follow()
        one = entry(self.folder)
        ending = salvaged_document(self.folder / filenames.SUMMARY, Ending, [])
        going_on = one.status == "running" and one.wanted is not None
        return {
            "name": one.name,
            "kind": one.kind,
            "status": one.status,
            "reason": ending.reason if one.status == "stopped" else None,
            "done": one.done,
            "wanted": one.wanted,
            **{name: getattr(one, name) for name in FIGURES},
            "left_seconds": self._left_seconds(one.wanted - one.done) if going_on and one.wanted else None,
            "cohort": [_client(row) for row in self.cohort[:MOST_CLIENTS]],
            "cohort_round": self.cohort[0].round if self.cohort else None,
            "cohort_size": len(self.cohort),
            "reasons": self.reasons.most_common(MOST_REASONS),
            "unused": self.reasons.total(),
        }

    def _follow(self) -> None:
        cut, lines = self._rounds.read()
        self.rounds = [*([] if cut else self.rounds), *sound_rows(lines, RoundRow)][-PACE_ROUNDS:]
        cut, lines = self._epochs.read()
        self.epochs = [*([] if cut else self.epochs), *sound_rows(lines, EpochRow)][-PACE_ROUNDS:]
        cut, lines = self._clients.read()
        if cut:
            self.cohort, self.reasons = [], Counter()
        for row in sound_rows(lines, ClientRow):
            if self.cohort and row.round != self.cohort[0].round:
                self.cohort = []
            self.cohort.append(row)
            if row.status != "completed":
                self.reasons[f"{row.status}: {row.reason or 'no reason given'}"] += 1

    def _left_seconds(self, rounds: int) -> float | None:
        """Estimate the time to the end from the pace of the last rounds, or epochs; null before the first."""
        paces = [row.host_seconds for row in self.rounds if row.round and row.host_seconds is not None]
        paces += [
            row.train_seconds + (row.test_seconds or 0.0)
            for row in self.epochs
            if row.train_seconds is not None
        ]
        return rounds * median(paces) if paces else None


def _client(row: ClientRow) -> Json:
    return {
        "client": row.client,
        "status": row.status,
        "reason": row.reason,
        "device_seconds": row.device_seconds,
        "macs": row.macs,
        "spent": _spent(row),
    }


def _spent(row: ClientRow) -> float | None:
    """Return the largest share of a limit that the client has used; null without limits."""
    shares = [
        used / limit
        for name, limit in row.budget.items()
        if isinstance(limit, int | float)
        and not isinstance(limit, bool)
        and limit > 0
        and (used := row.spent(name)) is not None
    ]
    return max(shares, default=None)
