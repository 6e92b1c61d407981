"""The ledgers of a run: files of rows that only grow, and what tells how far they had come."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from fedfmd.files import write_atomic
from fedfmd.records import filenames
from fedfmd.records.jsonfiles import append_rows, read_rows
from fedfmd.records.marks import Mark, mark_of
from fedfmd.records.rows import ClientRow, EpochRow, EvaluationRow, RoundRow
from fedfmd.records.schema import Json, Record

KINDS: dict[str, type[Record]] = {
    filenames.ROUNDS: RoundRow,
    filenames.CLIENTS: ClientRow,
    filenames.EVALUATIONS: EvaluationRow,
    filenames.EPOCHS: EpochRow,
}
"""What a line of each is."""
Row = TypeVar("Row", bound=Record)


class Ledgers:
    """Those of one run; the first of their ``names`` counts its rounds, or epochs."""

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self.folder, self.names = folder, names
        self._marks: dict[str, Mark] = {}

    def begin(self) -> None:
        """Make them, without a row."""
        for name in self.names:
            write_atomic(self.folder / name, "")

    def append(self, name: str, rows: Iterable[Json]) -> None:
        """Append rows to one and sync it; raises ``RunError`` for a row that its reader would refuse."""
        append_rows(self.folder / name, rows, KINDS[name])

    def read(self, name: str, kind: type[Row]) -> list[Row]:
        """Read one; raises ``UserError`` for a damaged one."""
        return read_rows(self.folder / name, kind)

    def plain(self, name: str) -> list[Json]:
        """Read one as plain data; raises ``UserError`` for a damaged one."""
        return [row.to_json() for row in self.read(name, KINDS[name])]

    def lines(self) -> int:
        """Count the rows of the first."""
        file = self.folder / self.names[0]
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def marks(self) -> dict[str, Mark]:
        """Return what tells whether they stay what they are; their rows are read once for it."""
        for name in self.names:
            self._marks[name] = mark_of(self.folder / name, start=self._marks.get(name, Mark()))
        return dict(self._marks)

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Cut them back to so many bytes each; one without a length, as of an older version, to nothing."""
        self._marks = {}
        for name in self.names:
            path = self.folder / name
            path.touch()
            os.truncate(path, lengths.get(name, 0))
