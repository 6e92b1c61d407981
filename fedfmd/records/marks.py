"""What tells whether files of a run are still what they were.

Of a ledger that is its length, and a checksum of all that it held then; a document holds its own checksum.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fedfmd.records.schema import Column, Count, Json, Record, dump

CHECKSUM = "crc32"
"""Key of a document's own checksum."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Mark(Record):
    """The first ``length`` bytes of a file."""

    length: Annotated[Count, Column("Bytes from its start.", unit="B")] = 0
    crc32: Annotated[Count, Column("CRC-32 of these.")] = 0


def mark_of(file: Path, length: int | None = None, start: Mark = Mark()) -> Mark:
    """Mark the first ``length`` bytes of a file, or all of them; those up to ``start`` are not read again.

    A file that is shorter is marked at its end, and one that is missing at 0.
    """
    if not file.exists():
        return Mark()
    done, crc32 = start.length, start.crc32
    with file.open("rb") as opened:
        opened.seek(done)
        while chunk := opened.read(_CHUNK if length is None else min(_CHUNK, length - done)):
            done, crc32 = done + len(chunk), zlib.crc32(chunk, crc32)
    return Mark(done, crc32)


def changed_since(folder: Path, marks: Mapping[str, Mark]) -> list[str]:
    """Name the files of ``folder`` that are no longer what they were when they were marked whole."""
    return [name for name, mark in marks.items() if not _still(folder / name, mark)]


def marked(document: Json) -> Json:
    """Return a document with a checksum of all else that it holds."""
    return {**document, CHECKSUM: _checksum(document)}


def was_edited(document: Json) -> bool:
    """Return whether a document is no longer what was marked; without a checksum nothing tells."""
    return document.get(CHECKSUM) not in (None, _checksum(document))


def _checksum(document: Json) -> int:
    return zlib.crc32(dump({key: value for key, value in document.items() if key != CHECKSUM}).encode())


def _still(file: Path, mark: Mark) -> bool:
    try:
        return file.stat().st_size == mark.length and mark_of(file) == mark
    except FileNotFoundError:
        return mark == Mark()
    except OSError:  # not ours to read, or no file
        return False
