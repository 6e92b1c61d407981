"""How the server takes in what clients announce and upload: nothing of it ends a run or delays another's."""

from collections.abc import Callable
from typing import Any

import httpx
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

from fedfmd.errors import RunError
from fedfmd.flower.inbox import MOST_PARTS, REST_BYTES, Inbox
from fedfmd.flower.messages import from_record, to_record
from fedfmd.wire.packages import BadPackageError, Package

PACKAGE, OTHER = Package('{"said": 1}', bytes(range(200))), Package('{"said": 2}', bytes(9))


class SuperLink:
    """Holds what clients have announced and uploaded; like Flower's it looks at no body."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[Any, ObjectTree]] = {}
        self.objects: dict[str, bytes | None] = {}
        """Null while it is announced alone."""
        self.confirmed: list[str] = []
        self.pulled = 0

    def put(self, reply: Message, head: str, tree: ObjectTree, objects: dict[str, bytes | None]) -> None:
        proto = message_to_proto(reply)
        proto.metadata.message_id = head
        self.replies[reply.metadata.reply_to_message_id] = proto, tree
        self.objects |= objects

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        """Give each reply that was asked for, once."""
        told = PullAppMessagesResponse()
        for name in request.message_ids:
            if name in self.replies:
                proto, tree = self.replies.pop(name)
                told.messages_list.append(proto)
                told.message_object_trees.append(tree)
        return told

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        self.pulled += 1
        if request.object_id not in self.objects:
            return PullObjectResponse(object_found=False)
        content = self.objects[request.object_id]
        return PullObjectResponse(
            object_found=True, object_available=content is not None, object_content=content or b""
        )

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
    return here


def inbox() -> Inbox:
    return Inbox(HttpGrid(token="t", insecure=True), 1)


def reply(name: str, package: Package = PACKAGE) -> Message:
    asked = Message(RecordDict(), dst_node_id=7, message_type="train")
    asked.metadata.__dict__["_message_id"] = name
    return Message(to_record(package), reply_to=asked)


def uploaded(message: Message | Array) -> dict[str, bytes | None]:
    return {key: one.deflate() for key, one in get_all_nested_objects(message).items()}


def put(link: SuperLink, name: str, said: Message | None = None) -> dict[str, bytes | None]:
    said = said or reply(name)
    objects = uploaded(said)
    link.put(said, said.object_id, get_object_tree(said), objects)
    return objects


def all_of(box: Inbox, names: list[str]) -> dict[str, Message]:
    """Pull until nothing comes any more."""
    found: dict[str, Message] = {}
    while messages := box.pull_messages([name for name in names if name not in found]):
        found |= {message.metadata.reply_to_message_id: message for message in messages}
    return found


def hostile(kind: str) -> tuple[str, ObjectTree, dict[str, bytes | None]]:
    """Return the head, the tree and the objects of a message that its sender has made up."""
    array = Array(dtype="u", shape=(1,), stype="x", data=b"1")
    forms: dict[str, Callable[[], Message | Array]] = {
        "an array in the place of the message": lambda: array,
        "a chunk that counts many times": lambda: folded(REST_BYTES >> 15),
        "more than an answer has": lambda: reply("m1", Package("{}", bytes(REST_BYTES))),
    }
    made = forms.get(kind, lambda: reply("m1"))()
    objects = uploaded(made)
    if kind == "a body of other bytes":
        content = add_header_to_object_body(b"\xff\x00no json", ArrayRecord({}))
        head = get_object_id(content)
        return head, ObjectTree(object_id=head), {head: content}
    if kind == "a child that is missing":
        return made.object_id, ObjectTree(object_id=made.object_id), objects
    if kind == "parts without end":
        parts = [ObjectTree(object_id=f"{number:064x}") for number in range(MOST_PARTS + 1)]
        return made.object_id, ObjectTree(object_id=made.object_id, children=parts), objects
    if kind == "a part that nobody has":
        return made.object_id, get_object_tree(made), {made.object_id: objects[made.object_id]}
    return made.object_id, get_object_tree(made), objects


def folded(times: int) -> Message:
    """Return a message whose array is one chunk of 64 KiB, so many times."""
    said = reply("m1", Package("{}", bytes(1 << 16)))
    array = said.content.array_records["tensors"]["tensors"]
    array.__dict__["_chunks"] = array.slice_array() * times
    return said


KINDS = {
    "a body of other bytes": "cannot be read",
    "an array in the place of the message": "no message but Array",
    "a child that is missing": "cannot be read",
    "parts without end": "more than 1000 parts",
    "a part that nobody has": "has not sent the whole",
    "more than an answer has": "larger than any answer",
    "a chunk that counts many times": "larger than any answer",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_of_no_use_is_an_error_and_takes_no_other_with_it(link: SuperLink, kind: str) -> None:
    head, tree, objects = hostile(kind)
    link.put(reply("m1"), head, tree, objects)
    put(link, "m2", reply("m2", OTHER))
    found = all_of(inbox(), ["m1", "m2"])
    assert found["m1"].has_error()
    assert KINDS[kind] in found["m1"].error.reason
    assert from_record(found["m2"].content) == OTHER
    assert head in link.confirmed  # the SuperLink need not keep it


def test_a_reply_that_is_still_being_uploaded_delays_no_other(link: SuperLink) -> None:
    """It is given once it is complete, and no part of it is asked for twice."""
    slow = put(link, "slow")
    last = min(slow, key=lambda part: len(slow[part] or b""))
    link.objects[last] = None
    put(link, "quick", reply("quick", OTHER))
    box = inbox()
    assert set(all_of(box, ["slow", "quick"])) == {"quick"}
    assert box.pull_messages(["slow"]) == []
    link.objects |= slow
    before = link.pulled
    (message,) = box.pull_messages(["slow"])
    assert from_record(message.content) == PACKAGE
    assert link.pulled - before <= len(slow)
    assert box.pull_messages(["slow"]) == []


@pytest.mark.parametrize("asked", ["pull", "push"])
def test_what_the_superlink_refuses_ends_the_run_with_its_words(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def refuse(*_: object) -> None:
        request = httpx.Request("POST", "https://superlink/v1/runtime/messages")
        response = httpx.Response(500, text='{"detail":"no\nsuch part"}', request=request)
        response.raise_for_status()

    monkeypatch.setattr(link, "PullMessages", refuse, raising=False)
    monkeypatch.setattr(HttpGrid, "push_messages", refuse)
    box = inbox()
    with pytest.raises(RunError, match=r'^the SuperLink refused .*: {"detail":"no such part"}; its log says'):
        box.pull_messages(["m1"]) if asked == "pull" else box.push_messages([reply("m1")])


def test_replies_are_taken_in_one_at_a_time(link: SuperLink) -> None:
    """The server never holds those of all clients."""
    for name in ("m1", "m2", "m3"):
        put(link, name, reply(name, Package(f'{{"of": "{name}"}}', name.encode())))
    box = inbox()
    seen = [len(box.pull_messages(["m1", "m2", "m3"][place:])) for place in range(3)]
    assert seen == [1, 1, 1]


def test_whose_order_a_reply_answers_the_superlink_says(link: SuperLink) -> None:
    """The body, which the client alone has written, names another's."""
    said = reply("another's")
    proto = reply("m1")
    link.put(proto, said.object_id, get_object_tree(said), uploaded(said))
    (message,) = inbox().pull_messages(["m1", "another's"])
    assert message.metadata.reply_to_message_id == "m1"


def test_a_message_whose_content_is_no_record_holds_no_package() -> None:
    array = Array(dtype="u", shape=(1,), stype="x", data=b"1")
    for content in (array, ArrayRecord({}), None):
        with pytest.raises(BadPackageError, match="holds no package"):
            from_record(content)  # type: ignore[arg-type]
