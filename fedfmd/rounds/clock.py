"""The simulated clock: when clients are done, and how long a round takes. It moves from event to event."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import Any

from fedfmd.devices.traffic import Leg, Traffic
from fedfmd.planning.demand import Demand
from fedfmd.rounds.journeys import Journeys


def sync_round(
    finish_seconds: Mapping[int, float], cohort: int, deadline: float | None
) -> tuple[list[int], list[int], float]:
    """Return who is accepted, who is late, and how long the round takes.

    The first ``cohort`` to finish are accepted, ties by client, and the round ends with the last of them.
    Whoever has not finished by the ``deadline`` is late; a round that waits in vain takes as long as that.
    """
    order = sorted(finish_seconds, key=lambda client: (finish_seconds[client], client))
    limit = math.inf if deadline is None else deadline
    accepted = [client for client in order[:cohort] if finish_seconds[client] <= limit]
    taken = set(accepted)
    late = [client for client in order if client not in taken]
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
        """Return the clock as plain data."""
        return {"now": self.now, "flights": [list(vars(flight).values()) for flight in self.flights.values()]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BufferedClock":
        """Read a clock back."""
        return cls(document["now"], {client: Flight(client, *rest) for client, *rest in document["flights"]})


class SharedClock:
    """The same where links are shared, or change: when a client is done depends on who else is at work."""

    def __init__(self, journeys: Journeys, now: float = 0.0):
        self.journeys = journeys
        self.traffic = Traffic(journeys, now)
        self.flights: dict[int, Flight] = {}

    @property
    def now(self) -> float:
        """Where the clock stands."""
        return self.traffic.now

    @now.setter
    def now(self, now: float) -> None:
        self.traffic.now = now

    def start(self, client: int, version: int, demand: Demand) -> None:
        """Send a client off now, with what its plan demands. Raises ``ValueError`` for one at work."""
        self.traffic.start(client, self.journeys.legs(client, demand, self.now))
        self.flights[client] = Flight(client, version, self.now, math.inf)

    def next_finished(self) -> Flight | None:
        """Move on until a client is done, ties by client; null when nobody is at work."""
        client = self.traffic.next_finished()
        return None if client is None else replace(self.flights.pop(client), finish=self.now)

    def to_json(self) -> dict[str, Any]:
        """Return the clock as plain data."""
        flights = [[f.client, f.version, f.started] for f in self.flights.values()]
        return {"now": self.now, "flights": flights, "trips": self.traffic.to_json()}

    @classmethod
    def after(cls, clock: BufferedClock, journeys: Journeys) -> "SharedClock":
        """Go on from a clock of a network that nobody shared: who is at work then ends when it would have."""
        shared = cls(journeys, clock.now)
        for client, flight in clock.flights.items():
            left = flight.finish - clock.now
            shared.traffic.start(client, [Leg("wait", left, left)])
            shared.flights[client] = flight
        return shared

    @classmethod
    def from_json(cls, document: Mapping[str, Any], journeys: Journeys) -> "SharedClock":
        """Read a clock back."""
        clock = cls(journeys)
        clock.traffic = Traffic.from_json(document["trips"], journeys, document["now"])
        clock.flights = {
            c: Flight(c, version, started, math.inf) for c, version, started in document["flights"]
        }
        return clock
