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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self, TypeVar

from fedfmd.config.experiment import ExperimentConfig, changed_keys, dump_config, load_config
from fedfmd.config.parts import origins
from fedfmd.errors import UserError
from fedfmd.files import remove_leftovers, take_lock, write_atomic
from fedfmd.machine.signals import deferred
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint, Checkpoints
from fedfmd.records.documents import Environment, Note, RunSummary
from fedfmd.records.foundations import Foundations
from fedfmd.records.jsonfiles import append_rows, as_lines, read_document, read_rows, write_document
from fedfmd.records.marks import Mark, mark_of, marked
from fedfmd.records.rows import ClientRow, EvaluationRow, RoundRow
from fedfmd.records.schema import SCHEMA_VERSION, Json, Record
from fedfmd.records.unfinished import check_free, make_unfinished, numbered, publish

UNKNOWN_IMAGES = (
    f"{filenames.PARTS} names no images: nothing tells whether they are those of the rounds before"
)
LOST_STATE = "lost-state"
"""Kind of the note that makes a finished run another one than the undisturbed run would be."""
MORE_ROUNDS = "server.rounds"
"""The one key that may change between two parts of a run and leave the rounds that are done as they are."""

GLANCE_SECONDS = 0.3
"""Others hold the lock for no longer when they only look whether the run is going on."""
Row = TypeVar("Row", bound=Record)


class RunDirectory:
    """Handle of one run's files; hold it with ``lock()`` while writing."""

    ledgers: ClassVar[tuple[str, ...]] = (filenames.ROUNDS, filenames.CLIENTS, filenames.EVALUATIONS)

    def __init__(self, path: Path):
        self.path = path
        self._write_lock = threading.Lock()
        self._lock_file: BinaryIO | None = None
        self._recovered: tuple[Checkpoint | None] | None = None
        self._marks: dict[str, Mark] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

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
            run.write_config(config)
            if parts := origins(config):
                run.foundations.keep(registered=parts)
            run.write_json(filenames.ENVIRONMENT, {"schema": SCHEMA_VERSION, **environment})
            for name in run.ledgers:
                write_atomic(made / name, "")
            yield run
            run.path = publish(made, [wanted] if out else numbered(wanted))
            run.unlock()
        except OSError as error:
            raise UserError(f"--out {wanted}: cannot be created: {error.strerror or error}") from None
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
        """The resolved config of the run; the parts that it names are those that the run has recorded."""
        return load_config(self.path / filenames.CONFIG)

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

    @property
    def checkpoint_file(self) -> Path:
        """The last checkpoint."""
        return self.checkpoints.last

    @property
    def _started_file(self) -> Path:
        """The config that the rounds so far were computed with; users edit ``config.toml``."""
        return self.path / filenames.STARTED_CONFIG

    def write_config(self, config: ExperimentConfig) -> None:
        """Make ``config`` the run's config from here on."""
        for path in (self.path / filenames.CONFIG, self._started_file):
            write_atomic(path, dump_config(config))

    def config_changes(self, now: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which ``now`` is not the config that the run was started with: old and new."""
        return changed_keys(self.started_config, now)

    @property
    def started_config(self) -> ExperimentConfig:
        """The config that the rounds so far were computed with."""
        return load_config(self._started_file) if self._started_file.exists() else self.config

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
            raise UserError(
                f"{self.path}: cannot be written: {reason}; go on with a copy elsewhere"
            ) from None
        for folder in (self.path, self.checkpoints.folder, self.state_folder):
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
            append_rows(self.path / filenames.CLIENTS, clients, ClientRow)
            append_rows(self.path / filenames.EVALUATIONS, evaluations, EvaluationRow)
            append_rows(self.path / filenames.ROUNDS, [row], RoundRow)

    def append_clients(self, clients: Iterable[Json]) -> None:
        """Append the client rows of a round that did not end, and sync them."""
        with self.writing():
            append_rows(self.path / filenames.CLIENTS, clients, ClientRow)

    def client_rows(self, round: int) -> list[ClientRow]:
        """Read the client rows of a round; raises ``UserError`` for a damaged ledger."""
        return [row for row in self.read_rows(filenames.CLIENTS, ClientRow) if row.round == round]

    def read_rows(self, name: str, kind: type[Row]) -> list[Row]:
        """Read a file of rows; raises ``UserError`` for a damaged one."""
        return read_rows(self.path / name, kind)

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
        self.flush()
        self._recovered = None
        marks = self.marks()
        saved = replace(
            checkpoint,
            ledger_bytes={name: mark.length for name, mark in marks.items()},
            ledger_crc32={name: mark.crc32 for name, mark in marks.items()},
        )
        self._pending = self._writer.submit(self._write_checkpoint, saved)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        with self.writing():
            self.checkpoints.save(checkpoint)

    def flush(self) -> None:
        """Wait until the last checkpoint is on disk; raises ``OSError`` when it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

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
            lost = self._ledger_lines() > 1
            return None, f"{self.checkpoint_file}: is missing; the run begins anew at round 0" if lost else ""
        if found.file == self.checkpoint_file:
            return found.checkpoint, ""
        why = "; ".join(found.faults) or f"{self.checkpoint_file}: is missing"
        return found.checkpoint, f"{why}; going on from the checkpoint of round {found.checkpoint.round}"

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut the ledgers back to where they were at ``checkpoint``, or to nothing."""
        self._marks = {}
        for name in self.ledgers:
            path = self.path / name
            path.touch()
            # A checkpoint of an older version knows fewer ledgers.
            os.truncate(path, checkpoint.ledger_bytes.get(name, 0) if checkpoint else 0)

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
            self.check_changes(self.config_changes(self.config))
            checkpoint, remark = self._find_checkpoint()
            if checkpoint and checkpoint.round and self.foundations.read().images is None:
                self.note("parts", checkpoint.round, UNKNOWN_IMAGES)
            if remark:
                self.note("checkpoint", checkpoint.round if checkpoint else 0, remark)
            if checkpoint and remark:
                self.checkpoints.step_back()
            self.checkpoints.tidy()
            self.rewind(checkpoint)
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

    def check_changes(self, changes: Mapping[str, tuple[Any, Any]], *, accept: bool = False) -> None:
        """Raise ``UserError`` when ``changes`` of the config, old and new by key, need to be accepted."""
        refused = {key: values for key, values in changes.items() if key != MORE_ROUNDS}
        if refused and not accept:
            raise UserError(
                f"{self.path}: {filenames.CONFIG}, with what --set and --backend change, differs from the "
                f"run's start: {told_changes(refused)}; undo the change, or take it from here on with "
                "--accept"
            )

    def accept_parts(self) -> None:
        """Take parts and files that have changed from here on, and note it.

        Raises ``UserError`` for a part that is missing.
        """
        changes = self.foundations.changes()
        if not changes:
            return
        self.lock()
        try:
            told = ", ".join(f"{words} {before} -> {now}" for words, before, now in changes)
            self.note("parts", self.rounds_done(), f"parts changed: {told}")
            self.foundations.keep(registered=list(origins(self.config)))
            self.foundations.keep_files(map(Path, self.foundations.read().files))
        finally:
            self.unlock()

    def note(self, kind: str, round: int, text: str) -> None:
        """Keep what happened to this run from outside after ``round``, once; rewinding keeps it, too."""
        note, before = Note(round=round, kind=kind, note=text), self.notes()
        if note not in before:  # written whole: what a kill had torn must not stand before a new line
            write_atomic(self.path / filenames.NOTES, as_lines(each.to_json() for each in (*before, note)))

    def notes(self) -> list[Note]:
        """Read the notes; raises ``UserError`` for damaged ones."""
        return self.read_rows(filenames.NOTES, Note) if (self.path / filenames.NOTES).is_file() else []

    def rounds(self) -> list[Json]:
        """Read the rounds written so far; raises ``UserError`` for a damaged ledger."""
        return [row.to_json() for row in self.read_rows(filenames.ROUNDS, RoundRow)]

    def clients(self) -> list[Json]:
        """Read all client rows written so far; raises ``UserError`` for a damaged ledger."""
        return [row.to_json() for row in self.read_rows(filenames.CLIENTS, ClientRow)]

    def evaluations(self) -> list[Json]:
        """Read what clients have measured so far; raises ``UserError`` for a damaged ledger."""
        if not (self.path / filenames.EVALUATIONS).is_file():
            return []  # of an older version
        return [row.to_json() for row in self.read_rows(filenames.EVALUATIONS, EvaluationRow)]

    def summary(self) -> Json | None:
        """Read the summary: of a finished run, or of one that stopped with a reason; else null."""
        try:
            return self.read_json(filenames.SUMMARY)
        except UserError:
            return None

    def stop(self, reason: str, cumulative: Json | None = None) -> None:
        """Say in the summary why the run has stopped and what it had cost, unless it says so already."""
        if (self.summary() or {}).get("status") != "stopped":
            spent = {} if cumulative is None else {"cumulative": cumulative}
            self.write_json(filenames.SUMMARY, {"status": "stopped", "reason": reason, **spent})

    def finish(self, summary: Json) -> Json:
        """Write the summary of a run that has ended, with marks of its ledgers and of itself.

        Returns what is written.
        """
        whole = marked({**summary, "ledgers": {name: asdict(mark) for name, mark in self.marks().items()}})
        self.write_json(filenames.SUMMARY, whole)
        return whole

    def finished(self) -> bool:
        """Whether the run has reached its end, as its config now has it."""
        summary = self.summary() or {}
        reached = self._done(summary) >= self._wanted() or summary.get("ended_early") is not None
        return summary.get("status") == "finished" and reached

    def reopen(self) -> None:
        """Take back what says that the run has ended: it goes on."""
        for name in (filenames.SUMMARY, filenames.REPORT):
            (self.path / name).unlink(missing_ok=True)

    def _done(self, summary: Json) -> int:
        return RunSummary.partly(summary)[0].rounds or 0

    def _wanted(self) -> int:
        return self.config.server.rounds

    def remove(self) -> None:
        """Delete the directory: for a run that failed before it did any work."""
        self.unlock()
        shutil.rmtree(self.path, ignore_errors=True)

    def marks(self) -> dict[str, Mark]:
        """Return what tells whether the ledgers stay what they are; their rows are read once for it."""
        for name in self.ledgers:
            self._marks[name] = mark_of(self.path / name, start=self._marks.get(name, Mark()))
        return dict(self._marks)

    def rounds_done(self) -> int:
        """Count the rounds of training, or epochs, that the ledger holds."""
        return max(self._ledger_lines() - 1, 0)

    def _ledger_lines(self) -> int:
        file = self.path / self.ledgers[0]
        return file.read_bytes().count(b"\n") if file.exists() else 0


def told_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Put changed keys into words: old -> new."""
    return ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changes.items())
