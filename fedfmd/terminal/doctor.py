"""What `fedfmd doctor` found, on a terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from fedfmd.machine.doctor import Finding


def findings_table(findings: Iterable[Finding]) -> Table:
    """Lay out what was found, and how to get what is missing."""
    table = Table("what", "found", "how to get it")
    for finding in findings:
        colour = "green" if finding.found else "red" if finding.needed else "yellow"
        table.add_row(
            finding.what,
            Text(finding.found or "missing", style=colour),
            "" if finding.found else finding.remedy,
        )
    return table
