"""One question to every node that comes, until each has answered as a client of its own."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import Generic, TypeVar

from flwr.app import Message, MessageType

from fedfmd.deployment.introduction import ImageSums, Introduction
from fedfmd.deployment.layout import named_client
from fedfmd.errors import RunError
from fedfmd.flower.grid import OrderExchange, last_line
from fedfmd.flower.messages import from_record
from fedfmd.records.schema import one_line
from fedfmd.wire.packages import BadPackageError, Package, most_bytes, read_about

GATHER_TIMEOUT_SECONDS = 300.0
"""How long clients may take to connect and to say who they are; a small device imports torch slowly."""
MOST_INTRODUCTIONS = 3
"""How often a node is asked who it is, if it answers nonsense or with an error."""

Said = TypeVar("Said", Introduction, ImageSums)


class Inquiry(Generic[Said]):
    """Asks every node that comes one question, until each has answered as a client of its own.

    ``accept`` reads an answer; what it raises as ``ValueError`` is kept as a reason, and the node is asked
    again, a few times. Who a node is, the SuperLink says by the name that its key was registered with; of a
    node without such a name it is believed.
    """

    def __init__(
        self,
        exchange: OrderExchange,
        question: Callable[[], Package],
        accept: Callable[[Message], Said],
        room: int,
    ):
        self.exchange = exchange
        self.question = question
        self.accept: Callable[[Message], Said] = accept
        self.room = room
        self.nodes: dict[int, int] = {}
        """Client to its node: those who are there and have answered."""
        self.said: dict[int, Said] = {}
        """What each client said last, those who have left included."""
        self.owners: dict[int, int | None] = {}
        """Node to the client whose key it has, null where the SuperLink does not say; who have left, too."""
        self.clients: dict[int, int] = {}
        """Node to the client that it was taken for, those who have left included."""
        self.asked: dict[str, int] = {}
        self.owed: dict[str, int] = {}
        """Messages whose answer is overdue, and the nodes that count as gone until they give it."""
        self.since: dict[int, str] = {}
        """Node to when it came, who have left included: one that comes anew answers nothing from before."""
        self.refused: Counter[int] = Counter()
        self.reasons: set[str] = set()

    def look(self) -> None:
        """Ask who has come, take the answers that are here, and forget who has left."""
        found = list(self.exchange.grid.get_nodes())
        online = {node.node_id: named_client(node.name) for node in found}
        self.owners |= online
        again = self._come_again({node.node_id: node.last_activated_at for node in found})
        self._keep(online.keys() - again)
        self.asked, self.owed = (
            {message: node for message, node in sent.items() if node not in again}
            for sent in (self.asked, self.owed)
        )
        for node in online.keys() - {*self.asked.values(), *self.owed.values(), *self.nodes.values()}:
            if self.refused[node] < MOST_INTRODUCTIONS:
                name = self.exchange.push(self.question(), MessageType.QUERY, node)
                self.asked |= {} if name is None else {name: node}
        waiting = [*self.asked, *self.owed]
        for message in self.exchange.pull(waiting) if waiting else ():
            answered = message.metadata.reply_to_message_id
            self.owed.pop(answered, None)  # too late; the node is asked who it is, as one that comes
            if answered not in self.asked:
                continue  # what a message says of itself, its sender says
            node = self.asked.pop(answered)
            try:
                self._admit(self.accept(message), node)
            except ValueError as error:
                owner = self.owners.get(node)
                who = "a node" if owner is None else f"client {owner}"
                self.reasons.add(f"{who}: {one_line(error)}")
                self.refused[node] += 1

    def _come_again(self, since: Mapping[int, str]) -> set[int]:
        """Return the nodes that have come anew, in a process that knows of no question before."""
        again = {node for node, when in since.items() if self.since.get(node, when) != when}
        self.since |= since
        return again

    def _keep(self, there: Set[int]) -> None:
        """Forget the nodes that are not ``there``; who was refused for one of them may be its client."""
        before = len(self.nodes)
        self.nodes = {client: node for client, node in self.nodes.items() if node in there}
        left = len(self.nodes) < before
        self.refused = Counter({node: n for node, n in self.refused.items() if node in there and not left})

    @property
    def silent(self) -> set[int]:
        """The clients that owe an answer."""
        return {self.clients[node] for node in self.owed.values()}

    def owes(self, message: str, node: int) -> None:
        """Take a node that has not answered a message in time as gone, until it does."""
        self.owed[message] = node
        self.forget(node)

    def forget(self, node: int) -> None:
        """Take note that a node is not there."""
        self.nodes = {client: own for client, own in self.nodes.items() if own != node}

    def wait(self, needed: int) -> float:
        """Look until ``needed`` clients have answered, all there are, or time is over; gives the seconds."""
        began = time.monotonic()
        while len(self.nodes) < needed:
            self.look()
            if not self.asked:
                time.sleep(self.exchange.poll_seconds)
            settled = len(self.nodes) + sum(n >= MOST_INTRODUCTIONS for n in self.refused.values())
            waited = time.monotonic() - began
            if waited > GATHER_TIMEOUT_SECONDS or (settled >= self.room and not self.asked):
                break
        return time.monotonic() - began

    def gather(self, needed: int) -> None:
        """Wait until ``needed`` clients have answered.

        Raises ``RunError`` when some are missing after ``GATHER_TIMEOUT_SECONDS``, or as many nodes as there
        are clients have answered and not all said who they are.
        """
        seconds = self.wait(needed)
        if len(self.nodes) < needed:
            raise RunError(self._lacking(needed, seconds))

    def _admit(self, said: Said, node: int) -> None:
        """Take what a node said as its client's; raises ``ValueError`` where the client is another node's."""
        client, owner = said.client, self.owners.get(node)
        if owner not in (None, client):
            raise ValueError(f"it says that it is client {client}; check its node config")
        if client >= self.room:
            raise ValueError(f"it says that it is client {client} of {self.room}")
        if self.nodes.setdefault(client, node) != node:
            raise ValueError(f"two nodes say that they are client {client}; check their node configs")
        self.said[client], self.clients[node] = said, client

    def _lacking(self, needed: int, seconds: float) -> str:
        """Say who did not come, and why, as far as known."""
        missing = ", ".join(str(client) for client in range(self.room) if client not in self.nodes)
        why = f"; some nodes answered: {'; '.join(sorted(self.reasons)[:3])}" if self.reasons else ""
        of = f"{len(self.nodes)} of {self.room} clients"
        wanted = "" if needed == self.room else f", {needed} are needed"
        return f"{of} were there in {seconds:.0f} s{wanted}, without {missing}{why}"


def answer_in(kind: type[Said], message: Message, name: str, more_bytes: int = 0) -> Said:
    """Read what a node answered about ``name``; raises ``ValueError`` for an error or nonsense.

    ``more_bytes`` is what it may be longer than an answer without tensors.
    """
    if message.has_error():
        raise ValueError(last_line(message.error.reason))
    try:
        return read_about(kind, from_record(message.content), name, most_bytes(0, 1) + more_bytes)
    except BadPackageError as error:
        raise ValueError(f"it did not introduce itself: {error}") from None
