"""A device's link: what TCP makes of latency and loss, and bandwidth that changes.

A transfer waits a round trip for its first byte, then flows at the link's bandwidth, or at what TCP's
congestion avoidance reaches at a given loss, whichever is less: MSS / RTT * sqrt(3 / 2) / sqrt(p) for
segments of MSS bytes, of which the share p is lost at random (Mathis, Semke, Mahdavi and Ott 1997, "The
Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", equation 3, an acknowledgement per segment).
The formula holds for small p, without timeouts; slow start is left out, so short transfers come out fast.
"""

import math
from dataclasses import dataclass

from fedfmd.config.sections import LinkConfig
from fedfmd.devices.bandwidth import Bandwidth, read_bandwidth
from fedfmd.errors import UserError

SEGMENT_BYTES = 1460
"""An Ethernet frame without the headers of IP and TCP."""
BITS_PER_BYTE = 8


@dataclass(frozen=True, kw_only=True)
class Link:
    """What is between a device and the server, but for its bandwidth where that is constant."""

    round_trip_seconds: float = 0.0
    jitter_seconds: float = 0.0
    """Standard deviation of the round trip, from transfer to transfer."""
    loss: float = 0.0
    """Share of the segments that are lost."""
    downlink: Bandwidth | None = None
    """Of a trace; null where the device's own bandwidth holds."""
    uplink: Bandwidth | None = None

    @property
    def ceiling_bits_per_second(self) -> float:
        """What TCP reaches at this loss."""
        return tcp_bits_per_second(self.round_trip_seconds, self.loss)


def tcp_bits_per_second(round_trip_seconds: float, loss: float) -> float:
    """Return what TCP reaches at a random loss of segments; see this module's equation."""
    if loss <= 0:
        return math.inf
    return BITS_PER_BYTE * SEGMENT_BYTES / round_trip_seconds * math.sqrt(1.5 / loss)


def link_from(config: LinkConfig, device: str) -> Link:
    """Return the link that a config describes; raises ``UserError`` that names the ``device``."""
    where = f"devices: link of {device!r}"
    if config.loss > 0 and config.round_trip_seconds == 0:
        raise UserError(
            f"{where}: loss = {config.loss:g} needs round_trip_seconds above 0: how much TCP slows "
            "down depends on both"
        )
    if config.jitter_seconds > 0 and config.round_trip_seconds == 0:
        raise UserError(
            f"{where}: jitter_seconds = {config.jitter_seconds:g} needs round_trip_seconds above 0"
        )
    return Link(
        round_trip_seconds=config.round_trip_seconds,
        jitter_seconds=config.jitter_seconds,
        loss=config.loss,
        downlink=read_bandwidth(config.downlink_trace) if config.downlink_trace else None,
        uplink=read_bandwidth(config.uplink_trace) if config.uplink_trace else None,
    )
