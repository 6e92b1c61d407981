"""What plans and bills have to know of a client: how much data it has, what it runs on, what it can hold."""

from dataclasses import dataclass

from fedfmd.devices import Device


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
    host: Host | None = None
    """The real machine; null in a simulation."""
