"""Who has what: the training samples of every client, by a scheme of `fedfmd.data.schemes` or one's own.

With ``validation`` a seeded share of the samples stays at the server, to choose by; it is taken first, and
the scheme spreads what is left. No client ever holds one of them. With ``holdout`` a seeded share of every
client's samples, stratified over its labels, is kept for testing and never trained on; where two clients may
hold the same sample, it is drawn from the set before that is dealt, so that nobody trains on what another is
tested on.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedfmd.config.sections.data import PartitionConfig
from fedfmd.contracts import blamed, make
from fedfmd.data.arrays import IntArray
from fedfmd.data.holdout import holdout_size, holdout_split, stratified_counts, validation_split
from fedfmd.errors import UserError, first_few
from fedfmd.registry import chosen, fact, find
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


def make_partition(
    labels: IntArray,
    *,
    scheme: str,
    clients: int,
    seed: int,
    validation: float = 0.0,
    holdout: float = 0.0,
    owners: IntArray | None = None,
    **parameters: Any,
) -> Partition:
    """Spread the samples with these labels, int64 (N,), over ``clients`` clients.

    The share ``validation`` of them, at least one if it is above 0, is kept from the clients; the share
    ``holdout`` of each client's samples, likewise, is kept for testing. ``owners`` says whose each sample is,
    int64 (N,), where they come with clients of their own.
    ``parameters`` are the scheme's, by default those of a config; what it does not use is not recorded.
    Raises ``UserError`` for values that are impossible, or that a draw cannot meet.
    """
    try:
        part = find("partition", scheme)
    except UserError as error:
        raise UserError(f"partition.scheme = {scheme!r}: {error}") from None
    used = chosen(part, PartitionConfig().parameters | parameters)
    targets = np.asarray(labels)
    kept, left = validation_split(len(targets), validation, seed)
    about = {"scheme": scheme, "seed": seed, "clients": clients, "samples": len(left), **used}
    if holdout:
        about["holdout_share"] = holdout
    virtual = fact("partition", scheme, "virtual", False)
    _check_values(about, used, repeats=virtual)
    if virtual:
        return _make_sampled(targets, left, about, kept)
    drawn = {"clients": clients, "seed": seed, "rng": numpy_rng(seed, f"partition-{scheme}")}
    whose = None if owners is None else np.asarray(owners)
    drawn["owners"] = None if whose is None else whose[left]
    if whose is not None and len(gone := np.setdiff1d(whose, whose[left])):
        raise UserError(
            f"partition.validation = {validation:g}: takes all images of client {first_few(gone.tolist())}; "
            "set a smaller share, or another seed"
        )
    dealt = _checked(make("partition", scheme, targets[left], **drawn, **used), about)
    parts = [left[one] for one in dealt]
    held_by = np.bincount(np.concatenate([np.unique(part) for part in parts]), minlength=len(targets))
    about["unassigned"] = len(left) - int((held_by > 0).sum())
    if shared := int((held_by > 1).sum()):
        about["shared"] = shared
    return _make_listed(targets, parts, about, kept)


def _make_sampled(
    labels: IntArray, left: IntArray, about: dict[str, Any], kept: IntArray
) -> SampledPartition:
    """Make virtual clients of the samples ``left``."""
    share, classes = about.get("holdout_share", 0.0), int(labels[left].max()) + 1
    tested, trained = holdout_split(labels[left], share, about["seed"])
    pool, starts = _pool(labels, left[trained], classes)
    made = SampledPartition(about=about, validation=kept, pool=pool, starts=starts)
    if not share:
        return made
    held_pool, held_starts = _pool(labels, left[tested], classes)
    if about["samples_per_client"] < 2:
        raise UserError("partition.samples_per_client = 1: at least 2 with partition.holdout, one to test on")
    if not ((np.diff(starts) > 0) & (np.diff(held_starts) > 0)).any():
        raise UserError(f"partition.holdout = {share:g}: no label has images to train on and to test on")
    return replace(made, held_pool=held_pool, held_starts=held_starts)


def _make_listed(
    labels: IntArray, parts: Sequence[IntArray], about: dict[str, Any], kept: IntArray
) -> ListedPartition:
    """Make clients of their samples ``parts``, each split into what it trains and what it is tested on.

    What several clients have is for training with all of them, or for testing with all of them.
    """
    share = about.get("holdout_share", 0.0)
    if not share:
        flat, offsets = _listed(parts)
        return ListedPartition(about=about, validation=kept, flat=flat, offsets=offsets)
    if single := sum(len(part) < 2 for part in parts):
        raise UserError(
            f"partition.holdout = {share:g}: {single} of {len(parts)} clients have fewer than two images, "
            "one to train on and one to test on: take fewer partition.clients, or a larger min_size"
        )
    dealt = np.concatenate(parts)
    if len(dealt) > len(np.unique(dealt)):
        split = _split_alike(labels, parts, about)
    else:
        split = [holdout_split(labels[part], share, about["seed"], c) for c, part in enumerate(parts)]
    flat, offsets = _listed([part[trained] for part, (_, trained) in zip(parts, split, strict=True)])
    held, held_offsets = _listed([part[tested] for part, (tested, _) in zip(parts, split, strict=True)])
    return ListedPartition(
        about=about, validation=kept, flat=flat, offsets=offsets, held=held, held_offsets=held_offsets
    )


def _split_alike(
    labels: IntArray, parts: Sequence[IntArray], about: Mapping[str, Any]
) -> list[tuple[IntArray, IntArray]]:
    """Return the places of each client's samples that are for testing, and all others, by one draw for all.

    Raises ``UserError`` where the draw leaves a client nothing of the one or of the other.
    """
    dealt = np.unique(np.concatenate(parts))
    tested = dealt[holdout_split(labels[dealt], about["holdout_share"], about["seed"])[0]]
    kept = [np.isin(part, tested) for part in parts]
    if poor := sum(bool(own.all() or not own.any()) for own in kept):
        raise UserError(
            f"partition.holdout = {about['holdout_share']:g}: clients share images, so one draw decides for "
            f"all of them which are for testing. It leaves {poor} of {len(parts)} clients none to train on, "
            "or none to test on: let them have more images, or set another holdout or seed"
        )
    return [(np.flatnonzero(own), np.flatnonzero(~own)) for own in kept]


def _check_values(about: Mapping[str, Any], used: Mapping[str, Any], *, repeats: bool) -> None:
    """Raise ``UserError`` for what no draw can meet; ``repeats``: clients may share samples."""
    clients, samples = about["clients"], about["samples"]
    for key in ("min_size", "shards_per_client", "labels_per_client", "samples_per_client"):
        if used.get(key, 1) < 1:
            raise UserError(f"partition.{key} = {used[key]}: must be at least 1")
    if not 0 < used.get("alpha", 1) < float("inf"):
        raise UserError(f"partition.alpha = {used['alpha']}: must be a number above 0")
    if clients < 1:
        raise UserError(f"partition.clients = {clients}: must be at least 1")
    if samples < 1:
        raise UserError("partition: the training set is empty")
    if repeats:
        return
    if clients > samples:
        raise UserError(
            f"partition.clients = {clients}: at most the {samples} training images"
            ' (partition.scheme = "sampled" allows more)'
        )
    for key in ("min_size", "shards_per_client"):
        if clients * used.get(key, 1) > samples:
            raise UserError(
                f"partition.{key} = {used[key]}: at most {samples // clients} with {clients} clients"
                f" and {samples} training images"
            )


def _checked(parts: Iterable[Any], about: Mapping[str, Any]) -> list[IntArray]:
    """Return what a scheme gave as arrays; raises ``UserError`` for what is no spread over the clients."""
    what, clients, samples = f"partition.scheme = {about['scheme']!r}", about["clients"], about["samples"]
    with blamed(f"{what}: fails while it gives clients their images"):
        dealt = list(parts)
    try:
        arrays = [np.asarray(part) for part in dealt]
    except (ValueError, TypeError, RuntimeError):
        raise UserError(f"{what}: each client must get a list of one or more indices") from None
    if len(arrays) != clients:
        raise UserError(f"{what}: gives {len(arrays)} clients their images, of partition.clients = {clients}")
    for client, array in enumerate(arrays):
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise UserError(f"{what}: client {client} must get a list of one or more indices")
        if not 0 <= array.min() <= array.max() < samples:
            raise UserError(f"{what}: client {client} gets indices beyond the {samples} training images")
    return [array.astype(np.int64) for array in arrays]


def _listed(parts: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """Put clients' samples one after the other; gives them, and where each client's begin and end."""
    return np.concatenate(list(parts)), np.cumsum([0, *map(len, parts)])


def _pool(labels: IntArray, samples: IntArray, classes: int) -> tuple[IntArray, IntArray]:
    """Sort samples by label; gives them, and where each of the ``classes`` labels begins and ends."""
    targets = labels[samples]
    starts = np.cumsum([0, *np.bincount(targets, minlength=classes)])
    return samples[np.argsort(targets, kind="stable")], starts
