"""Who has what: the training samples of every client, those it keeps for testing, and those of the server.

How a partition comes about is in `fedfmd.data.partitioning`.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedfmd.data.arrays import IntArray
from fedfmd.data.holdout import holdout_size, stratified_counts
from fedfmd.errors import UserError
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed
from fedfmd.seeds import numpy_rng

_FORMAT = "fedfmd-partition-2"
_LISTED_SIZES = 10_000


def _no_indices() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Partition(ABC):
    """The samples of each client 0 .. num_clients - 1, as indices into the training set."""

    about: dict[str, Any]
    """Scheme, its parameters, seed, clients, samples: JSON values."""
    validation: IntArray = field(default_factory=_no_indices)
    """Samples that the server keeps to choose by and that no client holds, int64 (v,), ascending."""

    @property
    def num_clients(self) -> int:
        """Size of the population."""
        return int(self.about["clients"])

    @property
    def holdout_share(self) -> float:
        """Share of each client's samples that is kept for testing."""
        return float(self.about.get("holdout_share", 0.0))

    @property
    @abstractmethod
    def sizes(self) -> IntArray:
        """Samples that each client trains on, int64 (clients,)."""

    @abstractmethod
    def indices(self, client: int) -> IntArray:
        """Return what one client trains on, int64 (size,). Raises ``IndexError`` for an unknown client."""

    @abstractmethod
    def holdout(self, client: int) -> IntArray:
        """Return what one client keeps for testing, int64; empty without any. Raises as ``indices`` does."""

    @abstractmethod
    def _arrays(self) -> dict[str, IntArray]:
        """What a file holds beside ``about``."""

    def size(self, client: int) -> int:
        """Count the samples that one client trains on."""
        self._check(client)
        return int(self.sizes[client])

    def holdout_size(self, client: int) -> int:
        """Count the samples that one client keeps for testing."""
        return len(self.holdout(client))

    def label_counts(
        self, labels: IntArray, num_classes: int, clients: Sequence[int] | None = None
    ) -> IntArray:
        """Count labels by client, int64 (clients, classes); for the given clients only, or all."""
        chosen = range(self.num_clients) if clients is None else clients
        targets = np.asarray(labels)
        counts = [np.bincount(targets[self.indices(c)], minlength=num_classes) for c in chosen]
        return np.stack(counts).astype(np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that decides who has what: equal partitions have equal hashes."""
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode())
        for _, array in sorted(self._stored().items()):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()

    def spread(self, most: int) -> list[int]:
        """Choose at most so many clients, evenly over the population: to be shown."""
        count = min(self.num_clients, most)
        return [int(client) for client in np.linspace(0, self.num_clients - 1, count).round()]

    def manifest(self) -> dict[str, Any]:
        """Describe the partition as JSON: scheme, parameters, seed, sizes, what is kept for testing, hash.

        Sizes and what each client keeps are lists up to 10,000 clients; beyond, smallest, median and largest
        speak for them.
        """
        sizes = self.sizes
        kept = {"validation": self.validation.tolist()} if len(self.validation) else {}
        listed: dict[str, Any] = {}
        if len(sizes) <= _LISTED_SIZES:
            listed["sizes"] = sizes.tolist()
        if listed and self.holdout_share:
            listed["holdout"] = [self.holdout(client).tolist() for client in range(len(sizes))]
        return {
            **self.about,
            "sha256": self.sha256,
            "smallest": int(sizes.min()),
            "median": float(np.median(sizes)),
            "largest": int(sizes.max()),
            **listed,
            **kept,
        }

    def save(self, path: Path) -> None:
        """Write the partition to a file, atomically; ``load`` gives an equal one."""
        write_sealed(path, self._stored(), self.about, _FORMAT)

    @staticmethod
    def load(path: Path) -> "Partition":
        """Read a file that ``save`` wrote, memory-mapped. Raises ``UserError``."""
        try:
            arrays, about = read_sealed(path, _FORMAT)
            kind = SampledPartition if "pool" in arrays else ListedPartition
            return kind(about=about, **arrays)
        except FileNotFoundError:
            raise UserError(f"{path}: no such partition") from None
        except (DamagedFileError, KeyError) as error:
            raise UserError(f"{path}: damaged partition: {error}") from None

    def _stored(self) -> dict[str, IntArray]:
        return {**self._arrays(), "validation": self.validation}

    def _check(self, client: int) -> None:
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client}: the population is 0 to {self.num_clients - 1}")


@dataclass(frozen=True, kw_only=True)
class ListedPartition(Partition):
    """A partition that lists every client's samples."""

    flat: IntArray
    """All clients' samples one after the other, int64."""
    offsets: IntArray
    """Client c has ``flat[offsets[c]:offsets[c + 1]]``, int64 (clients + 1,)."""
    held: IntArray = field(default_factory=_no_indices)
    """All that clients keep for testing, as ``flat``."""
    held_offsets: IntArray = field(default_factory=_no_indices)
    """Whose it is, as ``offsets``; empty without any."""

    @cached_property
    def sizes(self) -> IntArray:
        """Samples that each client trains on."""
        return np.diff(self.offsets)

    def indices(self, client: int) -> IntArray:
        """Return what one client trains on."""
        self._check(client)
        return self.flat[int(self.offsets[client]) : int(self.offsets[client + 1])]

    def holdout(self, client: int) -> IntArray:
        """Return what one client keeps for testing."""
        self._check(client)
        if not len(self.held_offsets):
            return _no_indices()
        return self.held[int(self.held_offsets[client]) : int(self.held_offsets[client + 1])]

    def _arrays(self) -> dict[str, IntArray]:
        kept = {"held": self.held, "held_offsets": self.held_offsets} if self.holdout_share else {}
        return {"flat": self.flat, "offsets": self.offsets, **kept}


@dataclass(frozen=True, kw_only=True)
class SampledPartition(Partition):
    """A partition whose clients are drawn when they are asked for."""

    pool: IntArray
    """All samples, sorted by label, int64."""
    starts: IntArray
    """Samples of label l are ``pool[starts[l]:starts[l + 1]]``, int64 (labels + 1,)."""
    held_pool: IntArray = field(default_factory=_no_indices)
    """What tests are drawn from, as ``pool``; the two have no sample in common."""
    held_starts: IntArray = field(default_factory=_no_indices)
    """As ``starts``; empty where nothing is kept."""

    @property
    def sizes(self) -> IntArray:
        """Samples that each client trains on: one number, seen ``clients`` times."""
        own = self.about["samples_per_client"]
        return np.broadcast_to(np.int64(own - holdout_size(own, self.holdout_share)), (self.num_clients,))

    def indices(self, client: int) -> IntArray:
        """Draw what one client trains on: without repetition as long as a label's samples last."""
        return self._drawn(client)[0]

    def holdout(self, client: int) -> IntArray:
        """Draw what one client keeps for testing."""
        return self._drawn(client)[1]

    def holdout_size(self, client: int) -> int:
        """Count the samples that one client keeps for testing, without drawing them."""
        self._check(client)
        return holdout_size(self.about["samples_per_client"], self.holdout_share)

    def _drawn(self, client: int) -> tuple[IntArray, IntArray]:
        """Draw a client's labels and samples: those it trains on, and those it keeps for testing."""
        self._check(client)
        rng = numpy_rng(self.about["seed"], "partition-sampled", client)
        starts, kept = self.starts, holdout_size(self.about["samples_per_client"], self.holdout_share)
        held = np.diff(starts)
        if kept:
            held = held * (np.diff(self.held_starts) > 0)
        mix = rng.dirichlet(np.full(len(held), self.about["alpha"])) * (held > 0)
        mix = mix / mix.sum() if mix.sum() > 0 else held / held.sum()
        wanted = rng.multinomial(self.about["samples_per_client"], mix)
        tested = stratified_counts(wanted, kept, rng) if kept else np.zeros_like(wanted)
        trained = self.pool[_draw(rng, starts, wanted - tested)]
        return trained, self.held_pool[_draw(rng, self.held_starts, tested)]

    def _arrays(self) -> dict[str, IntArray]:
        kept = {"held_pool": self.held_pool, "held_starts": self.held_starts} if self.holdout_share else {}
        return {"pool": self.pool, "starts": self.starts, **kept}


def _draw(rng: np.random.Generator, starts: IntArray, wanted: IntArray) -> IntArray:
    """Draw as many places of each label as ``wanted`` of a pool with these ``starts``, int64."""
    parts = [
        starts[label] + rng.choice(held, count, replace=bool(count > held))
        for label, count in enumerate(wanted)
        if count and (held := starts[label + 1] - starts[label])
    ]
    return np.concatenate([_no_indices(), *parts])
