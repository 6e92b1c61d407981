"""What crosses the wire: work orders down, work results up, and how large they are.

A package is a JSON document and named flat tensors in safetensors' format, which executes nothing on
reading; the couriers, Flower or a function call, only carry the two. A deployed client gets orders of
length one; a worker of a simulation gets many clients in one order.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from safetensors.torch import load, save
from torch import Tensor

from fedfmd.aggregation import ExactSum, RejectedUpdateError, Scale
from fedfmd.nn.temperature import Temperatures
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import (
    Amount,
    Count,
    Json,
    Record,
    SchemaError,
    Text,
    Weight,
    dump,
    one_line,
    strict_json,
)
from fedfmd.secure.sums import MaskedSum
from fedfmd.wire.plan import ClientPlan
from fedfmd.wire.secure import SecureOrder
from fedfmd.wire.upload import Upload

REPLY_BYTES = 1 << 20
CLIENT_BYTES = 1 << 16
"""Of a reply's document, at most: a row is some kB, with diagnostics some more for each layer."""

Word = Annotated[int, Field(ge=-(2**63), lt=2**63)]

RESULT = "result"
"""Under which a reply without a sum holds what was measured."""
MAX_RESENDS = 2
"""How often an order without a reply goes out again before its client counts as failed."""
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
    return Package(dump(meta, separators=(",", ":")), save(dict(tensors)))


def unpack(package: Package, most: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a package of at most ``most`` bytes, which is checked before anything is read.

    Raises ``BadPackageError`` for bytes that are none.
    """
    if most is not None and package.wire_bytes > most:
        raise BadPackageError(f"too large: {package.wire_bytes:,} bytes, {most:,} are allowed")
    try:
        meta = strict_json(package.meta)
        tensors = load(package.tensors)
    except Exception as error:  # whatever foreign bytes make of a decoder
        raise BadPackageError(one_line(f"not a package: {error}")) from None
    if not isinstance(meta, dict):
        raise BadPackageError("not a package: the document is no object")
    return meta, tensors


def most_bytes(elements: int, clients: int) -> int:
    """Return the size that a reply for ``clients``, with a sum of ``elements``, never exceeds."""
    return 8 * elements + REPLY_BYTES + CLIENT_BYTES * clients


Told = TypeVar("Told", bound=Record)


def read_about(kind: type[Told], package: Package, name: str, most: int) -> Told:
    """Read the record that a package of at most ``most`` bytes holds under ``name``, and nothing else.

    Raises ``BadPackageError`` for any other package.
    """
    meta, _ = unpack(package, most)
    if set(meta) != {name} or not isinstance(meta[name], dict):
        raise BadPackageError(f"malformed reply: it must hold {name}, and nothing else")
    try:
        return kind.exactly(meta[name])
    except SchemaError as error:
        raise BadPackageError(f"malformed {name}: {error}") from None


@lru_cache(maxsize=64)
def serialised_bytes(elements: int, kind: torch.dtype = torch.float32) -> int:
    """Measured size of one vector (elements,) as a package's tensors."""
    return len(save({"vector": torch.zeros(elements, dtype=kind)}))


class Message(Record):
    """A record that crosses the wire whole, with all that it holds."""

    def to_json(self) -> Json:
        """Return it as plain data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True, kw_only=True)
class WorkOrder(Message):
    """Train these clients on this state, one after another, and reply with one sum."""

    round: Count
    attempt: Count
    """Counts the repetitions of the round, each with another cohort."""
    clients: tuple[Count, ...]
    learning_rate: Amount
    temperatures: Temperatures
    scale: Scale
    state_rounds: tuple[Count, ...] = ()
    """For each client the round whose kept state it starts from; 0 for none. Empty if nothing is kept."""
    plans: tuple[ClientPlan, ...] = ()
    """What each client does; empty when all do everything."""
    staleness: Count = 0
    """How many versions older than the server's the state is."""
    turn: Count = 0
    """How often these clients have answered before in this round, where that is possible (FedBuff)."""
    resend: Count = 0
    """How often this work was sent before without an answer."""
    task: Literal["train", "statistics"] = "train"
    """What to sum: updates, or the moments of static BatchNorm (``fedfmd.training.statistics``)."""
    secure: SecureOrder | None = None
    """Whom to mask the updates with; null where they are summed as they are."""

    @property
    def stamp(self) -> int:
        """Number of a client's work that no other work of the client has: the round, in its first turn."""
        return self.round + (self.turn << TURN_BITS)

    def allowed_seconds(self, deadline_seconds: float | None) -> float | None:
        """Return how long it may take where each client has a deadline."""
        return None if deadline_seconds is None else len(self.clients) * deadline_seconds

    def state_round(self, client: int) -> int:
        """Return the round whose kept state a client starts from; 0 for none."""
        return self.state_rounds[self.clients.index(client)] if self.state_rounds else 0

    def only(self, client: int) -> "WorkOrder":
        """Return the order for one of its clients alone, to be sent again."""
        place = self.clients.index(client)
        return replace(
            self,
            clients=(client,),
            state_rounds=self.state_rounds[place : place + 1],
            plans=self.plans[place : place + 1],
            resend=self.resend + 1,
        )

    def plan(self, client: int) -> ClientPlan | None:
        """Return a client's plan; null when it does everything."""
        return self.plans[self.clients.index(client)] if self.plans else None

    def part(self, client: int) -> str:
        """Name the part of the model that a client trains."""
        plan = self.plan(client)
        return plan.share.key if plan else ""


@dataclass(frozen=True, kw_only=True)
class ReplyDocument(Record):
    """The document of a reply."""

    rows: tuple[ClientRow, ...]
    scale: Scale
    weights: dict[Text, Weight] | None = None
    """Of an exact sum, or of a real client's update."""
    figures: tuple[Word, ...] | None = None
    """Of a masked sum, beside the words of the vector."""


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """One sum over the order's usable clients, exact or masked, and one row for each of its clients.

    A real client sends its update itself, of which the server makes the sum.
    """

    total: ExactSum | MaskedSum | Upload
    rows: tuple[ClientRow, ...]

    def pack(self) -> Package:
        """Serialise the reply; a sum in borrowed memory stays there."""
        total = self.total
        meta = {"rows": [row.to_json() for row in self.rows], "scale": asdict(total.scale)}
        if isinstance(total, MaskedSum):
            meta["figures"] = total.figures.tolist()
        else:
            meta["weights"] = total.weights
        if isinstance(total, Upload):
            return pack(meta, total.tensors)
        return pack(meta, {} if total.borrowed else {"quanta": total.quanta})

    @classmethod
    def unpack(
        cls,
        package: Package,
        shared: Tensor | None = None,
        most: int | None = None,
        *,
        update_of: int | None = None,
    ) -> "WorkResult":
        """Read a reply of at most ``most`` bytes; raises ``BadPackageError`` when it is damaged.

        ``shared`` is the memory that the sum is in, when the reply does not carry it. Where ``update_of`` is
        given, what is not masked is one client's update of a vector of so many elements, and no sum.
        """
        meta, tensors = unpack(package, most)
        try:
            answer = ReplyDocument.exactly(meta)
        except SchemaError as error:
            raise BadPackageError(f"malformed reply: {error}") from None
        if update_of is not None and answer.weights is not None and answer.figures is None:
            return cls(total=Upload(answer.scale, update_of, tensors, answer.weights), rows=answer.rows)
        if set(tensors) != ({"quanta"} if shared is None else set()):
            raise BadPackageError("malformed reply: it must hold one sum, and no other tensor")
        quanta, borrowed = tensors["quanta"] if shared is None else shared, shared is not None
        if answer.weights is not None and answer.figures is None:
            total = ExactSum(answer.scale, quanta, answer.weights, borrowed)
            return cls(total=total, rows=answer.rows)
        if answer.weights is not None or answer.figures is None:
            raise BadPackageError("malformed reply: it must hold weights or figures")
        words, figures = quanta.view(torch.int64) if borrowed else quanta, torch.tensor(answer.figures)
        return cls(total=MaskedSum(answer.scale, words, figures, borrowed), rows=answer.rows)

    def check(
        self,
        order: WorkOrder,
        elements: int,
        weights: Mapping[int, int],
        index_of: Callable[[str], Tensor | None],
    ) -> None:
        """Raise ``BadPackageError`` unless this answers ``order``.

        ``elements`` is the length of the sum; ``weights`` are what its clients weigh if they are used;
        ``index_of`` gives the places of a part in the sum, null for all (``ExactSum.holders``).
        """
        total = self.total
        if isinstance(total, Upload):
            raise BadPackageError("the reply holds an update; needs a sum")
        if not total.fits(elements) or isinstance(total, MaskedSum) != (order.secure is not None):
            found = f"{tuple(total.quanta.shape)}, {total.quanta.dtype}"
            raise BadPackageError(f"sum of shape {found}; needs ({elements},)")
        if self.total.scale != order.scale or {r.round for r in self.rows} != {order.round}:
            raise BadPackageError("the reply answers another order")
        if [row.client for row in self.rows] != list(order.clients):
            raise BadPackageError("the reply does not have one answer from each client")
        if isinstance(total, MaskedSum):
            return  # nothing else can be told of masked words
        expected: Counter[str] = Counter()
        for row in self.rows:
            if row.used:
                expected[order.part(row.client)] += weights[row.client]
        if total.weights != dict(expected):
            raise BadPackageError("the sum's weights are not those of its clients")
        try:
            total.check(index_of)
        except RejectedUpdateError as error:
            raise BadPackageError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for an order: a result, or the reason why there is none."""

    order: WorkOrder
    result: WorkResult | None = None
    reason: str = "no reply"
    arrived: bool = False
    """Whether an answer came that is of no use."""
    final: bool = False
    """Whether there is nobody to send the order to again."""
