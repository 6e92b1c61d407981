"""A registered client that speaks Flower's Fleet protocol by itself, and answers whatever it likes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from intruder import private_key

HEARTBEAT_SECONDS = 30.0


class HostileNode:
    """A connection to the server's gate as the client whose keys it has."""

    def __init__(self, link: FleetHttpClient, key: bytes):
        self.link = link
        self.key = key
        self.node = Node()

    def activate(self) -> None:
        """Be connected; the SuperLink refuses for a minute after another process with this key has died."""
        request = ActivateNodeRequest(public_key=self.key, heartbeat_interval=HEARTBEAT_SECONDS)
        self.node = Node(node_id=self.link.ActivateNode(request).node_id)

    def beat(self) -> None:
        """Be alive."""
        request = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_SECONDS)
        self.link.SendNodeHeartbeat(request)

    def receive(self) -> Message | None:
        """Take the next message, if there is one."""
        got = self.link.PullMessages(PullMessagesRequest(node=self.node))
        if not got.messages_list:
            return None
        about = message_from_proto(got.messages_list[0]).metadata
        run, name = about.run_id, about.message_id
        parts: dict[str, bytes] = {}
        for part in iterate_object_tree(got.message_object_trees[0]):
            while part.object_id not in parts:
                asked = PullObjectRequest(node=self.node, run_id=run, object_id=part.object_id)
                found = self.link.PullObject(asked)
                if found.object_available:
                    parts[part.object_id] = found.object_content
        self.link.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
        )
        message = inflate_object_from_contents(name, parts)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = name
        return message

    def announce(self, reply: Message, tree: ObjectTree | None = None, **said: Any) -> str:
        """Announce a reply, as ``said`` of its metadata; gives the name under which it may be uploaded."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        about = message_to_proto(remove_content_from_message(reply) if reply.has_content() else reply)
        for name, value in said.items():
            setattr(about.metadata, name, value)
        parts = tree or get_object_tree(reply)
        answer = self.link.PushMessages(
            PushMessagesRequest(
                node=self.node,
                messages_list=[about],
                message_object_trees=[parts],
                clientapp_runtime_list=[0.1],
            )
        )
        return str(answer.session_id)

    def upload(self, reply: Message, session: str) -> None:
        """Upload what was announced."""
        for name, part in get_all_nested_objects(reply).items():
            self.link.PushObject(
                PushObjectRequest(
                    node=self.node,
                    run_id=reply.metadata.run_id,
                    session_id=session,
                    object_id=name,
                    object_content=part.deflate(),
                )
            )

    def send(self, reply: Message, **said: Any) -> None:
        """Answer as any client does."""
        self.upload(reply, self.announce(reply, **said))

    @contextmanager
    def at_work(self, answer: Callable[["HostileNode", Message], None]) -> Iterator[None]:
        """Let ``answer`` deal with whatever comes, in a thread."""
        ended = threading.Event()

        def work() -> None:
            beaten = 0.0
            while not ended.wait(0.2):
                with suppress(httpx.HTTPError):  # before it is admitted, and when the server has ended
                    if not self.node.node_id:
                        self.activate()
                    if time.monotonic() - beaten > HEARTBEAT_SECONDS / 2:
                        self.beat()
                        beaten = time.monotonic()
                    if (message := self.receive()) is not None:
                        answer(self, message)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def connected(door: str, keys: Path) -> Iterator[HostileNode]:
    """Connect to a gate with all that is in a client's folder of keys."""
    private = private_key(keys / "node.key")
    signed = NodeAuthHttpInterceptor(private, private.public_key())
    authority = (keys / "ca.crt").read_bytes()
    with FleetHttpClient.from_server_address(door, False, authority, interceptors=[signed]) as link:
        yield HostileNode(link, public_key_to_bytes(private.public_key()))
