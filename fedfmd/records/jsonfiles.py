"""JSON files of a run: documents are replaced whole, ledgers grow by lines; both are read back strictly."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fedfmd.errors import RunError, UserError
from fedfmd.files import write_atomic
from fedfmd.records.schema import Json, Record, SchemaError, dump, parse

Row = TypeVar("Row", bound=Record)


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a document, atomically."""
    write_atomic(path, dump(document, indent=1) + "\n")


def read_document(path: Path) -> Json:
    """Read a document; raises ``UserError`` when it cannot be read."""
    try:
        document = parse(_read_text(path))
    except SchemaError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a JSON object")
    return document


def append_rows(path: Path, rows: Iterable[Json], kind: type[Record]) -> None:
    """Append rows to a JSON lines file and sync it.

    Raises ``RunError`` for one that its reader would refuse: now, and not when all rounds are done.
    """
    lines = as_lines(rows)
    for line in lines.splitlines():
        try:
            kind.read(line)
        except SchemaError as error:
            raise RunError(f"{path}: a row cannot be kept: {error}") from None
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a ledger; a torn last line, left by a kill, is not a row yet.

    Raises ``UserError`` for a damaged one: what follows it would stand on rows that nobody wrote.
    """
    rows: list[Row] = []
    for number, line in enumerate(_read_text(path).split("\n")[:-1], 1):
        try:
            row = kind.from_line(line)
            _check_order(rows[-1] if rows else None, row)
            rows.append(row)
        except SchemaError as error:
            raise UserError(
                f"{path}: line {number}: damaged: {error}; put a sound copy in its place, or start "
                "the run anew"
            ) from None
    return rows


def as_lines(rows: Iterable[Json]) -> str:
    """Return rows as the lines of a ledger."""
    return "".join(dump(row, separators=(",", ":")) + "\n" for row in rows)


def _check_order(before: Record | None, row: Record) -> None:
    """Raise ``SchemaError`` for a row of a ledger that does not follow the one before it.

    Rounds, and epochs, come one after another; in other ledgers each has any number of rows.
    """
    if before is None or not row.key:
        return
    name = row.key[0]
    was, now = getattr(before, name), getattr(row, name)
    if not (now == was + 1 if len(row.key) == 1 else now >= was):
        raise SchemaError(f"{name} {now} stands behind {name} {was}")


def _read_text(path: Path) -> str:
    """Return a text of a run; raises ``UserError`` when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
