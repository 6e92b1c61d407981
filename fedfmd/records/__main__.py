"""Write the tables of the ledgers' columns into their reference: ``python -m fedfmd.records PAGE``."""

import re
import sys
from pathlib import Path

from fedfmd.records.ledgers import KINDS
from fedfmd.records.schema import Record


def table(record: type[Record]) -> str:
    """Return the columns of a ledger as a Markdown table: name, unit, meaning."""
    lines = [f"| `{name}` | {c.unit} | {c.meaning} |" for name, c in record.columns().items()]
    return "\n".join(("| key | unit | what it is |", "| --- | --- | --- |", *lines))


def with_tables(page: str) -> str:
    """Return the page with the table after each heading that names a ledger written anew."""
    for ledger, record in KINDS.items():
        after = re.compile(rf"(## A line of `{re.escape(ledger)}`\n\n)(?:\|.*\n)*")
        page = after.sub(lambda found, record=record: f"{found[1]}{table(record)}\n", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
