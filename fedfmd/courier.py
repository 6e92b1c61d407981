"""Packages as Flower messages: the one module of the core that knows Flower, shared by server and clients."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedfmd.packages import BadPackageError, Package

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
    try:
        meta, tensors = record[DOCUMENT][DOCUMENT], record[TENSORS][TENSORS].data
    except (KeyError, TypeError, AttributeError) as error:
        raise BadPackageError(f"the message holds no package: {error!r}") from None
    if not isinstance(meta, str) or not isinstance(tensors, bytes):
        raise BadPackageError("the message holds no package: wrong types")
    return Package(meta, tensors)
