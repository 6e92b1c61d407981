"""What a client puts into a message's objects, read by Flower's own code in the server: none ends the run."""

from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from fedfmd.flower import messages
from fedfmd.flower.messages import from_record, read_each_by_itself, to_record
from fedfmd.wire.packages import BadPackageError, Package

PACKAGE = Package('{"said": 1}', bytes(range(200)))


class SuperLink:
    """Holds what clients have pushed; like Flower's it looks at no body."""

    def __init__(self) -> None:
        self.replies = PullAppMessagesResponse()
        self.objects: dict[str, bytes] = {}
        self.confirmed: list[str] = []

    def put(self, reply: Message, head: str, tree: ObjectTree, objects: dict[str, bytes]) -> None:
        proto = message_to_proto(reply)
        proto.metadata.message_id = head
        self.replies.messages_list.append(proto)
        self.replies.message_object_trees.append(tree)
        self.objects |= objects

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        del request
        return self.replies

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be what Flower starts for a message."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    """Give a SuperLink that every grid of Flower's talks to."""
    here = SuperLink()
    monkeypatch.setattr(HttpGrid, "_runtime_client", here)
    kept = messages.http_grid.inflate_object_from_contents
    monkeypatch.setattr(messages.http_grid, "inflate_object_from_contents", kept)
    return here


def grid() -> HttpGrid:
    made = HttpGrid(token="t", insecure=True)
    made._run = type("Run", (), {"run_id": 1})()
    return made


def reply(name: str) -> Message:
    asked = Message(RecordDict(), dst_node_id=7, message_type="train")
    asked.metadata.__dict__["_message_id"] = name
    return Message(to_record(PACKAGE), reply_to=asked)


def put_honest(link: SuperLink, name: str) -> None:
    said = reply(name)
    objects = {key: one.deflate() for key, one in get_all_nested_objects(said).items()}
    link.put(said, said.object_id, get_object_tree(said), objects)


def hostile(kind: str) -> tuple[str, ObjectTree, dict[str, bytes]]:
    """Return the head, the tree and the objects of a message that its sender has made up."""
    array = Array(dtype="u", shape=(1,), stype="x", data=b"1")
    made = array if kind == "an array in the place of the message" else reply("m1")
    objects = {key: one.deflate() for key, one in get_all_nested_objects(made).items()}
    if kind == "a body of other bytes":
        content = add_header_to_object_body(b"\xff\x00no json", ArrayRecord({}))
        head = get_object_id(content)
        return head, ObjectTree(object_id=head), {head: content}
    if kind == "a child that is missing":
        return made.object_id, ObjectTree(object_id=made.object_id), objects
    return made.object_id, get_object_tree(made), objects


KINDS = ("a body of other bytes", "an array in the place of the message", "a child that is missing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_cannot_be_read_takes_no_other_with_it(link: SuperLink, kind: str) -> None:
    link.put(reply("m1"), *hostile(kind))
    put_honest(link, "m2")
    with pytest.raises((ValueError, KeyError, AttributeError)):  # of Flower alone
        grid().pull_messages(["m1", "m2"])
    read_each_by_itself()
    bad, good = grid().pull_messages(["m1", "m2"])
    assert bad.has_error()
    assert bad.metadata.reply_to_message_id == ""
    assert good.metadata.reply_to_message_id == "m2"
    assert from_record(good.content) == PACKAGE
    assert len(link.confirmed) >= 2


def test_a_message_whose_content_is_no_record_holds_no_package() -> None:
    array = Array(dtype="u", shape=(1,), stype="x", data=b"1")
    for content in (array, ArrayRecord({}), None):
        with pytest.raises(BadPackageError, match="holds no package"):
            from_record(content)  # type: ignore[arg-type]
