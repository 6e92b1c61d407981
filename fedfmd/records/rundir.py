"""The run directory: everything a run leaves behind, written as it goes, safe against kill -9 at any moment.

It is made under a hidden name and renamed once it is complete. The ledgers (``rounds.jsonl``,
``clients.jsonl``, ``evaluations.jsonl``) only grow, a round's lines at once and synced; the checkpoint is one
file, replaced atomically, that also holds their lengths and checksums when it was written. Resuming cuts them
back to these lengths, so that no line is lost, doubled, torn or changed. The checkpoint before the last one
is kept, for the case that the last is damaged.
"""

import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import origins
from fedfmd.errors import UserError, refused
from fedfmd.files import remove_leftovers, take_lock, write_atomic
from fedfmd.machine.signals import deferred
from fedfmd.nn.model_file import is_sound
from fedfmd.records import filenames
from fedfmd.records.background import BackgroundWriter
from fedfmd.records.checkpoint import Checkpoint, Checkpoints
from fedfmd.records.documents import Environment, Note, RunSummary
from fedfmd.records.foundations import Foundations
from fedfmd.records.jsonfiles import as_lines, read_document, read_rows, write_document
from fedfmd.records.ledgers import Ledgers
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import SCHEMA_VERSION, Json
from fedfmd.records.settings import Settings
from fedfmd.records.stopping import ELSEWHERE
from fedfmd.records.summary_file import SummaryFile
from fedfmd.records.unfinished import check_free, make_unfinished, numbered, publish

UNKNOWN_IMAGES = (
    f"{filenames.PARTS} names no images: nothing tells whether they are those of the rounds before"
)
LOST_STATE = "lost-state"
"""Kind of the note that makes a finished run another one than the undisturbed run would be."""

GLANCE_SECONDS = 0.3
"""Others hold the lock for no longer when they only look whether the run is going on."""


class RunDirectory:
    """Handle of one run's files; hold it with ``lock()`` while writing."""

    ledger_names: ClassVar[tuple[str, ...]] = (filenames.ROUNDS, filenames.CLIENTS, filenames.EVALUATIONS)

    def __init__(self, path: Path):
        self.path = path
        self.ledgers = Ledgers(path, self.ledger_names)
        """The run's rows."""
        self._write_lock = threading.Lock()
        self._lock_file: BinaryIO | None = None
        self._recovered: tuple[Checkpoint | None] | None = None
        self._background = BackgroundWriter()

    @classmethod
    @contextmanager
    def making(
        cls, out: Path | None, config: ExperimentConfig, environment: Mapping[str, Any]
    ) -> Iterator[Self]:
        """Make a new run directory, with what the ``with`` writes into it: it appears whole, or not at all.

        Without ``out`` it becomes ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3`` ... that is free
        when all is written. Raises ``UserError`` when ``out`` exists or cannot be written.
        """
        wanted = out or Path(filenames.RUNS) / config.name
        if out is not None:
            check_free(out)
        made: Path | None = None
        try:
            made = make_unfinished(wanted)
            run = cls(made)
            run.lock()
            run.settings.write(config)
            if parts := origins(config):
                run.foundations.keep_parts(parts)
            run.write_json(filenames.ENVIRONMENT, {"schema": SCHEMA_VERSION, **environment})
            run.ledgers.begin()
            yield run
            run.path = run.ledgers.folder = publish(made, [wanted] if out else numbered(wanted))
            run.unlock()
        except OSError as error:
            raise UserError(
                f"--out {wanted}: cannot be created: {refused(error, 'choose another')}"
            ) from None
        finally:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)

    @classmethod
    def create(cls, path: Path, config: ExperimentConfig, environment: Mapping[str, Any]) -> Self:
        """Make a new run directory that holds no more than its config and environment; see ``making``."""
        with cls.making(path, config, environment) as run:
            return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run directory; raises ``UserError`` when it is none."""
        if not filenames.holds_run(path):
            raise UserError(filenames.no_run(path))
        return cls(path)

    @property
    def config(self) -> ExperimentConfig:
        """The resolved config of the run, as it is now."""
        return self.settings.now

    @property
    def settings(self) -> Settings:
        """The config, and what it was when the run was started."""
        return Settings(self.path)

    @property
    def summary_file(self) -> SummaryFile:
        """How it has ended, if it has."""
        return SummaryFile(self.path)

    @property
    def partition_file(self) -> Path:
        """Where the partition is kept for the workers."""
        return self.path / filenames.PARTITION_TENSORS

    @property
    def state_folder(self) -> Path:
        """Where clients keep what lasts between rounds."""
        return self.path / filenames.CLIENT_STATES

    @property
    def foundations(self) -> Foundations:
        """What the run rests on beside its config."""
        return Foundations(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """The last checkpoint and the one before it."""
        return Checkpoints(self.path / filenames.CHECKPOINTS)

    def lock(self) -> None:
        """Claim the directory for this process, which may hold it already, and tidy it up.

        Raises ``UserError`` when another process writes it, or it cannot be written.
        """
        if self._lock_file is not None:
            return
        try:
            self._lock_file = take_lock(self.path / filenames.LOCK, GLANCE_SECONDS)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is writing this run") from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.path}: cannot be written: {reason}; {ELSEWHERE}") from None
        for folder in (self.path, self.checkpoints.folder, self.state_folder):
            if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                self.unlock()
                raise UserError(f"{folder}: cannot be read and written: Permission denied; allow both")
            remove_leftovers(folder)

    def unlock(self) -> None:
        """Give the directory back."""
        with suppress(OSError):
            self.flush()
        self._recovered = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let nothing that ends the process in an orderly way come between the writes inside.

        Ctrl-C, SIGTERM and SIGHUP wait in the main thread, which is where Python delivers them; a handler
        that ends the process from another thread than the writer's enters here first.
        """
        with self._write_lock, deferred():
            yield

    def append_round(self, row: Json, clients: Iterable[Json], evaluations: Iterable[Json] = ()) -> None:
        """Append a round's rows of clients and of what they measured, then its own row, and sync them."""
        with self.writing():
            self.ledgers.append(filenames.CLIENTS, clients)
            self.ledgers.append(filenames.EVALUATIONS, evaluations)
            self.ledgers.append(filenames.ROUNDS, [row])

    def append_clients(self, clients: Iterable[Json]) -> None:
        """Append the client rows of a round that did not end, and sync them."""
        with self.writing():
            self.ledgers.append(filenames.CLIENTS, clients)

    def client_rows(self, round: int) -> list[ClientRow]:
        """Read the client rows of a round; raises ``UserError`` for a damaged ledger."""
        return [row for row in self.ledgers.read(filenames.CLIENTS, ClientRow) if row.round == round]

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace a JSON file of the run."""
        write_document(self.path / name, document)

    def read_json(self, name: str) -> Json:
        """Read a JSON file of the run; raises ``UserError`` when it cannot be read."""
        return read_document(self.path / name)

    @property
    def control(self) -> Json | None:
        """How near a static control comes to the network that it stands for; null without one."""
        return self.read_json(filenames.CONTROL) if (self.path / filenames.CONTROL).is_file() else None

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, with marks of the ledgers as they are now.

        That happens in the background: the next round can begin. An error shows in the next call that waits
        for the write.
        """
        self._recovered = None
        marks = self.ledgers.marks()
        saved = replace(
            checkpoint,
            ledger_bytes={name: mark.length for name, mark in marks.items()},
            ledger_crc32={name: mark.crc32 for name, mark in marks.items()},
        )
        self._background.submit(lambda: self._write_checkpoint(saved))

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        with self.writing():
            self.checkpoints.save(checkpoint)

    def flush(self) -> None:
        """Wait until the last checkpoint is on disk; raises ``OSError`` when it could not be written."""
        self._background.flush()

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the newest good checkpoint; null when the run was killed before its first one.

        Raises ``UserError`` when there are checkpoints and none of them serves.
        """
        self.flush()
        return self._recovered[0] if self._recovered else self._find_checkpoint()[0]

    def _find_checkpoint(self) -> tuple[Checkpoint | None, str]:
        """Return the newest good checkpoint, and what has to be said of it."""
        found = self.checkpoints.find(self.path)
        if found.checkpoint is None and found.faults:
            raise UserError(
                f"{'; '.join(found.faults)}; to begin anew at round 0, delete {self.checkpoints.folder}"
            )
        if found.checkpoint is None:
            remark = f"{self.checkpoints.last}: is missing; the run begins anew at round 0"
            return None, remark if self.ledgers.lines() > 1 else ""
        if found.file == self.checkpoints.last:
            return found.checkpoint, ""
        why = "; ".join(found.faults) or f"{self.checkpoints.last}: is missing"
        return found.checkpoint, f"{why}; going on from the checkpoint of round {found.checkpoint.round}"

    def recover(self) -> Checkpoint | None:
        """Claim the directory, go back to the newest good checkpoint, and return it; it is read once.

        Raises ``UserError`` if another process is writing, the config was changed, or no checkpoint serves.
        """
        if self._recovered is not None:
            return self._recovered[0]
        self.lock()
        try:
            self._check_schema()
            self.foundations.check()
            self.settings.check(self.settings.changes(self.config))
            checkpoint, remark = self._find_checkpoint()
            if checkpoint and checkpoint.round and self.foundations.read().images is None:
                self.note("parts", checkpoint.round, UNKNOWN_IMAGES)
            if remark:
                self.note("checkpoint", checkpoint.round if checkpoint else 0, remark)
            if checkpoint and remark:
                self.checkpoints.step_back()
            self.checkpoints.tidy()
            self.ledgers.cut(checkpoint.ledger_bytes if checkpoint else {})
        except BaseException:
            self.unlock()
            raise
        self._recovered = (checkpoint,)
        return checkpoint

    def _check_schema(self) -> None:
        """Raise ``UserError`` for a run directory that a newer fedfmd wrote."""
        if not (self.path / filenames.ENVIRONMENT).is_file():
            return
        found = Environment.partly(self.read_json(filenames.ENVIRONMENT))[0].schema
        if found is not None and found > SCHEMA_VERSION:
            raise UserError(
                f"{self.path / filenames.ENVIRONMENT}: schema {found}: a newer fedfmd wrote this run, this "
                f"one knows {SCHEMA_VERSION}; continue it with that version"
            )

    def note(self, kind: str, round: int, text: str) -> None:
        """Keep what happened to this run from outside after ``round``, once; rewinding keeps it, too."""
        note, before = Note(round=round, kind=kind, note=text), self.notes()
        if note not in before:  # written whole: what a kill had torn must not stand before a new line
            write_atomic(self.path / filenames.NOTES, as_lines(each.to_json() for each in (*before, note)))

    def notes(self) -> list[Note]:
        """Read the notes; raises ``UserError`` for damaged ones."""
        file = self.path / filenames.NOTES
        return read_rows(file, Note) if file.is_file() else []

    def rounds(self) -> list[Json]:
        """Read the rounds written so far; raises ``UserError`` for a damaged ledger."""
        return self.ledgers.plain(filenames.ROUNDS)

    def clients(self) -> list[Json]:
        """Read all client rows written so far; raises ``UserError`` for a damaged ledger."""
        return self.ledgers.plain(filenames.CLIENTS)

    def evaluations(self) -> list[Json]:
        """Read what clients have measured so far; raises ``UserError`` for a damaged ledger."""
        if not (self.path / filenames.EVALUATIONS).is_file():
            return []  # of an older version
        return self.ledgers.plain(filenames.EVALUATIONS)

    def summary(self) -> Json | None:
        """Read the summary: of a finished run, or of one that stopped with a reason; else null."""
        return self.summary_file.read()

    def finished(self) -> bool:
        """Whether the run has reached its end, as its config now has it."""
        summary = self.summary() or {}
        reached = self._done(summary) >= self._wanted() or summary.get("ended_early") is not None
        return summary.get("status") == "finished" and reached

    def complete(self) -> bool:
        """Whether a run is finished and going on with it would bring nothing: not even its model, if lost.

        The model is written anew as long as there is a checkpoint.
        """
        return self.finished() and (is_sound(self.path) or not self.checkpoints.any())

    def _done(self, summary: Json) -> int:
        return RunSummary.partly(summary)[0].rounds or 0

    def _wanted(self) -> int:
        return self.config.server.rounds

    def rounds_done(self) -> int:
        """Count the rounds of training, or epochs, that the ledger holds."""
        return max(self.ledgers.lines() - 1, 0)
