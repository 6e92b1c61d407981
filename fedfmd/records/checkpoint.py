"""Checkpoints: a run after a whole number of rounds, sealed, the last one and the one before it.

Tensors that several checkpoints hold are in files of their own beside them, each written once.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from torch import Tensor

from fedfmd.records.marks import mark_of
from fedfmd.records.schema import Json
from fedfmd.sealed import DamagedFileError
from fedfmd.tensors import read_tensors, write_tensors

STATE = "state"
SHARED_PREFIX = "shared-"
_OPTIMIZER, _ALGORITHMS = "optimizer", "algorithms"
_KIND = "fedfmd-checkpoint-2"
_SHARED_KIND = "fedfmd-checkpoint-tensor-1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after a whole number of rounds; its tensors do not change any more."""

    round: int
    state: Tensor
    optimizer: dict[str, Tensor]
    """What the server optimiser, or a central training's, keeps, by its own names."""
    algorithms: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What each algorithm keeps on the server, by its own names."""
    cumulative: Json = field(default_factory=dict)
    state_rounds: dict[int, int] = field(default_factory=dict)
    """Client to the round of its kept state; see ``fedfmd.records.store``."""
    memory: Json = field(default_factory=dict)
    """What the server knows of its clients."""
    shared: dict[str, Tensor] = field(default_factory=dict)
    """Tensors, by names that always mean the same one, that later checkpoints may hold, too; ``state`` may be
    one of them."""
    ledger_bytes: dict[str, int] = field(default_factory=dict)
    """Lengths of the ledgers when this was saved."""
    ledger_crc32: dict[str, int] = field(default_factory=dict)
    """Checksums of the ledgers up to these lengths; an older version kept none."""

    def save(self, path: Path) -> None:
        """Write it to a file, atomically, after files beside it with what is shared and not there yet.

        Raises ``OSError`` as the file system does.
        """
        for name, tensor in self.shared.items():
            if not (file := _shared_file(path.parent, name)).exists():
                write_tensors(file, {STATE: tensor}, {}, _SHARED_KIND)
        state = next((name for name, tensor in self.shared.items() if tensor is self.state), STATE)
        about = {
            "state": state,
            "shared": list(self.shared),
            "round": self.round,
            "cumulative": self.cumulative,
            "state_rounds": list(self.state_rounds.items()),
            "memory": self.memory,
            "ledger_bytes": self.ledger_bytes,
            "ledger_crc32": self.ledger_crc32,
        }
        tensors = {_joined(_OPTIMIZER, name): tensor for name, tensor in self.optimizer.items()}
        for algorithm, kept in self.algorithms.items():
            tensors |= {_joined(_ALGORITHMS, algorithm, name): tensor for name, tensor in kept.items()}
        if state == STATE:
            tensors[STATE] = self.state
        write_tensors(path, tensors, about, _KIND)

    @classmethod
    def load(cls, path: Path, *, check: bool = True) -> "Checkpoint":
        """Read a file that ``save`` wrote; raises ``DamagedFileError`` and ``FileNotFoundError``."""
        tensors, about = read_tensors(path, _KIND, check=check)
        shared = {name: _read_shared(path.parent, name, check=check) for name in about.pop("shared", ())}
        state = (tensors | shared)[about.pop("state", STATE)]
        tensors.pop(STATE, None)
        optimizer: dict[str, Tensor] = {}
        algorithms: dict[str, dict[str, Tensor]] = {}
        for joined, tensor in tensors.items():
            *_, owner, name = map(unquote, joined.split("/"))
            kept = optimizer if joined.startswith(f"{_OPTIMIZER}/") else algorithms.setdefault(owner, {})
            kept[name] = tensor
        rounds = dict(about.pop("state_rounds"))
        return cls(
            state=state,
            optimizer=optimizer,
            algorithms=algorithms,
            state_rounds=rounds,
            shared=shared,
            **about,
        )


def _joined(*path: str) -> str:
    """Return the name in the file of a tensor whose owner chose its name, whatever that is."""
    return "/".join(quote(part, safe="") for part in path)


def _shared_file(folder: Path, name: str) -> Path:
    return folder / f"{SHARED_PREFIX}{name}.safetensors"


def _read_shared(folder: Path, name: str, *, check: bool) -> Tensor:
    file = _shared_file(folder, name)
    try:
        return read_tensors(file, _SHARED_KIND, check=check)[0][STATE]
    except FileNotFoundError:
        raise DamagedFileError(f"{file.name} is missing") from None
    except DamagedFileError as error:
        raise DamagedFileError(f"{file.name}: {error}") from None


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
        self.tidy()

    def tidy(self) -> None:
        """Remove the files of shared tensors that none of the checkpoints holds."""
        needed = {self.last, self.previous}
        for file in tuple(needed):
            with suppress(FileNotFoundError, DamagedFileError):
                about = read_tensors(file, _KIND, check=False)[1]
                needed |= {_shared_file(self.folder, name) for name in about.get("shared", ())}
        for file in self.folder.glob(f"{SHARED_PREFIX}*.safetensors"):
            if file not in needed:
                file.unlink(missing_ok=True)

    def find(self, ledgers: Path) -> Found:
        """Return the newest checkpoint that is whole and whose rows are still in ``ledgers``, their folder.

        Where rows were changed none is: an older one would cut off what can be brought back.
        """
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
            marks = {name: mark_of(ledgers / name, needed[name]) for name in needed}
            if short := [name for name in needed if marks[name].length < needed[name]]:
                faults.append(f"{file}: {short[0]} is shorter than at this checkpoint; rows are missing")
                continue
            known = checkpoint.ledger_crc32
            if changed := [name for name in known if marks[name].crc32 != known[name]]:
                faults.append(
                    f"{ledgers / changed[0]}: rows were changed since the checkpoint of round "
                    f"{checkpoint.round}: bring back what they were"
                )
                break
            return Found(checkpoint, file, tuple(faults))
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
