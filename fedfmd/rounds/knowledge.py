"""What the server knows of its clients beside the model; it lasts between rounds, and in a checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor

from fedfmd.planning.policy import Usage, usage_after
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
from fedfmd.rounds.buffered import Buffered
from fedfmd.rounds.journeys import Journeys
from fedfmd.selection.history import SelectionHistory


@dataclass
class FailedAttempts:
    """Attempts at the round to come that were not enough; they last when a run gives up."""

    count: int = 0
    clock_seconds: float = 0.0
    """How long they took on the simulated clock."""

    def add(self, clock_seconds: float | None) -> None:
        """Count one more."""
        self.count += 1
        self.clock_seconds += clock_seconds or 0.0


@dataclass
class Knowledge:
    """Who has kept state, who uses which kernels, how good and fast clients were, and who is at work."""

    state_rounds: dict[int, int] = field(default_factory=dict)
    """Client to the stamp of its kept state: the round in which it was kept, see ``WorkOrder.stamp``."""
    usage: dict[int, Usage] = field(default_factory=dict)
    """Client to how much its data used each kernel."""
    history: SelectionHistory = field(default_factory=SelectionHistory)
    buffered: Buffered = field(default_factory=Buffered)
    failed: FailedAttempts = field(default_factory=FailedAttempts)
    asked: set[int] = field(default_factory=set)
    """Clients that were sent an order, where it matters who was."""

    def learn_asked(self, rows: Iterable[ClientRow]) -> None:
        """Remember who was sent an order."""
        self.asked |= {row.client for row in rows if row.downlink_bytes}

    def learn_usage(self, rows: Iterable[ClientRow], kernels: int) -> None:
        """Remember how much the clients' data used the kernels that they held, of ``kernels`` in all."""
        for row in rows:
            if row.used and "kernel_usage" in row.diagnostics:
                held, measured = row.plan.get("kernel_set", ()), row.diagnostics["kernel_usage"]
                self.usage[row.client] = usage_after(self.usage.get(row.client, ()), held, measured, kernels)

    def kept_states(self, clients: Sequence[int], newer: Mapping[int, int]) -> tuple[int, ...]:
        """Return for each client the stamp of its kept state, of the ``newer`` ones first; 0 for none."""
        return tuple(newer.get(client, self.state_rounds.get(client, 0)) for client in clients)

    def to_json(self) -> Json:
        """Return it as plain data, but for the states' rounds and the versions."""
        return {
            "usage": list(self.usage.items()),
            "history": self.history.to_json(),
            "buffered": self.buffered.to_json(),
            "failed": asdict(self.failed),
            "asked": sorted(self.asked),
        }

    @classmethod
    def restored(
        cls,
        document: Json,
        state_rounds: Mapping[int, int],
        versions: Mapping[int, Tensor],
        journeys: Journeys,
    ) -> "Knowledge":
        """Continue from a checkpoint, on the network of ``journeys``."""
        return cls(
            state_rounds=dict(state_rounds),
            usage=dict(document["usage"]),
            history=SelectionHistory.from_json(document["history"]),
            buffered=Buffered.restored(document["buffered"], versions, journeys),
            failed=FailedAttempts(**document["failed"]),
            asked=set(document.get("asked", ())),
        )
