"""What is spent: sums with the unit in the name, never averages.

MACs are analytic (``fedfmd.costs.macs``); seconds are measured on this machine; device seconds and joules are
simulated, and null without a device model. The downlink counts once it is sent: a client that fails has still
received the model, and what it computed and sent in vain is also counted as wasted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fedfmd.records.schema import Column, Record, TotalAmount, TotalCount


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """A summing monoid: ``Cost()`` is zero and ``+`` adds field by field."""

    macs: Annotated[
        TotalCount, Column("Analytic training compute of all clients asked.", unit="MAC", label="MACs")
    ] = 0
    downlink_bytes: Annotated[
        TotalCount, Column("Payload that was sent to clients.", unit="B", label="Bytes down")
    ] = 0
    uplink_bytes: Annotated[TotalCount, Column("Payload that clients sent.", unit="B", label="Bytes up")] = 0
    downlink_wire_bytes: Annotated[
        TotalCount, Column("Serialised size of what clients were sent.", unit="B", label="Wire bytes down")
    ] = 0
    uplink_wire_bytes: Annotated[
        TotalCount,
        Column("Serialised size of what clients sent.", unit="B", label="Wire bytes up", measured=True),
    ] = 0
    client_train_seconds: Annotated[
        TotalAmount,
        Column(
            "Measured training time, summed over clients.", unit="s", label="Client seconds", measured=True
        ),
    ] = 0.0
    host_seconds: Annotated[
        TotalAmount,
        Column(
            "Measured time of the round, clients and server.", unit="s", label="Host seconds", measured=True
        ),
    ] = 0.0
    device_seconds: Annotated[
        TotalAmount | None,
        Column(
            "Simulated time on devices, summed; null without any.",
            unit="s",
            label="Device seconds",
        ),
    ] = None
    device_clock_seconds: Annotated[
        TotalAmount | None,
        Column(
            "Simulated time until the slowest accepted client is done.",
            unit="s",
            label="Device clock",
        ),
    ] = None
    energy_joules: Annotated[
        TotalAmount | None,
        Column("Simulated energy, summed; null without devices.", unit="J", label="Energy"),
    ] = None
    host_joules: Annotated[
        TotalAmount | None,
        Column(
            "Measured energy of the machine in `host_seconds`, beyond that at rest (`energy.meter`).",
            unit="J",
            label="Host energy",
            measured=True,
        ),
    ] = None
    measured_joules: Annotated[
        TotalAmount | None,
        Column(
            "Measured energy of the real clients that have a meter, summed; null without any.",
            unit="J",
            label="Clients' energy",
            measured=True,
        ),
    ] = None
    secure_downlink_bytes: Annotated[
        TotalCount,
        Column(
            "Keys, shares and questions of secure sums, sent to clients.", unit="B", label="Secure B down"
        ),
    ] = 0
    secure_uplink_bytes: Annotated[
        TotalCount,
        Column("Keys and shares of secure sums that clients sent.", unit="B", label="Secure B up"),
    ] = 0
    secure_macs: Annotated[
        TotalCount, Column("Compute of keys, shares and masks.", unit="MAC", label="Secure MACs")
    ] = 0
    secure_seconds: Annotated[
        TotalAmount,
        Column(
            "Measured time of keys, shares and masks, summed over clients.",
            unit="s",
            label="Secure [s]",
            measured=True,
        ),
    ] = 0.0
    wasted_macs: Annotated[
        TotalCount, Column("Of clients that are not in the average.", unit="MAC", label="Wasted MACs")
    ] = 0
    wasted_bytes: Annotated[
        TotalCount, Column("Of clients that are not in the average.", unit="B", label="Wasted bytes")
    ] = 0
    evaluation_macs: Annotated[
        TotalCount, Column("Of clients that evaluate: forward passes.", unit="MAC", label="Evaluation MACs")
    ] = 0
    evaluation_downlink_bytes: Annotated[
        TotalCount,
        Column("The model, sent to clients that evaluate.", unit="B", label="Evaluation bytes down"),
    ] = 0
    evaluation_uplink_bytes: Annotated[
        TotalCount, Column("Counts and sums that they sent.", unit="B", label="Evaluation bytes up")
    ] = 0
    evaluation_seconds: Annotated[
        TotalAmount,
        Column(
            "Measured time of the clients' evaluation, on the host.",
            unit="s",
            label="Evaluation [s]",
            measured=True,
        ),
    ] = 0.0
    evaluation_device_seconds: Annotated[
        TotalAmount | None, Column("Simulated, summed over those clients; null without devices.", unit="s")
    ] = None
    evaluation_energy_joules: Annotated[
        TotalAmount | None, Column("Simulated, summed over those clients; null without devices.", unit="J")
    ] = None

    @classmethod
    def total(cls, costs: Iterable["Cost"]) -> "Cost":
        """Return the sum of any number of costs."""
        return sum(costs, Cost())

    def __add__(self, other: "Cost") -> "Cost":
        """Add field by field; null is the zero of the figures that need a device model."""
        names = [f.name for f in fields(Cost)]
        sums: dict[str, Any] = {n: add_known(getattr(self, n), getattr(other, n)) for n in names}
        return Cost(**sums)

    @property
    def bytes(self) -> int:
        """Payload in both directions, with that of secure sums."""
        return self.downlink_bytes + self.uplink_bytes + self.secure_downlink_bytes + self.secure_uplink_bytes

    def by_axis(self) -> dict[str, float | None]:
        """Return the costs that accuracy is held against, by name: the axes of IES, RCS and the report."""
        return {
            "macs": self.macs,
            "bytes": self.bytes,
            "client_train_seconds": self.client_train_seconds,
            "device_seconds": self.device_seconds,
            "energy_joules": self.energy_joules,
        }


def add_known(a: float | None, b: float | None) -> float | None:
    """Return the sum of two figures, either of which may be absent; absent where both are."""
    if a is None or b is None:
        return b if a is None else a
    return a + b
