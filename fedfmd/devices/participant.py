"""What plans and bills have to know of a client: how much data it has, what it runs on, what it can hold."""

from dataclasses import dataclass

from fedfmd.devices import Device, Presence


@dataclass(frozen=True, kw_only=True)
class Host:
    """The machine of a real client, as it says itself."""

    memory_bytes: int | None
    """What training may take, beside what the client's processes take anyway; null without a limit."""
    compiled: bool
    """Whether it has the compiled kernels: without them, a dynamic layer holds more."""


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client to whom a plan is given."""

    examples: int
    device: Device | None = None
    """The simulated device; null where the experiment has none."""
    presence: Presence | None = None
    """When it is there on the simulated clock; null for always."""
    host: Host | None = None
    """The real machine; null in a simulation."""

    def elapsed(self, now: float, device_seconds: float) -> float:
        """Return the time on the simulated clock that so much work takes from ``now`` on."""
        return device_seconds if self.presence is None else self.presence.takes(now, device_seconds)

    def worked(self, now: float, seconds: float) -> float:
        """Return the time for work within ``seconds`` from ``now`` on."""
        return seconds if self.presence is None else self.presence.worked(now, seconds)
