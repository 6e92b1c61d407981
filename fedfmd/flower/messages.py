"""Packages as Flower messages, for server and clients.

A SuperLink finds the parts of messages by their hashes alone, and takes from whoever names one first what
that is made of. A client that could guess what others will send would say something else of it beforehand,
and theirs would be refused. So each message has a part that nobody can guess, and none that is always the
same.
"""

import secrets

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedfmd.wire.packages import BadPackageError, Package, pack

TENSORS = "tensors"
DOCUMENT = "document"
SALT = "salt"
SALT_BYTES = 16
NO_TENSORS = pack({}, {}).tensors


def to_record(package: Package) -> RecordDict:
    """Put a package into a message's content; the tensors are not copied."""
    salt = secrets.token_hex(SALT_BYTES)
    record = RecordDict({DOCUMENT: ConfigRecord({DOCUMENT: package.meta, SALT: salt})})
    if package.tensors not in (b"", NO_TENSORS):
        array = Array(dtype="uint8", shape=(len(package.tensors),), stype="safetensors", data=package.tensors)
        record[TENSORS] = ArrayRecord({TENSORS: array})
    return record


def from_record(record: RecordDict) -> Package:
    """Take the package out of a message's content; raises ``BadPackageError`` when there is none."""
    if not isinstance(record, RecordDict):  # a foreign message may hold any of Flower's objects
        raise BadPackageError("the message holds no package")
    document = record.get(DOCUMENT)
    meta = document.get(DOCUMENT) if isinstance(document, ConfigRecord) else None
    if not isinstance(meta, str):
        raise BadPackageError("the message holds no package")
    if TENSORS not in record:
        return Package(meta, NO_TENSORS)
    arrays = record[TENSORS]
    array = arrays.get(TENSORS) if isinstance(arrays, ArrayRecord) else None
    if array is None:
        raise BadPackageError("the message holds no package")
    return Package(meta, array.data)
