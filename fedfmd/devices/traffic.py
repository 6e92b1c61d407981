"""Work of many clients on one clock, through a server whose own link they share.

A fluid model: at any time the transfers of one direction share the server's bandwidth max-min fairly
(Bertsekas and Gallager 1992, section 6.5), each of them limited by its client's own link, which is what many
TCP flows come near to. Rates change when a transfer begins or ends, when a trace takes its next step, and
when a device comes or goes; between these events they are constant, so the clock jumps from one to the next
and nothing is approximated.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fedfmd.devices.bandwidth import Bandwidth
from fedfmd.devices.presence import Presence

PhaseKind = Literal["wait", "download", "compute", "upload"]


@dataclass(frozen=True)
class Leg:
    """A part of a client's work: seconds, or bits that are sent."""

    kind: PhaseKind
    amount: float
    nominal_seconds: float
    """What it takes on an idle network."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """What limits a client but the others."""

    downlink: Bandwidth
    uplink: Bandwidth
    presence: Presence | None = None


class TrafficNetwork(Protocol):
    """What traffic flows through."""

    @property
    def to_clients(self) -> float:
        """Bits per second that the server sends to all together; infinite without limit."""

    @property
    def from_clients(self) -> float:
        """Bits per second that it receives from all together."""

    def route(self, client: int, /) -> Route:
        """Return what limits a client but the others."""


@dataclass
class Trip:
    """A client's work, leg after leg."""

    legs: tuple[Leg, ...]
    index: int = 0
    """Which leg it is at."""
    done: float = 0.0
    """How much of that leg is done."""

    @property
    def leg(self) -> Leg | None:
        """The leg it is at; null when all is done."""
        return self.legs[self.index] if self.index < len(self.legs) else None

    @property
    def worked_seconds(self) -> float:
        """What its work so far takes on an idle network."""
        whole = math.fsum(leg.nominal_seconds for leg in self.legs[: self.index])
        return whole + (self.leg.nominal_seconds * self.done / self.leg.amount if self.leg else 0.0)


def fair_shares(capacity: float, limits: Mapping[int, float]) -> dict[int, float]:
    """Share a capacity max-min fairly among those who can take no more than their ``limits``.

    Nobody gets more than its limit, all of the capacity is used where the limits allow it, and who gets less
    than its limit gets as much as anybody.
    """
    left, shares = capacity, dict[int, float]()
    order = sorted(limits, key=lambda one: (limits[one], one))
    for place, one in enumerate(order):
        shares[one] = min(limits[one], left / (len(order) - place))
        left -= shares[one]
    return shares


class Traffic:
    """The clients at work, and the clock."""

    def __init__(self, network: TrafficNetwork, now: float = 0.0):
        self.network = network
        self.now = now
        self.trips: dict[int, Trip] = {}

    def start(self, client: int, legs: Iterable[Leg]) -> None:
        """Let a client begin now; raises ``ValueError`` for one at work."""
        if client in self.trips:
            raise ValueError(f"client {client} is at work already")
        self.trips[client] = Trip(tuple(leg for leg in legs if leg.amount > 0))

    def next_finished(self, until: float = math.inf) -> int | None:
        """Move on until a client is done, ties by client, or to a time; null when nobody is done by then.

        The clock then stands at ``until``, if that is a time; it does not move where nobody is at work.
        """
        while self.trips:
            ready = [client for client, trip in self.trips.items() if trip.leg is None]
            if ready:
                client = min(ready)
                del self.trips[client]
                return client
            if self.now >= until:
                return None
            self._step(until)
        return None

    def _step(self, until: float) -> None:
        """Move to the next event."""
        rates, change = self._rates()
        ends = {client: self._end(client, rate) for client, rate in rates.items()}
        then = min(change, until, *ends.values())
        if math.isinf(then):
            raise RuntimeError("nobody's work goes on any more")
        for client, rate in rates.items():
            trip = self.trips[client]
            if ends[client] <= then:
                trip.index, trip.done = trip.index + 1, 0.0
            else:
                trip.done += rate * (then - self.now)
        self.now = then

    def _end(self, client: int, rate: float) -> float:
        """Return when a client's leg ends if nothing changes."""
        trip = self.trips[client]
        assert trip.leg is not None
        left = max(0.0, trip.leg.amount - trip.done)
        return self.now + left / rate if rate > 0 else math.inf

    def _rates(self) -> tuple[dict[int, float], float]:
        """Return how fast each client's leg goes, and until when that holds if none of them ends."""
        rates: dict[int, float] = {}
        limits: dict[str, dict[int, float]] = {"download": {}, "upload": {}}
        change = math.inf
        for client in sorted(self.trips):
            leg, route = self.trips[client].leg, self.network.route(client)
            assert leg is not None
            there, until = (True, math.inf) if route.presence is None else route.presence.at(self.now)
            change = min(change, until)
            if not there:
                rates[client] = 0.0
            elif leg.kind in limits:
                band = route.downlink if leg.kind == "download" else route.uplink
                limits[leg.kind][client], until = band.at(self.now)
                change = min(change, until)
            else:
                rates[client] = 1.0
        rates |= fair_shares(self.network.to_clients, limits["download"])
        return rates | fair_shares(self.network.from_clients, limits["upload"]), change

    def to_json(self) -> list[Any]:
        """Return who is where with its work, as plain data."""
        return [
            [
                client,
                trip.index,
                trip.done,
                [[leg.kind, leg.amount, leg.nominal_seconds] for leg in trip.legs],
            ]
            for client, trip in self.trips.items()
        ]

    @classmethod
    def from_json(cls, document: Iterable[Any], network: TrafficNetwork, now: float) -> "Traffic":
        """Take back what ``to_json`` gave."""
        traffic = cls(network, now)
        for client, index, done, legs in document:
            traffic.trips[client] = Trip(tuple(Leg(*leg) for leg in legs), index, done)
        return traffic
