"""Carries work orders to Flower nodes and their replies back."""

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

from flwr.app import Message, MessageType
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.flower.messages import from_record, to_record
from fedfmd.machine.liveness import DIED, LATE
from fedfmd.records.schema import Json, one_line
from fedfmd.rounds.packing import Measurer, Measuring
from fedfmd.rounds.secure import Members, VirtualMembers
from fedfmd.secure.messages import Ask
from fedfmd.training.watchdog import LATE_SECONDS, due
from fedfmd.wire.examination import ExaminationOrder
from fedfmd.wire.packages import (
    BadPackageError,
    Package,
    Reply,
    WorkOrder,
    WorkResult,
    most_bytes,
    pack,
)
from fedfmd.wire.testing import ServerTestOrder
from fedfmd.workers.exchange import Exchange

AnyOrder = WorkOrder | ExaminationOrder | ServerTestOrder
Order = TypeVar("Order", WorkOrder, ExaminationOrder, ServerTestOrder)
NAMES: Mapping[type[AnyOrder], str] = {
    WorkOrder: "order",
    ExaminationOrder: "examination",
    ServerTestOrder: "test",
}
"""Under which a message holds an order of each kind."""
POLL_SECONDS = 0.005
START_TIMEOUT_SECONDS = 120.0
"""How long nodes may take to appear, and their workers to answer for the first time."""
_WRAPPED = re.compile(r"<class '[\w.]+'>:<'(.*)'>", re.DOTALL)
"""How Flower tells of an exception in a ClientApp."""
APP_ERRORS = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)


class Post(Protocol):
    """What an exchange needs of Flower's grid."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List the nodes that are there, and how each is called."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; gives their names."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies to these messages that are here."""


@dataclass(frozen=True)
class Pending:
    """A message that is out: which package it was, to whom it went, and when it counts as lost."""

    index: int
    node: int
    due: float


class OrderExchange(Measurer):
    """Sends packages with orders to nodes and gives what comes back; who gets which order is for others."""

    workers = 0
    tests = False

    def __init__(self, grid: Post, config: ExperimentConfig, about: Json):
        """Take what every message says beside its order: ``about`` names the experiment."""
        self.grid = grid
        self.config = config
        self.about = about
        self.elements = 0
        """Of the vector that is out."""
        self.poll_seconds = POLL_SECONDS
        self.late_seconds = LATE_SECONDS
        self.idle: deque[int] = deque()
        self.busy: dict[str, int] = {}
        """Messages whose answer is of no use, and the nodes that work on them and get no order meanwhile."""
        self.starting: set[str] = set()

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders, one at a time on each node; replies come in order of completion."""
        for order, message in self._exchange(orders, vector, MessageType.TRAIN):
            yield self._read(order, message)

    def _packages(
        self, orders: Sequence[Measuring], vector: Tensor
    ) -> Iterator[tuple[Measuring, Package | None]]:
        for order, message in self._exchange(orders, vector, MessageType.EVALUATE):
            package: Package | None = None
            if message is not None and not message.has_error():
                with suppress(BadPackageError):
                    package = from_record(message.content)
            yield order, package

    def _exchange(
        self, orders: Sequence[Order], vector: Tensor, kind: str
    ) -> Iterator[tuple[Order, Message | None]]:
        """Send every order and give what came back for it; null for one that is overdue."""
        self.elements = len(vector)
        tensors = self._broadcast(vector)
        waiting = deque(range(len(orders)))
        pending: dict[str, Pending] = {}
        while waiting or pending:
            if not pending:
                self._await_idle()
            for index, node in self._assign(waiting, orders):
                identifier = self.push(self._package(tensors, orders[index], node), kind, node)
                if identifier is None:
                    yield orders[index], None
                    continue
                pending[identifier] = Pending(index, node, self._due(orders[index]))
            for message in self.pull([*pending, *self.busy]):
                answered = self._free(message, pending)
                if answered is None:
                    continue
                yield orders[answered.index], message
            for identifier in [i for i, p in pending.items() if time.monotonic() > p.due]:
                lost = pending.pop(identifier)
                self._overdue(identifier, lost.node)
                yield orders[lost.index], None

    def _assign(self, waiting: deque[int], orders: Sequence[AnyOrder]) -> Iterator[tuple[int, int]]:
        """Take the orders that can go out now, and say to which nodes."""
        del orders
        while waiting and self.idle:
            yield waiting.popleft(), self.idle.popleft()

    def _free(self, message: Message, pending: dict[str, Pending]) -> Pending | None:
        """Note that a node has answered; gives null for an answer that is late, or not the first.

        Raises ``RunError`` when a worker could not even start.
        """
        identifier = message.metadata.reply_to_message_id
        if identifier in self.starting and message.has_error() and message.error.code in APP_ERRORS:
            raise RunError(f"a worker cannot start: {last_line(message.error.reason)}")
        late = self.busy.pop(identifier, None)
        answered = pending.pop(identifier, None)
        node = late if answered is None else answered.node
        if node is not None:
            self.idle.append(node)
        return answered

    def _overdue(self, identifier: str, node: int) -> None:
        """Take note that a message's answer is no longer waited for."""
        self.busy[identifier] = node

    def _await_idle(self) -> None:
        """Wait for a worker: at the start until one is ready, later if all hang.

        Raises ``RunError`` when none answers in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.idle:
            if time.monotonic() > deadline:
                raise RunError(
                    f"none of the {self.workers} workers answered in {START_TIMEOUT_SECONDS:.0f} s"
                )
            for message in self.pull(list(self.busy)):
                self._free(message, {})

    def _due(self, order: AnyOrder) -> float:
        return due(order.allowed_seconds(self.config.client.deadline_seconds), self.late_seconds)

    def _broadcast(self, vector: Tensor) -> bytes:
        """Return the tensors of every order's package."""
        return pack({}, {"vector": vector}).tensors

    def _package(
        self,
        tensors: bytes,
        order: AnyOrder | None = None,
        node: int | None = None,
        stage: Ask | None = None,
    ) -> Package:
        meta = {**self.about, **self._beside(node)}
        if order is not None:
            meta[NAMES[type(order)]] = order.to_json()
        if stage is not None:
            meta["stage"] = stage.to_json()
        return Package(json.dumps(meta), tensors)

    def _beside(self, node: int | None) -> Json:
        """Return what a package says to this node alone, beside its order."""
        del node
        return {}

    def push(self, package: Package, kind: str, node: int) -> str | None:
        """Send a package to a node; gives the message's identifier, null where there is no such node now."""
        message = Message(to_record(package), dst_node_id=node, message_type=kind)
        (identifier,) = self.grid.push_messages([message]) or (None,)
        return identifier or None  # Flower says so by an empty text, the same for all

    def pull(self, identifiers: Sequence[str]) -> list[Message]:
        """Return the replies that are here to some messages, after a short pause where there are none."""
        messages = list(self.grid.pull_messages(identifiers))
        if not messages:
            time.sleep(self.poll_seconds)
        return messages

    def _read(self, order: WorkOrder, message: Message | None) -> Reply:
        if message is None:
            return Reply(order=order, reason=LATE)
        if message.has_error():
            return Reply(order=order, reason=last_line(message.error.reason))
        try:
            most = most_bytes(self.elements, len(order.clients))
            result = self._result(from_record(message.content), message.metadata.src_node_id, most)
            return Reply(order=order, result=result)
        except BadPackageError as error:
            return Reply(order=order, reason=str(error), arrived=True)

    def _result(self, package: Package, node: int, most: int) -> WorkResult:
        del node
        return WorkResult.unpack(package, most=most)


class GridExecutor(OrderExchange):
    """An executor over the nodes of a Flower grid: a node is a worker, whatever clients it is given.

    Flower's own strategies send one message a client, wait for all replies and sample nodes; here the
    server names the clients, a node gets the next order once it has answered, and replies are folded in as
    they come, so traffic and memory grow with the workers and not with the cohort. Workers are asked to get
    ready at once, while the server prepares its first round. If all are ``on_this_machine``, vectors cross in
    shared memory.
    """

    def __init__(self, grid: Grid, experiment: Experiment, workers: int, *, on_this_machine: bool = False):
        document = json.dumps(experiment.to_json(), sort_keys=True)
        super().__init__(grid, experiment.config, {"experiment": document})
        nodes = wait_for_nodes(grid, workers)
        self.workers = len(nodes)
        self.nodes = nodes
        self.on_this_machine = self.tests = on_this_machine
        self.exchange: Exchange | None = None
        asked = {node: self.push(self._package(b""), MessageType.QUERY, node) for node in nodes}
        self.busy = {name: node for node, name in asked.items() if name is not None}
        self.starting = set(self.busy)

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return the virtual clients, whose keys and shares are made here."""
        return VirtualMembers(experiment, round, attempt)

    def close(self) -> None:
        """Give the shared memory back."""
        if self.exchange is not None:
            self.exchange.close()

    def _broadcast(self, vector: Tensor) -> bytes:
        if self.on_this_machine and self.exchange is None:
            self.exchange = Exchange.create(len(vector), self.nodes)
            self.on_this_machine = self.exchange is not None
        if self.exchange is None:
            return super()._broadcast(vector)
        self.exchange.write(vector)
        return pack({}, {}).tensors

    def _beside(self, node: int | None) -> Json:
        """Say where the node finds its vector, if not in the package."""
        if self.exchange is None or node is None:
            return {}
        return {"place": asdict(self.exchange.place(node))}

    def _result(self, package: Package, node: int, most: int) -> WorkResult:
        shared = self.exchange.sum(node) if self.exchange else None
        return WorkResult.unpack(package, shared, most)


def wait_for_nodes(grid: Grid, workers: int, timeout: float = START_TIMEOUT_SECONDS) -> list[int]:
    """Wait until ``workers`` nodes are there: a ServerApp starts before its nodes are registered.

    Raises ``RunError`` when there is none at all in ``timeout`` seconds; fewer than asked for are enough.
    """
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= workers:
            return nodes[:workers]
        if time.monotonic() > deadline:
            if not nodes:
                raise RunError(f"no Flower node connected in {timeout:.0f} s")
            return nodes
        time.sleep(POLL_SECONDS)


def last_line(reason: str | None) -> str:
    """Keep what a person needs of a remote traceback."""
    if "ray.exceptions.Actor" in (reason or ""):
        return DIED
    if wrapped := _WRAPPED.fullmatch(reason or ""):
        reason = wrapped[1]
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else "no reason given"
