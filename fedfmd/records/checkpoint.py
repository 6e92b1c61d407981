"""Checkpoints: a run after a whole number of rounds, sealed, the last one and the one before it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedfmd.records.schema import Json
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed

STATE = "state"
OPTIMIZER_PREFIX = "optimizer."
_KIND = "fedfmd-checkpoint-1"


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
    """Lengths of the ledgers when this was saved."""

    def save(self, path: Path) -> None:
        """Write it to a file, atomically; raises ``OSError`` as the file system does."""
        about = {
            "round": self.round,
            "cumulative": self.cumulative,
            "state_rounds": list(self.state_rounds.items()),
            "memory": self.memory,
            "ledger_bytes": self.ledger_bytes,
        }
        tensors = {STATE: self.state, **{OPTIMIZER_PREFIX + n: t for n, t in self.optimizer.items()}}
        write_sealed(path, tensors, about, _KIND)

    @classmethod
    def load(cls, path: Path, *, check: bool = True) -> "Checkpoint":
        """Read a file that ``save`` wrote; raises ``DamagedFileError`` and ``FileNotFoundError``."""
        tensors, about = read_sealed(path, _KIND, check=check)
        state = tensors.pop(STATE)
        optimizer = {name.removeprefix(OPTIMIZER_PREFIX): tensor for name, tensor in tensors.items()}
        rounds = dict(about.pop("state_rounds"))
        return cls(state=state, optimizer=optimizer, state_rounds=rounds, **about)


@dataclass(frozen=True)
class Found:
    """What a search for a checkpoint has found."""

    checkpoint: Checkpoint | None
    file: Path | None
    faults: tuple[str, ...]
    """Why newer files than this one do not serve."""


@dataclass(frozen=True)
class Checkpoints:
    """The folder with the last checkpoint and, where the file system has hard links, the one before it."""

    folder: Path

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoint.safetensors"

    @property
    def previous(self) -> Path:
        """The one before it."""
        return self.folder / "previous.safetensors"

    def save(self, checkpoint: Checkpoint) -> None:
        """Make ``checkpoint`` the last one, which is never missing; the one so far becomes the previous."""
        self.folder.mkdir(exist_ok=True)
        link = self.folder / f".{self.previous.name}.{os.getpid()}.tmp"
        with suppress(OSError):
            link.unlink(missing_ok=True)
            os.link(self.last, link)
            link.replace(self.previous)
        with suppress(OSError):  # it stays where both names are one file already: after a save that failed
            link.unlink(missing_ok=True)
        checkpoint.save(self.last)

    def find(self, ledger_bytes: Mapping[str, int]) -> Found:
        """Return the newest checkpoint that is whole and whose rows are still in the ledgers."""
        faults: list[str] = []
        for file in (self.last, self.previous):
            try:
                checkpoint = Checkpoint.load(file)
            except FileNotFoundError:
                continue
            except DamagedFileError as error:
                faults.append(f"{file}: damaged checkpoint: {error}")
                continue
            needed = checkpoint.ledger_bytes
            short = [name for name in needed if ledger_bytes.get(name, 0) < needed[name]]
            if not short:
                return Found(checkpoint, file, tuple(faults))
            faults.append(f"{file}: {short[0]} is shorter than at this checkpoint; rows are missing")
        return Found(None, None, tuple(faults))

    def last_round(self) -> int | None:
        """Return the round of the last checkpoint, as its header has it; null where there is none to read."""
        try:
            return Checkpoint.load(self.last, check=False).round
        except (FileNotFoundError, DamagedFileError):
            return None

    def step_back(self) -> bool:
        """Make the previous checkpoint the last one; says whether there is one."""
        try:
            self.previous.replace(self.last)
        except FileNotFoundError:
            return False
        return True
