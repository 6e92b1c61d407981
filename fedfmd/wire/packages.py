"""What crosses the wire: work orders down, work results up, and how large they are.

A package is a JSON document and named flat tensors in safetensors' format, which executes nothing on
reading; the couriers, Flower or a function call, only carry the two. A deployed client gets orders of
length one; a worker of a simulation gets many clients in one order.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.nn.temperature import Temperatures
from fedfmd.plan import ClientPlan
from fedfmd.records.rows import ClientRow

TURN_BITS = 32
"""A round's number has fewer bits."""


class BadPackageError(ValueError):
    """Bytes that are no package, or a package that does not fit the model."""


@dataclass(frozen=True)
class Package:
    """The bytes that travel."""

    meta: str
    tensors: bytes

    @property
    def wire_bytes(self) -> int:
        """Size of the package, without what the courier adds around it."""
        return len(self.meta.encode()) + len(self.tensors)


def pack(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Package:
    """Serialise a document and its tensors."""
    return Package(json.dumps(meta, separators=(",", ":")), save(dict(tensors)))


def unpack(package: Package) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a package; raises ``BadPackageError`` for bytes that are none."""
    try:
        meta = json.loads(package.meta)
        tensors = load(package.tensors)
    except (SafetensorError, ValueError) as error:
        raise BadPackageError(f"not a package: {error}") from None
    if not isinstance(meta, dict):
        raise BadPackageError("not a package: the document is no object")
    return meta, tensors


@lru_cache(maxsize=64)
def serialised_bytes(elements: int) -> int:
    """Measured size of one float32 vector (elements,) as a package's tensors."""
    return len(save({"vector": torch.zeros(elements)}))


@dataclass(frozen=True, kw_only=True)
class WorkOrder:
    """Train these clients on this state, one after another, and reply with one sum."""

    round: int
    attempt: int
    """Counts the repetitions of the round, each with another cohort."""
    clients: tuple[int, ...]
    learning_rate: float
    temperatures: Temperatures
    scale: Scale
    state_rounds: tuple[int, ...] = ()
    """For each client the round whose kept state it starts from; 0 for none. Empty if nothing is kept."""
    plans: tuple[ClientPlan, ...] = ()
    """What each client does; empty when all do everything."""
    staleness: int = 0
    """How many versions older than the server's the state is."""
    turn: int = 0
    """How often these clients have answered before in this round, where that is possible (FedBuff)."""
    resend: int = 0
    """How often this work was sent before without an answer."""

    @property
    def stamp(self) -> int:
        """Number of a client's work that no other work of the client has: the round, in its first turn."""
        return self.round + (self.turn << TURN_BITS)

    def state_round(self, client: int) -> int:
        """Give the round whose kept state a client starts from; 0 for none."""
        return self.state_rounds[self.clients.index(client)] if self.state_rounds else 0

    def only(self, client: int) -> "WorkOrder":
        """Give the order for one of its clients alone, to be sent again."""
        place = self.clients.index(client)
        return replace(
            self,
            clients=(client,),
            state_rounds=self.state_rounds[place : place + 1],
            plans=self.plans[place : place + 1],
            resend=self.resend + 1,
        )

    def plan(self, client: int) -> ClientPlan | None:
        """Give a client's plan; null when it does everything."""
        return self.plans[self.clients.index(client)] if self.plans else None

    def part(self, client: int) -> str:
        """Name the part of the model that a client trains."""
        plan = self.plan(client)
        return plan.share.key if plan else ""

    def to_json(self) -> dict[str, Any]:
        """Give the order as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "WorkOrder":
        """Read an order back."""
        return cls(
            round=document["round"],
            attempt=document["attempt"],
            resend=document["resend"],
            clients=tuple(document["clients"]),
            state_rounds=tuple(document["state_rounds"]),
            plans=tuple(ClientPlan.from_json(plan) for plan in document["plans"]),
            staleness=document["staleness"],
            turn=document["turn"],
            learning_rate=document["learning_rate"],
            temperatures=Temperatures(**document["temperatures"]),
            scale=Scale(**document["scale"]),
        )


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """One exact sum over the order's usable clients, and one row for each of its clients."""

    total: ExactSum
    rows: tuple[ClientRow, ...]

    def pack(self) -> Package:
        """Serialise the reply; a sum in borrowed memory stays there."""
        meta = {
            "rows": [row.to_json() for row in self.rows],
            "scale": asdict(self.total.scale),
            "weights": self.total.weights,
        }
        return pack(meta, {} if self.total.borrowed else {"quanta": self.total.quanta})

    @classmethod
    def unpack(cls, package: Package, shared: Tensor | None = None) -> "WorkResult":
        """Read a reply; raises ``BadPackageError`` when it is damaged.

        ``shared`` is the memory that the sum is in, when the reply does not carry it.
        """
        meta, tensors = unpack(package)
        try:
            rows = tuple(ClientRow.from_json(row) for row in meta["rows"])
            quanta = tensors["quanta"] if shared is None else shared
            weights, borrowed = _weights(meta["weights"]), shared is not None
            total = ExactSum(Scale(**meta["scale"]), quanta, weights, borrowed)
        except (KeyError, TypeError, ValueError) as error:
            raise BadPackageError(f"malformed reply: {error}") from None
        return cls(total=total, rows=rows)

    def check(self, order: WorkOrder, elements: int, weights: Mapping[int, int]) -> None:
        """Raise ``BadPackageError`` unless this answers ``order``.

        ``elements`` is the length of the sum; ``weights`` are what its clients weigh if they are used.
        """
        quanta = self.total.quanta
        if quanta.shape != (elements,) or quanta.dtype != torch.float64:
            raise BadPackageError(f"sum of shape {tuple(quanta.shape)}, {quanta.dtype}; needs ({elements},)")
        if self.total.scale != order.scale or {r.round for r in self.rows} != {order.round}:
            raise BadPackageError("the reply answers another order")
        if [row.client for row in self.rows] != list(order.clients):
            raise BadPackageError("the reply does not have one answer from each client")
        expected: Counter[str] = Counter()
        for row in self.rows:
            if row.used:
                expected[order.part(row.client)] += weights[row.client]
        if self.total.weights != dict(expected):
            raise BadPackageError("the sum's weights are not those of its clients")
        low, high = torch.aminmax(quanta)  # NaN spreads to both; much faster than isfinite().all()
        if not bool((high - low).isfinite()):
            raise BadPackageError("the sum holds NaN or infinity")


def _weights(document: Mapping[str, Any]) -> dict[str, int]:
    weights = dict(document)
    if any(type(weight) is not int for weight in weights.values()):
        raise ValueError("a weight is no whole number")
    return weights


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for an order: a result, or the reason why there is none."""

    order: WorkOrder
    result: WorkResult | None = None
    reason: str = "no reply"
    arrived: bool = False
    """Whether an answer came that is of no use."""
