"""What a run rests on beside its config: its images, files outside of it, and parts that are not built in."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfmd.approvals import approve, doubting
from fedfmd.config.sections.data import DataConfig
from fedfmd.errors import UserError
from fedfmd.records import filenames
from fedfmd.records.documents import Parts
from fedfmd.records.jsonfiles import read_document, write_document
from fedfmd.records.schema import SchemaError
from fedfmd.registry import Origin, bring


@dataclass(frozen=True)
class Foundations:
    """What ``parts.json`` in a run's ``folder`` keeps of them: a run goes on with the same ones alone."""

    folder: Path

    @property
    def file(self) -> Path:
        """Where they are kept."""
        return self.folder / filenames.PARTS

    def read(self) -> Parts:
        """Return what is kept; raises ``UserError`` for a damaged file."""
        if not self.file.is_file():
            return Parts()
        try:
            return Parts.from_json(read_document(self.file))
        except (SchemaError, UserError) as error:
            fault = str(error).removeprefix(f"{self.file}: ")
            raise UserError(
                f"{self.file}: damaged: {fault}; put a sound copy in its place, or start the run anew"
            ) from None

    def keep(self, **known: Any) -> None:
        """Remember more, by field of ``Parts``."""
        write_document(self.file, replace(self.read(), **known).to_json())

    def keep_parts(self, parts: list[Origin]) -> None:
        """Remember where parts are from that the user has named, and that they may run from now on."""
        self.keep(registered=parts)
        with suppress(OSError):  # whose state folder cannot be written has to approve what goes on
            approve(entry for part in parts for entry in part.entries)

    def keep_files(self, files: Iterable[Path]) -> None:
        """Remember the content of files outside, as cards and traces of devices."""
        digests = {str(file): _sha256(file) for file in files}
        if digests:
            self.keep(files=digests)

    def check_images(self, fingerprint: str, data: DataConfig) -> None:
        """Raise ``UserError`` for other images than the run began with, as far as it has said.

        ``data`` says where they are looked for now.
        """
        if self.read().images not in (None, fingerprint):
            raise UserError(
                f"{self.folder}: the images have changed since the run began (data.name = {data.name!r}, "
                f"data.root = {data.root!r}), and what is done stands on the old ones; bring them back, or "
                "start another run"
            )

    def check(self) -> None:
        """Raise ``UserError`` for a part or file that is missing, or another one than the run began with."""
        for words, before, now in self.changes():
            raise UserError(
                f"{self.folder}: {words} has changed since the run began: "
                f"{before} -> {now}; bring back what it was, or take it from here on with --accept"
            )

    def changes(self) -> list[tuple[str, str | None, str | None]]:
        """Return in words what is another than the run began with, each with its version of then and now.

        Raises ``UserError`` for a part that is missing, or not approved.
        """
        kept = self.read()
        with doubting(self.folder):
            found = [(part, bring(part)) for part in kept.registered]
        parts = [
            (f"{part.words} of module {part.module}", part.version, now.version if now else "built in")
            for part, now in found
        ]
        files = [(file, before, _sha256(Path(file))) for file, before in kept.files.items()]
        return [(words, before, now) for words, before, now in (*parts, *files) if before != now]


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file; "missing" where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: what is no path
        return "missing"
