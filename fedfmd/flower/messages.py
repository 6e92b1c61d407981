"""Packages as Flower messages, for server and clients."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedfmd.wire.packages import BadPackageError, Package

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
