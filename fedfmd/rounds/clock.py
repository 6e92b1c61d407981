"""The simulated clock: when clients are done, and how long a round takes. It moves from event to event."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """Clients that start when there is room, and a server that steps after every few of them (FedBuff)."""

    now: float = 0.0
    flights: list[Flight] = field(default_factory=list)

    def start(self, client: int, version: int, seconds: float) -> None:
        """Send a client off now; it is done after ``seconds``."""
        if any(flight.client == client for flight in self.flights):
            raise ValueError(f"client {client} is at work already")
        self.flights.append(Flight(client, version, self.now, self.now + seconds))

    def next_finished(self, count: int) -> list[Flight]:
        """Move on until ``count`` clients are done, ties by client; gives them as they finish."""
        self.flights.sort(key=lambda flight: (flight.finish, flight.client))
        done, self.flights = self.flights[:count], self.flights[count:]
        self.now = max(self.now, done[-1].finish) if done else self.now
        return done

    def to_json(self) -> dict[str, Any]:
        """Give the clock as plain data."""
        return {"now": self.now, "flights": [list(vars(flight).values()) for flight in self.flights]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BufferedClock":
        """Read a clock back."""
        return cls(document["now"], [Flight(*flight) for flight in document["flights"]])
