"""What a client's work cost: rows a client, summed to rounds, summed to runs.

All figures are sums with the unit in the name, never averages. MACs are analytic (``fedfmd.network.cost``);
seconds are measured on this machine; device seconds and joules are simulated, and null without a device
model. The downlink counts once it is sent: a client that fails has still received the model, and what it
computed and sent in vain is also counted as wasted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

Status = Literal["completed", "partial", "dropped", "failed"]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """One client in one round: a line of ``clients.jsonl``."""

    round: int
    attempt: int = 0
    client: int
    status: Status
    reason: str | None = None
    examples: int = 0
    staleness: int | None = None
    """Steps of the server since the client got the model, where `server.mode` is `buffered`."""
    steps: int = 0
    plan: Json = field(default_factory=dict)
    budget: Json = field(default_factory=dict)
    macs_planned: int = 0
    macs: int = 0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    downlink_wire_bytes: int = 0
    uplink_wire_bytes: int = 0
    train_seconds: float = 0.0
    device_seconds: float | None = None
    energy_joules: float | None = None
    memory_bytes: int | None = None
    train_loss: float | None = None
    cpu_seconds: float | None = None
    """Measured by a real client, from the start of its process: processor time of all its threads."""
    wall_seconds: float | None = None
    peak_memory_bytes: int | None = None
    diagnostics: Json = field(default_factory=dict)

    @property
    def used(self) -> bool:
        """Whether the client's update entered the global model."""
        return self.status in ("completed", "partial")

    def rejected(self, status: Status, reason: str) -> Self:
        """Give the row of a client whose work is not used; what it cost stays."""
        return replace(self, status=status, reason=reason)

    def to_json(self) -> Json:
        """Give the row as plain data."""
        return asdict(self)


def client_row(document: Mapping[str, Any]) -> ClientRow:
    """Read a row back; raises ``ValueError`` for missing or unknown fields, or a wrong type."""
    row = ClientRow(**document)
    for name in ("round", "client", "examples", "steps", "macs", "downlink_bytes", "uplink_bytes"):
        value = getattr(row, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} = {value!r} is no count")
    if not 0 <= row.train_seconds < float("inf"):
        raise ValueError(f"train_seconds = {row.train_seconds!r} is no duration")
    return row


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A summing monoid: ``Cost()`` is zero and ``+`` adds field by field."""

    macs: int = 0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    downlink_wire_bytes: int = 0
    uplink_wire_bytes: int = 0
    client_train_seconds: float = 0.0
    host_seconds: float = 0.0
    device_seconds: float | None = None
    device_clock_seconds: float | None = None
    energy_joules: float | None = None
    wasted_macs: int = 0
    wasted_bytes: int = 0

    @classmethod
    def of(cls, row: ClientRow) -> Self:
        """Cost of one client in one round."""
        return cls(
            macs=row.macs,
            downlink_bytes=row.downlink_bytes,
            uplink_bytes=row.uplink_bytes,
            downlink_wire_bytes=row.downlink_wire_bytes,
            uplink_wire_bytes=row.uplink_wire_bytes,
            client_train_seconds=row.train_seconds,
            device_seconds=row.device_seconds,
            energy_joules=row.energy_joules,
            wasted_macs=0 if row.used else row.macs,
            wasted_bytes=0 if row.used else row.downlink_bytes + row.uplink_bytes,
        )

    @classmethod
    def total(cls, costs: Iterable[Self]) -> Self:
        """Sum of any number of costs."""
        result = cls()
        for cost in costs:
            result = result + cost
        return result

    def __add__(self, other: Self) -> Self:
        """Add field by field; null is the zero of the figures that need a device model."""
        names = [f.name for f in fields(self)]
        sums: dict[str, Any] = {n: _add(getattr(self, n), getattr(other, n)) for n in names}
        return type(self)(**sums)

    @property
    def bytes(self) -> int:
        """Payload in both directions."""
        return self.downlink_bytes + self.uplink_bytes

    def by_axis(self) -> dict[str, float | None]:
        """Give the costs that accuracy is held against, by name: the axes of IES, RCS and the report."""
        return {
            "macs": self.macs,
            "bytes": self.bytes,
            "client_train_seconds": self.client_train_seconds,
            "device_seconds": self.device_seconds,
            "energy_joules": self.energy_joules,
        }

    def to_json(self) -> Json:
        """Give the figures as plain data."""
        return asdict(self)


def _add(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
