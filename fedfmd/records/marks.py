"""What tells whether a ledger is still what it was: its length, and a checksum of all that it held then."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fedfmd.records.schema import Column, Count, Record

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


def _still(file: Path, mark: Mark) -> bool:
    try:
        return file.stat().st_size == mark.length and mark_of(file) == mark
    except FileNotFoundError:
        return mark == Mark()
    except OSError:  # not ours to read, or no file
        return False
