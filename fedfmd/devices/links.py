"""A device's link: what TCP makes of latency and loss, and bandwidth that changes.

A transfer waits a round trip for its first byte, then flows at the link's bandwidth, or at what TCP's
congestion avoidance reaches at a given loss, whichever is less: MSS / RTT * sqrt(3 / 2) / sqrt(p) for
segments of MSS bytes, of which the share p is lost at random (Mathis, Semke, Mahdavi and Ott 1997, "The
Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", equation 3, an acknowledgement per segment).
The formula holds for small p, without timeouts; slow start is left out, so short transfers come out fast.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from fedfmd.config.sections.devices import LinkConfig
from fedfmd.devices.bandwidth import Bandwidth, read_bandwidth
from fedfmd.errors import UserError

SEGMENT_BYTES = 1460
"""An Ethernet frame without the headers of IP and TCP."""
BITS_PER_BYTE = 8
TRACES = ("downlink", "uplink")


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
    def varies(self) -> bool:
        """Whether transfers of one size take different times."""
        return self.jitter_seconds > 0 or self.downlink is not None or self.uplink is not None

    @property
    def ceiling_bits_per_second(self) -> float:
        """What TCP reaches at this loss."""
        return tcp_bits_per_second(self.round_trip_seconds, self.loss)


def tcp_bits_per_second(round_trip_seconds: float, loss: float) -> float:
    """Return what TCP reaches at a random loss of segments; see this module's equation."""
    if loss <= 0:
        return math.inf
    return BITS_PER_BYTE * SEGMENT_BYTES / round_trip_seconds * math.sqrt(1.5 / loss)


def link_from(config: LinkConfig, base: Link, device: str) -> Link:
    """Return the link that a config describes, ``base`` where it says nothing.

    Raises ``UserError`` that names the ``device``.
    """
    where = f"devices: link of {device!r}"
    given = config.model_dump(exclude_none=True)
    traces: dict[str, Any] = {
        name: read_bandwidth(path)
        for name in TRACES
        if (path := given.pop(f"{name}_trace", None)) is not None
    }
    link = replace(base, **given, **traces)
    if link.loss > 0 and link.round_trip_seconds == 0:
        raise UserError(
            f"{where}: loss = {link.loss:g} needs round_trip_seconds above 0: how much TCP slows "
            "down depends on both"
        )
    if link.jitter_seconds > 0 and link.round_trip_seconds == 0:
        raise UserError(f"{where}: jitter_seconds = {link.jitter_seconds:g} needs round_trip_seconds above 0")
    return link
