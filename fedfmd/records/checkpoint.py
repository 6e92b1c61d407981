"""Checkpoints: a run after a whole number of rounds, sealed, the last one and the one before it.

Versions of the model that clients still work on are in files of their own beside them, each written once.
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
_OPTIMIZER, _ALGORITHMS = "optimizer", "algorithms"
_KIND = "fedfmd-checkpoint-2"
_VERSION_KIND = "fedfmd-checkpoint-tensor-1"


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
    versions: dict[int, Tensor] = field(default_factory=dict)
    """States after other rounds that later checkpoints may hold, too; ``state`` may be one of them."""
    ledger_bytes: dict[str, int] = field(default_factory=dict)
    """Lengths of the ledgers when this was saved."""
    ledger_crc32: dict[str, int] = field(default_factory=dict)
    """Checksums of the ledgers up to these lengths; an older version kept none."""

    def save(self, path: Path) -> None:
        """Write it to a file, atomically, after files beside it with the versions that are not there yet.

        Raises ``OSError`` as the file system does.
        """
        for version, tensor in self.versions.items():
            if not (file := _version_file(path.parent, version)).exists():
                write_tensors(file, {STATE: tensor}, {}, _VERSION_KIND)
        state = next((version for version, tensor in self.versions.items() if tensor is self.state), STATE)
        about = {
            "state": state,
            "shared": list(self.versions),
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
        versions = {n: _read_version(path.parent, n, check=check) for n in about.pop("shared")}
        own, of = tensors.pop(STATE, None), about.pop("state")
        optimizer: dict[str, Tensor] = {}
        algorithms: dict[str, dict[str, Tensor]] = {}
        for joined, tensor in tensors.items():
            *_, owner, name = map(unquote, joined.split("/"))
            kept = optimizer if joined.startswith(f"{_OPTIMIZER}/") else algorithms.setdefault(owner, {})
            kept[name] = tensor
        rounds = dict(about.pop("state_rounds"))
        return cls(
            state=versions[of] if own is None else own,
            optimizer=optimizer,
            algorithms=algorithms,
            state_rounds=rounds,
            versions=versions,
            **about,
        )


def _joined(*path: str) -> str:
    """Return the name in the file of a tensor whose owner chose its name, whatever that is."""
    return "/".join(quote(part, safe="") for part in path)


def _version_file(folder: Path, version: int | str) -> Path:
    return folder / f"version-{version}.safetensors"


def _read_version(folder: Path, version: int, *, check: bool) -> Tensor:
    file = _version_file(folder, version)
    try:
        return read_tensors(file, _VERSION_KIND, check=check)[0][STATE]
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
        """Remove the files of versions that none of the checkpoints holds."""
        needed = {self.last, self.previous}
        for file in tuple(needed):
            with suppress(FileNotFoundError, DamagedFileError):
                about = read_tensors(file, _KIND, check=False)[1]
                needed |= {_version_file(self.folder, version) for version in about["shared"]}
        for file in self.folder.glob(_version_file(self.folder, "*").name):
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

    def any(self) -> bool:
        """Whether there is one, sound or not."""
        return self.last.exists() or self.previous.exists()

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
