"""The end of a run: ``summary.json``, by which it has finished, or stopped with a reason."""

from dataclasses import asdict, dataclass
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.records import filenames
from fedfmd.records.jsonfiles import read_document, write_document
from fedfmd.records.ledgers import Ledgers
from fedfmd.records.marks import marked
from fedfmd.records.schema import Json


@dataclass(frozen=True)
class SummaryFile:
    """The one of the run in ``folder``."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self.folder / filenames.SUMMARY

    def read(self) -> Json | None:
        """Read the summary: of a finished run, or of one that stopped with a reason; else null."""
        try:
            return read_document(self.path)
        except UserError:
            return None

    def stop(self, reason: str, cumulative: Json | None = None) -> None:
        """Say why the run has stopped and what it had cost, unless that is said already."""
        if (self.read() or {}).get("status") != "stopped":
            spent = {} if cumulative is None else {"cumulative": cumulative}
            write_document(self.path, {"status": "stopped", "reason": reason, **spent})

    def finish(self, summary: Json, ledgers: Ledgers) -> Json:
        """Write the summary of a run that has ended, with marks of its ledgers and of itself.

        Returns what is written.
        """
        marks = {name: asdict(mark) for name, mark in ledgers.marks().items()}
        whole = marked({**summary, "ledgers": marks})
        write_document(self.path, whole)
        return whole

    def take_back(self) -> None:
        """Remove what says that the run has ended: it goes on."""
        for file in (self.path, self.folder / filenames.REPORT):
            file.unlink(missing_ok=True)
