"""What a plan is on the simulated clock where links are shared, or change: the legs of a client's work."""

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.devices import Device, device_of, presence_of, shares_links
from fedfmd.devices.links import BITS_PER_BYTE
from fedfmd.devices.simulation import transfer_seconds
from fedfmd.devices.traffic import Leg, Route, Traffic
from fedfmd.planning.demand import Demand
from fedfmd.seeds import numpy_rng

NANO = 1e-9
"""The simulated clock, in whole nanoseconds, is part of what a round trip is drawn by."""


class Journeys:
    """The network of an experiment: the server's link, and the clients' routes to it."""

    def __init__(self, config: ExperimentConfig):
        self.config = config
        server = config.devices.server_link
        self.to_clients = server.uplink_bits_per_second or math.inf
        self.from_clients = server.downlink_bits_per_second or math.inf
        self.route = lru_cache(maxsize=10_000)(self._route)

    @cached_property
    def needed(self) -> bool:
        """Whether a client's time on the clock depends on more than plan, device and presence."""
        return shares_links(self.config)

    def _route(self, client: int) -> Route:
        device, limit = self._device(client), self._device(client).link.ceiling_bits_per_second
        place = float(numpy_rng(self.config.seed, "bandwidth", client).random())
        return Route(
            downlink=device.downlink.limited(limit).from_place(place),
            uplink=device.uplink.limited(limit).from_place(place),
            presence=presence_of(self.config, client),
        )

    def legs(self, client: int, demand: Demand, now: float) -> tuple[Leg, ...]:
        """Return a client's work from ``now`` on; its round trips are drawn by the seed and that time."""
        device = self._device(client)
        link = device.link
        rng = numpy_rng(self.config.seed, "jitter", client, round(now / NANO))
        drawn = link.round_trip_seconds + link.jitter_seconds * rng.standard_normal(2)
        down, up = demand.in_all.downlink_bytes, demand.in_all.uplink_bytes
        received = transfer_seconds(link, device.downlink, down) - link.round_trip_seconds
        sent = transfer_seconds(link, device.uplink, up) - link.round_trip_seconds
        waits = [
            Leg("wait", max(0.0, float(trip)), link.round_trip_seconds) if size else Leg("wait", 0.0, 0.0)
            for trip, size in zip(drawn, (down, up), strict=True)
        ]
        compute = demand.compute_seconds or 0.0
        return (
            waits[0],
            Leg("download", float(BITS_PER_BYTE * down), received),
            Leg("compute", compute, compute),
            waits[1],
            Leg("upload", float(BITS_PER_BYTE * up), sent),
        )

    def begun(self, demands: Mapping[int, Demand], now: float) -> Traffic:
        """Return the traffic of clients who all begin now."""
        traffic = Traffic(self, now)
        for client, demand in demands.items():
            traffic.start(client, self.legs(client, demand, now))
        return traffic

    def finish_seconds(self, demands: Mapping[int, Demand], now: float) -> dict[int, float]:
        """Return after how many seconds each of the clients is done who all begin now."""
        traffic, finish = self.begun(demands, now), dict[int, float]()
        while (client := traffic.next_finished()) is not None:
            finish[client] = traffic.now - now
        return finish

    def worked_seconds(self, demands: Mapping[int, Demand], now: float, seconds: float) -> dict[int, float]:
        """Return how much of their work those have done after some seconds who are not done then."""
        traffic = self.begun(demands, now)
        while traffic.next_finished(now + seconds) is not None:
            pass
        return {client: trip.worked_seconds for client, trip in traffic.trips.items()}

    def _device(self, client: int) -> Device:
        device = device_of(self.config, client)
        assert device is not None, "links belong to devices"
        return device
