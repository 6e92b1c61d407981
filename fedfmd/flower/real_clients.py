"""An executor whose nodes are real clients: who they are, what each is sent, what it answers."""

import json
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from flwr.app import Message, MessageType
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.data.dataset import Dataset
from fedfmd.deployment.assignment import assignment
from fedfmd.deployment.introduction import Introduction, misfit
from fedfmd.deployment.layout import ROUND_SECONDS
from fedfmd.experiment import Experiment
from fedfmd.flower.grid import AnyOrder, OrderExchange, Post, last_line
from fedfmd.flower.inquiry import Inquiry, answer_in
from fedfmd.flower.members import RealMembers
from fedfmd.flower.messages import SALT, SALT_BYTES, from_record
from fedfmd.records.schema import Json, one_line
from fedfmd.secure.messages import Ask, Told
from fedfmd.secure.sums import MaskedSum
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import (
    BadPackageError,
    Package,
    Reply,
    WorkOrder,
    WorkResult,
    most_bytes,
    pack,
    read_about,
)
from fedfmd.wire.testing import ServerTestOrder

POLL_SECONDS = 0.5
"""Every look for replies is a request to the SuperLink, and clients look for orders every 3 s."""
LATE_SECONDS = 120.0
"""Beside its training, a client's answer takes seconds of polling, at worst a start of Python and torch."""


class ClientExecutor(OrderExchange):
    """An executor whose nodes are clients: each gets its own orders, at once, and no others'."""

    def __init__(
        self,
        grid: Post,
        config: ExperimentConfig,
        run: str,
        clients: int,
        data: Dataset,
        round_seconds: float = ROUND_SECONDS,
    ):
        super().__init__(grid, config, {})
        self.run = run
        self.workers = clients
        self.data = data
        """The server's, as clients shall see theirs."""
        self.poll_seconds = POLL_SECONDS
        self.late_seconds = LATE_SECONDS
        self.round_seconds = round_seconds
        """After which a round goes on with the answers that are there."""
        self.ends = 0.0
        """When (``time.monotonic``) the orders that are out are given up."""
        self.inquiry = Inquiry(self, lambda: self.question({}), self._introduced, clients)
        self.asked: RealMembers
        """In the secure sum that goes on."""

    def gather(self, needed: int | None = None) -> None:
        """Wait until ``needed`` clients, by default all, have said who they are; raises ``RunError``."""
        self.inquiry.gather(self.workers if needed is None else needed)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Send each client its orders; one that has left is not waited for."""
        here, gone = self._by_presence(orders)
        yield from (self._read(order, None) for order in gone)
        yield from super().train(here, vector)

    def examine(
        self, orders: Sequence[ExaminationOrder], vector: Tensor
    ) -> Iterator[tuple[ExaminationOrder, ExaminationResult | None]]:
        """Let clients measure; null for one that has left."""
        here, gone = self._by_presence(orders)
        yield from ((order, None) for order in gone)
        yield from super().examine(here, vector)

    def push(self, package: Package, kind: str, node: int) -> str | None:
        """Send a package to a node; one that has been put out, as its push says, is there no more."""
        identifier = super().push(package, kind, node)
        if identifier is None:
            self.inquiry.forget(node)
        return identifier

    def _broadcast(self, vector: Tensor) -> bytes:
        """Return the tensors of every order's package, which nobody has seen or can know before."""
        salt = torch.frombuffer(bytearray(secrets.token_bytes(SALT_BYTES)), dtype=torch.uint8)
        return pack({}, {"vector": vector, SALT: salt}).tensors

    def question(self, asked: Json) -> Package:
        """Return what asks any client something beside the run's description."""
        package = self._package(b"")
        return Package(json.dumps({**json.loads(package.meta), **asked}), package.tensors)

    def _introduced(self, message: Message) -> Introduction:
        said = answer_in(Introduction, message, "introduction")
        if reason := misfit(said, self.data):
            raise ValueError(reason)
        return said

    def _by_presence(self, orders: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Part the orders that can go out from those whose clients are not there, or have no time left."""
        if not any(order.resend for order in orders):
            self.ends = time.monotonic() + self.round_seconds
        over = time.monotonic() >= self.ends
        here: list[Any] = []
        gone: list[Any] = []
        for order in orders:
            (gone if over or not {*order.clients} <= self.inquiry.nodes.keys() else here).append(order)
        return here, gone

    def _due(self, order: AnyOrder) -> float:
        """Return the round's end, whatever is sent again meanwhile, or that of the client's own deadline."""
        return min(super()._due(order), self.ends)

    def _overdue(self, identifier: str, node: int) -> None:
        """Let a client that is silent be gone until it answers: the next round does not wait for it, too."""
        self.inquiry.owes(identifier, node)

    def _assign(self, waiting: deque[int], orders: Sequence[AnyOrder]) -> Iterator[tuple[int, int]]:
        while waiting:
            index = waiting.popleft()
            order = orders[index]
            assert not isinstance(order, ServerTestOrder), "real clients do not have the server's images"
            (client,) = order.clients
            yield index, self.inquiry.nodes[client]

    def _beside(self, node: int | None) -> Json:
        """Describe the experiment to a client, and what the server plans with: both see the same limits."""
        client = next((client for client, own in self.inquiry.nodes.items() if own == node), None)
        told = {"deployment": assignment(self.config, self.run, client or 0, self.data)}
        return told if client is None else {**told, "host": asdict(self.inquiry.said[client].host)}

    def members(self, experiment: Experiment, round: int, attempt: int) -> RealMembers:
        """Return how the clients are asked for the stages of a secure sum."""
        self.asked = RealMembers(self.stage, experiment, round, attempt)
        return self.asked

    def stage(self, asks: Mapping[int, Ask]) -> tuple[dict[int, Told], dict[int, str]]:
        """Ask clients for a stage of a secure sum, each its own.

        Gives the answers that came in time, and by client why there is none of the others.
        """
        there = {c: (ask, self.inquiry.nodes[c]) for c, ask in asks.items() if c in self.inquiry.nodes}
        sent = {
            client: self.push(self._package(b"", None, node, ask), MessageType.QUERY, node)
            for client, (ask, node) in there.items()
        }
        pending = {name: client for client, name in sent.items() if name is not None}
        reasons = dict.fromkeys(asks.keys() - pending.values(), "the client is not there")
        deadline, told = time.monotonic() + self.late_seconds, dict[int, Told]()
        while pending and time.monotonic() < deadline:
            for message in self.pull(list(pending)):
                client = pending.pop(message.metadata.reply_to_message_id, None)
                if client is None:
                    continue
                if message.has_error():
                    reasons[client] = last_line(message.error.reason)
                    continue
                try:
                    package, most = from_record(message.content), most_bytes(0, self.workers)
                    told[client] = read_about(Told, package, "stage", most)
                except BadPackageError as error:
                    reasons[client] = one_line(error)
        for name, client in pending.items():
            self.inquiry.owes(name, there[client][1])
            reasons[client] = "the client did not answer in time"
        return told, reasons

    def _read(self, order: WorkOrder, message: Message | None) -> Reply:
        """Read a reply; masked words are those of the client's slice, and are put in their places."""
        if message is None:
            return Reply(order=order, reason=self._why_silent(order), final=True)
        reply = super()._read(order, message)
        result = reply.result
        if result is None or order.secure is None or not isinstance(result.total, MaskedSum):
            return reply
        (client,) = order.clients
        blocks = self.asked.experiment.network.blocks(order.secure.parts())
        try:
            total = result.total.spread(blocks.places(blocks.held_by(client)), self.elements)
        except ValueError as error:
            return Reply(order=order, reason=str(error), arrived=True)
        return replace(reply, result=replace(result, total=total))

    def _why_silent(self, order: WorkOrder) -> str:
        """Say why there is no answer to an order."""
        if time.monotonic() >= self.ends:
            return f"the client did not answer in the {self.round_seconds:g} s of a round"
        silent = self.inquiry.silent & {*order.clients}
        return "the client did not answer in time" if silent else "the client is not there"

    def _await_idle(self) -> None:
        """Do not wait: the SuperLink keeps an order until its client asks for it."""
        self.idle.clear()

    def _result(self, package: Package, node: int, most: int) -> WorkResult:
        """Read a reply; its rows say how large it was."""
        del node
        result = WorkResult.unpack(package, most=most, update_of=self.elements)
        rows = tuple(replace(row, uplink_wire_bytes=package.wire_bytes) for row in result.rows)
        return replace(result, rows=rows)
