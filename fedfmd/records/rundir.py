"""The run directory: everything a run leaves behind, written as it goes, safe against kill -9 at any moment.

``rounds.jsonl`` and ``clients.jsonl`` only grow, a round's lines at once and synced; the checkpoint is one
file, replaced atomically, that also holds the lengths of both when it was written. Resuming cuts the two
files back to these lengths, so that no line is lost, doubled or torn.
"""

import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedfmd.config import ExperimentConfig, dump_config, load_config
from fedfmd.errors import UserError
from fedfmd.files import replace_atomically, write_atomic
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json, dump

STATE = "state"
OPTIMIZER_PREFIX = "optimizer."


@dataclass(frozen=True)
class Checkpoint:
    """A run after a whole number of rounds."""

    round: int
    state: Tensor
    optimizer: dict[str, Tensor]
    cumulative: Json
    state_rounds: dict[int, int]
    """Client to the round of its kept state; see ``fedfmd.records.store``."""
    memory: Json
    """What the server knows of its clients."""
    ledger_bytes: dict[str, int]


class RunDirectory:
    """Handle of one run's files; hold it with ``lock()`` while writing."""

    ledgers: ClassVar[tuple[str, ...]] = ("rounds.jsonl", "clients.jsonl")

    def __init__(self, path: Path):
        self.path = path
        self._write_lock = threading.Lock()
        self._lock_file: BinaryIO | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    @classmethod
    def create(cls, path: Path, config: ExperimentConfig, environment: Mapping[str, Any]) -> "RunDirectory":
        """Make a new run directory; raises ``UserError`` when the path exists or cannot be written."""
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise UserError(
                f"--out {path}: exists already; choose another folder, or continue it with --resume {path}"
            ) from None
        except OSError as error:
            raise UserError(f"--out {path}: cannot be created: {error.strerror}") from None
        run = cls(path)
        write_atomic(path / "config.toml", dump_config(config))
        run.write_json("environment.json", environment)
        for name in run.ledgers:
            (path / name).touch()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open an existing run directory; raises ``UserError`` when it is none."""
        if not (path / "config.toml").is_file():
            raise UserError(f"{path}: is no run directory (it holds no config.toml)")
        return cls(path)

    @property
    def config(self) -> ExperimentConfig:
        """The resolved config of the run."""
        return load_config(self.path / "config.toml")

    @property
    def partition_file(self) -> Path:
        """Where the partition is kept for the workers."""
        return self.path / "partition.safetensors"

    @property
    def state_folder(self) -> Path:
        """Where clients keep what lasts between rounds."""
        return self.path / "client-states"

    @property
    def checkpoint_file(self) -> Path:
        """The last checkpoint."""
        return self.path / "checkpoint" / "checkpoint.safetensors"

    def lock(self) -> None:
        """Claim the directory for this process; raises ``UserError`` when another one writes it."""
        file = (self.path / ".lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UserError(f"{self.path}: another process is writing this run") from None
        self._lock_file = file

    def unlock(self) -> None:
        """Give the directory back."""
        with suppress(OSError):
            self.flush()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let nothing that ends the process in an orderly way come between the writes inside.

        Ctrl-C waits in the main thread, which is where Python delivers it; a handler that ends the process
        from another thread than the writer's enters here first.
        """
        with self._write_lock, _interrupt_deferred():
            yield

    def append_round(self, row: Json, clients: Iterable[Json]) -> None:
        """Append a round's client rows, then its own row, and sync both."""
        with self.writing():
            append_rows(self.path / "clients.jsonl", clients)
            append_rows(self.path / "rounds.jsonl", [row])

    def append_clients(self, clients: Iterable[Json]) -> None:
        """Append the client rows of a round that did not end, and sync them."""
        with self.writing():
            append_rows(self.path / "clients.jsonl", clients)

    def client_rows(self, round: int) -> list[ClientRow]:
        """Read the client rows of a round."""
        lines = (self.path / "clients.jsonl").read_text(encoding="utf-8").splitlines()
        return [ClientRow.from_json(row) for row in map(json.loads, lines) if row["round"] == round]

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace a JSON file of the run."""
        write_atomic(self.path / name, dump(document, indent=1) + "\n")

    def save_checkpoint(
        self,
        round: int,
        state: Tensor,
        optimizer: Mapping[str, Tensor],
        cumulative: Json,
        state_rounds: Mapping[int, int] | None = None,
        memory: Json | None = None,
    ) -> None:
        """Replace the checkpoint by the state after ``round``, in the background: the next round can begin.

        The tensors must not change any more. An error shows in the next call that waits for the write.
        """
        self.flush()
        meta = {
            "round": round,
            "cumulative": cumulative,
            "state_rounds": list((state_rounds or {}).items()),
            "memory": memory or {},
            "ledger_bytes": self._ledger_bytes(),
        }
        tensors = {STATE: state, **{OPTIMIZER_PREFIX + name: t for name, t in optimizer.items()}}
        self._pending = self._writer.submit(self._write_checkpoint, tensors, {"fedfmd": json.dumps(meta)})

    def _write_checkpoint(self, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        with self.writing():
            self.checkpoint_file.parent.mkdir(exist_ok=True)
            try:
                replace_atomically(self.checkpoint_file, lambda path: save_file(tensors, path, header))
            except SafetensorError as error:  # a full disk, among others
                raise OSError(str(error)) from None

    def flush(self) -> None:
        """Wait until the last checkpoint is on disk; raises ``OSError`` when it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load_checkpoint(self) -> Checkpoint | None:
        """Read the last checkpoint; null when the run was killed before its first one."""
        self.flush()
        if not self.checkpoint_file.exists():
            return None
        try:
            with safe_open(self.checkpoint_file, "pt") as file:
                meta = json.loads(file.metadata()["fedfmd"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.checkpoint_file}: damaged checkpoint: {error}") from None
        optimizer = {n.removeprefix(OPTIMIZER_PREFIX): t for n, t in tensors.items() if n != STATE}
        return Checkpoint(
            round=meta["round"],
            state=tensors[STATE],
            optimizer=optimizer,
            cumulative=meta["cumulative"],
            state_rounds=dict(meta["state_rounds"]),
            memory=meta["memory"],
            ledger_bytes=meta["ledger_bytes"],
        )

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut both ledgers back to where they were at ``checkpoint``, or to nothing."""
        for name in self.ledgers:
            length = checkpoint.ledger_bytes[name] if checkpoint else 0
            path = self.path / name
            path.touch()
            if path.stat().st_size < length:
                raise UserError(f"{path}: is shorter than at the checkpoint; rows are missing")
            os.truncate(path, length)

    def recover(self) -> Checkpoint | None:
        """Go back to the last checkpoint, and give it; raises ``UserError`` if another process is writing."""
        self.lock()
        try:
            checkpoint = self.load_checkpoint()
            self.rewind(checkpoint)
        finally:
            self.unlock()
        return checkpoint

    def rounds(self) -> list[Json]:
        """Read the rounds written so far; a torn last line, left by a kill, is not a round yet."""
        lines = (self.path / "rounds.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def summary(self) -> Json | None:
        """Read the summary: of a finished run, or of one that stopped with a reason; else null."""
        try:
            document: Json = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return document

    def stop(self, reason: str, cumulative: Json | None = None) -> None:
        """Say in the summary why the run has stopped and what it had cost, unless it says so already."""
        if (self.summary() or {}).get("status") != "stopped":
            spent = {} if cumulative is None else {"cumulative": cumulative}
            self.write_json("summary.json", {"status": "stopped", "reason": reason, **spent})

    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return (self.summary() or {}).get("status") == "finished"

    def remove(self) -> None:
        """Delete the directory: for a run that failed before it did any work."""
        self.unlock()
        shutil.rmtree(self.path, ignore_errors=True)

    def _ledger_bytes(self) -> dict[str, int]:
        return {name: (self.path / name).stat().st_size for name in self.ledgers}


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def append_rows(path: Path, rows: Iterable[Json]) -> None:
    """Append rows to a JSON lines file and sync it."""
    lines = "".join(dump(row, separators=(",", ":")) + "\n" for row in rows)
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())
