"""The simulated clock: when clients are done, and how long a round takes. It moves from event to event."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any


def sync_round(
    finish_seconds: Mapping[int, float], cohort: int, deadline: float | None
) -> tuple[list[int], list[int], float]:
    """Give who is accepted, who is late, and how long the round takes.

    The first ``cohort`` to finish are accepted, ties by client, and the round ends with the last of them.
    Whoever has not finished by the ``deadline`` is late; a round that waits in vain takes as long as that.
    """
    order = sorted(finish_seconds, key=lambda client: (finish_seconds[client], client))
    limit = math.inf if deadline is None else deadline
    accepted = [client for client in order[:cohort] if finish_seconds[client] <= limit]
    late = [client for client in order if client not in set(accepted)]
    waited = len(accepted) < min(cohort, len(order))
    seconds = limit if waited else max((finish_seconds[client] for client in accepted), default=0.0)
    return sorted(accepted), sorted(late), seconds


@dataclass(frozen=True)
class Flight:
    """A client that is at work."""

    client: int
    version: int
    """Number of the server's steps when it got the model."""
    started: float
    finish: float


@dataclass
class BufferedClock:
    """The clients at work on the simulated clock, which moves from one's finish to the next (FedBuff)."""

    now: float = 0.0
    flights: dict[int, Flight] = field(default_factory=dict)
    """Client to its flight."""

    def __post_init__(self) -> None:
        self._queue = [(flight.finish, client) for client, flight in self.flights.items()]
        heapify(self._queue)

    def start(self, client: int, version: int, seconds: float) -> None:
        """Send a client off now; it is done after ``seconds``. Raises ``ValueError`` for one at work."""
        if client in self.flights:
            raise ValueError(f"client {client} is at work already")
        self.flights[client] = Flight(client, version, self.now, self.now + seconds)
        heappush(self._queue, (self.now + seconds, client))

    def next_finished(self) -> Flight | None:
        """Move on until a client is done, ties by client; null when nobody is at work."""
        if not self._queue:
            return None
        finish, client = heappop(self._queue)
        self.now = max(self.now, finish)
        return self.flights.pop(client)

    def to_json(self) -> dict[str, Any]:
        """Give the clock as plain data."""
        return {"now": self.now, "flights": [list(vars(flight).values()) for flight in self.flights.values()]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BufferedClock":
        """Read a clock back."""
        return cls(document["now"], {client: Flight(client, *rest) for client, *rest in document["flights"]})
