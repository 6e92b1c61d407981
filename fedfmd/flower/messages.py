"""Packages as Flower messages, for server and clients."""

from importlib import import_module
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedfmd.records.schema import one_line
from fedfmd.wire.packages import BadPackageError, Package

http_grid: Any = import_module("flwr.superlink.grid.http_grid")
TENSORS = "tensors"
DOCUMENT = "document"


def to_record(package: Package) -> RecordDict:
    """Put a package into a message's content; the tensors are not copied."""
    array = Array(dtype="uint8", shape=(len(package.tensors),), stype="safetensors", data=package.tensors)
    return RecordDict(
        {
            TENSORS: ArrayRecord({TENSORS: array}),
            DOCUMENT: ConfigRecord({DOCUMENT: package.meta}),
        }
    )


def from_record(record: RecordDict) -> Package:
    """Take the package out of a message's content; raises ``BadPackageError`` when there is none."""
    if not isinstance(record, RecordDict):  # a foreign message may hold any of Flower's objects
        raise BadPackageError("the message holds no package")
    arrays, document = record.get(TENSORS), record.get(DOCUMENT)
    if not isinstance(arrays, ArrayRecord) or not isinstance(document, ConfigRecord):
        raise BadPackageError("the message holds no package")
    array, meta = arrays.get(TENSORS), document.get(DOCUMENT)
    if array is None or not isinstance(meta, str):
        raise BadPackageError("the message holds no package")
    return Package(meta, array.data)


def read_each_by_itself() -> None:
    """Let what Flower pulls for the server in this process be read message by message.

    Flower's SuperLink checks the head of what a client sends, and not the body. A body that cannot be read
    would end the run, and with it would go all that came at the same time; so it becomes an error that
    answers nothing. One private place of Flower's is changed.
    """
    http_grid.inflate_object_from_contents = _read


def _read(object_id: str, contents: dict[str, bytes]) -> Message:
    try:
        message = inflate_object_from_contents(object_id, contents)
    except Exception as error:  # whatever foreign bytes make of a decoder
        message, reason = None, one_line(error)
    else:
        reason = f"a {type(message).__name__} is no message"
    if isinstance(message, Message):
        return message
    print(f"a client's message cannot be read: {reason}", flush=True)
    unknown = Message(RecordDict(), dst_node_id=SUPERLINK_NODE_ID, message_type=MessageType.QUERY)
    return Message(Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason), reply_to=unknown)
