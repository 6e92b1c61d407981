"""What tells whether a ledger is still what it was: its length, and a checksum of all that it held then."""

import zlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """The first ``length`` bytes of a file."""

    length: int = 0
    crc32: int = 0


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
