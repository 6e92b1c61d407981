"""What real clients send, as the server takes it in: one reply at a time, and no more than an answer holds.

A client announces a reply and uploads its parts afterwards. Flower's own grid waits for all parts of all
replies that are announced, for hours where somebody uploads one now and then; keeps whatever comes, however
much; and ends the run over bytes that it cannot read. Here a reply that is not complete delays no other, one
that is too large is given up on the way, and one that cannot be read is an error like any other.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Array, Error, Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedfmd.errors import RunError
from fedfmd.flower.messages import from_record
from fedfmd.records.schema import one_line

LONGER = 2
"""An answer has up to 8 bytes for an element where the order has 4."""
REST_BYTES = 8 << 20
"""Of an answer, at most, beside its elements."""
MOST_PARTS = 1000
"""Of a reply; Flower cuts arrays into parts of 20 MiB."""


class UnusableReplyError(ValueError):
    """A reply of which nothing can become."""


@dataclass
class Arrival:
    """A reply that was announced: what is here of it, and what is not yet."""

    name: str
    most_bytes: int
    """Of an answer to its order."""
    missing: deque[str]
    contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, tree: ObjectTree, most_bytes: int) -> "Arrival":
        """Begin to take in the reply ``name``; raises ``UnusableReplyError`` for one of too many parts."""
        parts: dict[str, None] = {}
        for part in iterate_object_tree(tree):
            parts[part.object_id] = None
            if len(parts) > MOST_PARTS:
                raise UnusableReplyError(f"a reply has more than {MOST_PARTS} parts")
        return cls(name, most_bytes, deque(parts))

    def add(self, content: bytes) -> None:
        """Take in the next part; raises ``UnusableReplyError`` where that is more than an answer has."""
        self.contents[self.missing.popleft()] = content
        self._check_size(sum(map(len, self.contents.values())))

    def message(self) -> Message:
        """Return the reply, which is complete; raises ``UnusableReplyError`` for one of no use."""
        try:
            self._check_size(_unfolded_bytes(self.contents))
            message = inflate_object_from_contents(self.name, self.contents)
        except UnusableReplyError:
            raise
        except Exception as error:  # whatever foreign bytes make of a decoder
            raise UnusableReplyError(f"a reply cannot be read: {one_line(error)}") from None
        if not isinstance(message, Message):
            raise UnusableReplyError(f"a reply cannot be read: it is no message but {type(message).__name__}")
        return message

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.most_bytes:
            raise UnusableReplyError("a reply is larger than any answer to its order")


class Inbox:
    """Flower's grid of a deployment, whose replies come in another way."""

    def __init__(self, grid: Grid, run: int):
        """Take the grid that Flower gives its app in ``run``."""
        self.grid = grid
        self.run = run
        self.node = Node(node_id=SUPERLINK_NODE_ID)
        self.rooms_bytes: dict[str, int] = {}
        """Of an answer to each message that is out, at most."""
        self.arrivals: dict[str, Arrival] = {}
        """By the message that each answers."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List the nodes that are there, and how each is called."""
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; gives their names, an empty one for a node that is not there."""
        sent = list(messages)
        rooms = [LONGER * from_record(message.content).wire_bytes + REST_BYTES for message in sent]
        with _refusals("an order"):
            names = list(self.grid.push_messages(sent))
        self.rooms_bytes |= dict(zip(names, rooms, strict=False))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the first reply to these messages that is complete or of no use; none if there is none."""
        wanted = list(message_ids)
        unusable = self._announced([name for name in wanted if name not in self.arrivals])
        if unusable:
            return unusable
        for name in wanted:
            if name in self.arrivals and (message := self._looked_at(name)) is not None:
                del self.arrivals[name]
                return [message]
        return []

    @property
    def _link(self) -> Any:
        """Flower's own connection to the SuperLink, the one private place that is used."""
        grid: Any = self.grid
        return grid._runtime_client

    def _announced(self, names: Sequence[str]) -> list[Message]:
        """Note which replies are on their way; gives errors for those that will never be of use."""
        if not names:
            return []
        with _refusals("to say who has answered"):
            told = self._link.PullMessages(PullAppMessagesRequest(message_ids=names))
        unusable = []
        for head, tree in zip(told.messages_list, told.message_object_trees, strict=True):
            name = head.metadata.reply_to_message_id
            room = self.rooms_bytes.pop(name, REST_BYTES)
            try:
                self.arrivals[name] = Arrival.of(head.metadata.message_id, tree, room)
            except UnusableReplyError as error:
                self._confirm(head.metadata.message_id)
                unusable.append(_error(name, str(error)))
        return unusable

    def _looked_at(self, name: str) -> Message | None:
        """Take in what has come of a reply; gives it once it is complete, or an error in its place."""
        arrival = self.arrivals[name]
        try:
            while arrival.missing:
                part = arrival.missing[0]
                asked = PullObjectRequest(node=self.node, run_id=self.run, object_id=part)
                found = self._link.PullObject(asked)
                if not found.object_found:
                    raise UnusableReplyError("the client has not sent the whole of its reply")
                if not found.object_available:
                    return None
                arrival.add(found.object_content)
            self._confirm(arrival.name)
            message = arrival.message()
        except UnusableReplyError as error:
            self._confirm(arrival.name)
            return _error(name, str(error))
        # What a message says of itself, its sender says; whose order it answers, the SuperLink.
        message.metadata.__dict__["_reply_to_message_id"] = name
        return message

    def _confirm(self, reply: str) -> None:
        """Let the SuperLink forget a reply."""
        asked = ConfirmMessageReceivedRequest(node=self.node, run_id=self.run, message_object_id=reply)
        self._link.ConfirmMessageReceived(asked)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Raise ``RunError`` for what the SuperLink refuses: Flower's own error has no word of the reason."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        said = one_line(error.response.text) or error.response.reason_phrase
        raise RunError(f"the SuperLink refused {what}: {said}; its log says more") from error


def _unfolded_bytes(contents: Mapping[str, bytes]) -> int:
    """Count the data of the arrays among a reply's parts: an array may name one chunk a million times."""
    total = 0
    for content in contents.values():
        kind, parts, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            chunks = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(contents[parts[place]]) for place in chunks)
    return total


def _error(name: str, reason: str) -> Message:
    """Return an error in the place of a reply to the message ``name``."""
    asked = Message(RecordDict(), dst_node_id=SUPERLINK_NODE_ID, message_type=MessageType.QUERY)
    asked.metadata.__dict__["_message_id"] = name
    return Message(Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason), reply_to=asked)
