"""Who has what: how the training samples are spread over the clients.

A scheme is a part of the kind ``partition``: a function of the labels, int64 (N,), that returns each
client's samples as indices. It is called with those of ``clients, seed, rng``, of the keys of the config's
section ``partition`` and of its table ``[options.partition]`` that it takes. Built in are:

- ``iid``: equal sizes, at random.
- ``dirichlet``: each label's samples are divided over the clients by proportions from Dirichlet(alpha)
  (Yurochkin et al. 2019; Hsu et al. 2019 in the reading of NIID-Bench), redrawn until every client has
  ``min_size``. ``self_balancing`` gives a client above its even share none of the later labels. Cut points
  are rounded down, as in the common implementations, so the last client holds up to one sample more of
  every label, which shows where a label has few samples a client.
- ``label-dirichlet``: equal sizes; each client draws its label mix from Dirichlet(alpha) (Acar et al. 2021).
  Another distribution than ``dirichlet`` at the same alpha.
- ``shards``: the samples sorted by label are cut into equal shards, ``shards_per_client`` for each client
  (McMahan et al. 2017). What does not fill a shard stays unassigned, and the manifest says how much.
- ``labels``: ``labels_per_client`` labels each: client i holds label i modulo their number, and others at
  random; a label's samples are dealt in equal parts to those who hold it (NIID-Bench's quantity-based label
  imbalance, Li et al. 2022). Samples of a label that nobody holds stay unassigned.
- ``quantity``: label-independent, sizes by Dirichlet(alpha), at least ``min_size`` each (NIID-Bench).
- ``natural``: the clients that the images come with, ``train/CLIENT/CLASS/*`` of image folders, or what a
  set of Hugging Face's or one's own says.
- ``sampled``: virtual clients. Client c draws ``samples_per_client`` samples with its own label mix from
  Dirichlet(alpha), a pure function of (seed, c), when it is asked for: a population of a million costs
  nothing. Two clients may hold the same sample.

With ``validation`` a seeded share of the samples stays at the server, to choose by; it is taken first, and
the scheme spreads what is left. No client ever holds one of them. With ``holdout`` a seeded share of every
client's samples, stratified over its labels, is kept for testing and never trained on; under ``sampled``,
where two clients may hold the same sample, it is drawn from the set before the clients are, so that nobody
trains on what another is tested on.

``iid``, ``dirichlet`` and ``shards`` are flwr-datasets' partitions, to the sample, without its import, which
takes seconds, and without its tables, which are read row by row.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfmd.contracts import make
from fedfmd.data.cache import save_dataset
from fedfmd.data.dataset import Dataset
from fedfmd.data.holdout import IntArray, holdout_size, holdout_split, stratified_counts
from fedfmd.errors import UserError
from fedfmd.registry import chosen, fact, find, register
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed
from fedfmd.seeds import derive, numpy_rng

_FORMAT = "fedfmd-partition-2"
_LISTED_SIZES = 10_000
TRIAL_DRAWS = 1000
"""Draws of `dirichlet` after which it is judged whether more make sense."""
HOPELESS_DEVIATIONS = 10
"""Standard deviations between no client that is short of samples and the mean count of such clients."""
MOST_DRAWN_SHARES = 3 * 10**7
"""Random shares, one for each label and client, that all redraws may take together."""


def _no_indices() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Partition(ABC):
    """The samples of each client 0 .. num_clients - 1, as indices into the training set."""

    about: dict[str, Any]
    """Scheme, its parameters, seed, clients, samples: JSON values."""
    validation: Tensor = field(default_factory=_no_indices)
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
    def indices(self, client: int) -> Tensor:
        """Give what one client trains on, int64 (size,). Raises ``IndexError`` for an unknown client."""

    @abstractmethod
    def holdout(self, client: int) -> Tensor:
        """Give what one client keeps for testing, int64; empty without any. Raises as ``indices`` does."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What a file holds beside ``about``."""

    def size(self, client: int) -> int:
        """Count the samples that one client trains on."""
        self._check(client)
        return int(self.sizes[client])

    def holdout_size(self, client: int) -> int:
        """Count the samples that one client keeps for testing."""
        return len(self.holdout(client))

    def label_counts(
        self, labels: Tensor, num_classes: int, clients: Sequence[int] | None = None
    ) -> IntArray:
        """Count labels by client, int64 (clients, classes); for the given clients only, or all."""
        chosen = range(self.num_clients) if clients is None else clients
        counts = [torch.bincount(labels[self.indices(c)], minlength=num_classes).numpy() for c in chosen]
        return np.stack(counts).astype(np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that decides who has what: equal partitions have equal hashes."""
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode())
        for _, tensor in sorted(self._stored().items()):
            digest.update(tensor.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

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
            tensors, about = read_sealed(path, _FORMAT)
            kind = SampledPartition if "pool" in tensors else ListedPartition
            return kind(about=about, **tensors)
        except FileNotFoundError:
            raise UserError(f"{path}: no such partition") from None
        except (DamagedFileError, KeyError) as error:
            raise UserError(f"{path}: damaged partition: {error}") from None

    def _stored(self) -> dict[str, Tensor]:
        return {**self._tensors(), "validation": self.validation}

    def _check(self, client: int) -> None:
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client}: the population is 0 to {self.num_clients - 1}")


@dataclass(frozen=True, kw_only=True)
class ListedPartition(Partition):
    """A partition that lists every client's samples."""

    flat: Tensor
    """All clients' samples one after the other, int64."""
    offsets: Tensor
    """Client c has ``flat[offsets[c]:offsets[c + 1]]``, int64 (clients + 1,)."""
    held: Tensor = field(default_factory=_no_indices)
    """All that clients keep for testing, as ``flat``."""
    held_offsets: Tensor = field(default_factory=_no_indices)
    """Whose it is, as ``offsets``; empty without any."""

    @cached_property
    def sizes(self) -> IntArray:
        """Samples that each client trains on."""
        return np.diff(self.offsets.numpy())

    def indices(self, client: int) -> Tensor:
        """Give what one client trains on."""
        self._check(client)
        return self.flat[int(self.offsets[client]) : int(self.offsets[client + 1])]

    def holdout(self, client: int) -> Tensor:
        """Give what one client keeps for testing."""
        self._check(client)
        if not len(self.held_offsets):
            return _no_indices()
        return self.held[int(self.held_offsets[client]) : int(self.held_offsets[client + 1])]

    def _tensors(self) -> dict[str, Tensor]:
        kept = {"held": self.held, "held_offsets": self.held_offsets} if self.holdout_share else {}
        return {"flat": self.flat, "offsets": self.offsets, **kept}


@dataclass(frozen=True, kw_only=True)
class SampledPartition(Partition):
    """A partition whose clients are drawn when they are asked for."""

    pool: Tensor
    """All samples, sorted by label, int64."""
    starts: Tensor
    """Samples of label l are ``pool[starts[l]:starts[l + 1]]``, int64 (labels + 1,)."""
    held_pool: Tensor = field(default_factory=_no_indices)
    """What tests are drawn from, as ``pool``; the two have no sample in common."""
    held_starts: Tensor = field(default_factory=_no_indices)
    """As ``starts``; empty where nothing is kept."""

    @property
    def sizes(self) -> IntArray:
        """Samples that each client trains on: one number, seen ``clients`` times."""
        own = self.about["samples_per_client"]
        return np.broadcast_to(np.int64(own - holdout_size(own, self.holdout_share)), (self.num_clients,))

    def indices(self, client: int) -> Tensor:
        """Draw what one client trains on: without repetition as long as a label's samples last."""
        return self._drawn(client)[0]

    def holdout(self, client: int) -> Tensor:
        """Draw what one client keeps for testing."""
        return self._drawn(client)[1]

    def holdout_size(self, client: int) -> int:
        """Count the samples that one client keeps for testing, without drawing them."""
        self._check(client)
        return holdout_size(self.about["samples_per_client"], self.holdout_share)

    def _drawn(self, client: int) -> tuple[Tensor, Tensor]:
        """Draw a client's labels and samples: those it trains on, and those it keeps for testing."""
        self._check(client)
        rng = numpy_rng(self.about["seed"], "partition-sampled", client)
        starts, kept = self.starts.numpy(), holdout_size(self.about["samples_per_client"], self.holdout_share)
        held = np.diff(starts)
        if kept:
            held = held * (np.diff(self.held_starts.numpy()) > 0)
        mix = rng.dirichlet(np.full(len(held), self.about["alpha"])) * (held > 0)
        mix = mix / mix.sum() if mix.sum() > 0 else held / held.sum()
        wanted = rng.multinomial(self.about["samples_per_client"], mix)
        tested = stratified_counts(wanted, kept, rng) if kept else np.zeros_like(wanted)
        trained = self.pool[_draw(rng, starts, wanted - tested)]
        return trained, self.held_pool[_draw(rng, self.held_starts.numpy(), tested)]

    def _tensors(self) -> dict[str, Tensor]:
        kept = {"held_pool": self.held_pool, "held_starts": self.held_starts} if self.holdout_share else {}
        return {"pool": self.pool, "starts": self.starts, **kept}


def _draw(rng: np.random.Generator, starts: IntArray, wanted: IntArray) -> Tensor:
    """Draw as many places of each label as ``wanted`` of a pool with these ``starts``, int64."""
    parts = [
        starts[label] + rng.choice(held, count, replace=bool(count > held))
        for label, count in enumerate(wanted)
        if count and (held := starts[label + 1] - starts[label])
    ]
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def make_partition(
    labels: Tensor,
    *,
    scheme: str,
    clients: int,
    seed: int,
    alpha: float = 0.5,
    min_size: int = 10,
    self_balancing: bool = False,
    shards_per_client: int = 2,
    labels_per_client: int = 2,
    samples_per_client: int = 50,
    validation: float = 0.0,
    holdout: float = 0.0,
    options: Mapping[str, Any] = MappingProxyType({}),
    owners: Tensor | None = None,
) -> Partition:
    """Spread the samples with these labels, int64 (N,), over ``clients`` clients.

    The share ``validation`` of them, at least one if it is above 0, is kept from the clients; the share
    ``holdout`` of each client's samples, likewise, is kept for testing. ``owners`` says whose each sample is,
    int64 (N,), where they come with clients of their own.
    Parameters that a scheme does not use are ignored and not recorded; ``options`` are those of a scheme of
    one's own. Raises ``UserError`` for values that are impossible, or that a draw cannot meet.
    """
    given = {
        "alpha": alpha,
        "min_size": min_size,
        "self_balancing": self_balancing,
        "shards_per_client": shards_per_client,
        "labels_per_client": labels_per_client,
        "samples_per_client": samples_per_client,
    }
    try:
        part = find("partition", scheme)
    except UserError as error:
        raise UserError(f"partition.scheme = {scheme!r}: {error}") from None
    used = chosen(part, {**given, **options})
    kept, left = validation_split(len(labels), validation, seed)
    about = {"scheme": scheme, "seed": seed, "clients": clients, "samples": len(left), **used}
    if holdout:
        about["holdout_share"] = holdout
    virtual = fact("partition", scheme, "virtual", False)
    _check_values(about, used, repeats=virtual)
    if virtual:
        return _make_sampled(labels, left, about, kept)
    drawn = {"clients": clients, "seed": seed, "rng": numpy_rng(seed, f"partition-{scheme}")}
    drawn["owners"] = None if owners is None else owners[left].numpy()
    dealt = _checked(make("partition", scheme, labels[left].numpy(), **drawn, **used), about)
    parts = [left[torch.from_numpy(one)] for one in dealt]
    about["unassigned"] = len(left) - sum(map(len, parts))
    return _make_listed(labels, parts, about, kept)


def _make_sampled(labels: Tensor, left: Tensor, about: dict[str, Any], kept: Tensor) -> SampledPartition:
    """Make virtual clients of the samples ``left``."""
    share, classes = about.get("holdout_share", 0.0), int(labels[left].max()) + 1
    tested, trained = holdout_split(labels[left], share, about["seed"])
    pool, starts = _pool(labels, left[trained], classes)
    if not share:
        return SampledPartition(about=about, validation=kept, pool=pool, starts=starts)
    held_pool, held_starts = _pool(labels, left[tested], classes)
    if about["samples_per_client"] < 2:
        raise UserError("partition.samples_per_client = 1: at least 2 with partition.holdout, one to test on")
    if not ((starts.diff() > 0) & (held_starts.diff() > 0)).any():
        raise UserError(f"partition.holdout = {share:g}: no label has samples to train on and to test on")
    return SampledPartition(
        about=about,
        validation=kept,
        pool=pool,
        starts=starts,
        held_pool=held_pool,
        held_starts=held_starts,
    )


def _make_listed(
    labels: Tensor, parts: Sequence[Tensor], about: dict[str, Any], kept: Tensor
) -> ListedPartition:
    """Make clients of their samples ``parts``, each split into what it trains and what it is tested on."""
    share = about.get("holdout_share", 0.0)
    if not share:
        flat, offsets = _listed(parts)
        return ListedPartition(about=about, validation=kept, flat=flat, offsets=offsets)
    if single := sum(len(part) < 2 for part in parts):
        raise UserError(
            f"partition.holdout = {share:g}: {single} of {len(parts)} clients have fewer than two samples, "
            "one to train on and one to test on: take fewer partition.clients, or a larger min_size"
        )
    split = [holdout_split(labels[part], share, about["seed"], c) for c, part in enumerate(parts)]
    flat, offsets = _listed([part[trained] for part, (_, trained) in zip(parts, split, strict=True)])
    held, held_offsets = _listed([part[tested] for part, (tested, _) in zip(parts, split, strict=True)])
    return ListedPartition(
        about=about, validation=kept, flat=flat, offsets=offsets, held=held, held_offsets=held_offsets
    )


def validation_split(samples: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return a seeded ``share`` of the indices 0 .. samples - 1 and all others, both ascending, int64.

    A share above 0 is at least one sample, and leaves at least one.
    """
    count = min(max(1, round(share * samples)), samples - 1) if share else 0
    order = torch.from_numpy(numpy_rng(seed, "partition-validation").permutation(samples))
    return order[:count].sort().values, order[count:].sort().values


def write_client_file(dataset: Dataset, partition: Partition, client: int, path: Path) -> None:
    """Write one client's own training images as a file for ``open_prepared``; its holdout is the test part.

    It holds nothing of the other clients but the whole training set's mean and standard deviation, which
    every client needs to see its images as the others do.
    """
    kept = partition.holdout(client)
    own = dataset.subset(partition.indices(client))
    images, labels = dataset.train_images[kept], dataset.train_labels[kept]
    save_dataset(replace(own, test_images=images, test_labels=labels), path)


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
            f"partition.clients = {clients}: at most the {samples} training samples"
            ' (partition.scheme = "sampled" allows more)'
        )
    for key in ("min_size", "shards_per_client"):
        if clients * used.get(key, 1) > samples:
            raise UserError(
                f"partition.{key} = {used[key]}: at most {samples // clients} with {clients} clients"
                f" and {samples} training samples"
            )


def _checked(parts: Iterable[Any], about: Mapping[str, Any]) -> list[IntArray]:
    """Return what a scheme gave as arrays; raises ``UserError`` for what is no spread over the clients."""
    what, clients, samples = f"partition.scheme = {about['scheme']!r}", about["clients"], about["samples"]
    try:
        arrays = [np.asarray(part) for part in parts]
    except ValueError:
        raise UserError(f"{what}: each client must get a list of one or more indices") from None
    if len(arrays) != clients:
        raise UserError(
            f"{what}: gives {len(arrays)} clients their samples, of partition.clients = {clients}"
        )
    for client, array in enumerate(arrays):
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise UserError(f"{what}: client {client} must get a list of one or more indices")
        if not 0 <= array.min() <= array.max() < samples:
            raise UserError(f"{what}: client {client} gets indices beyond the {samples} training samples")
    return [array.astype(np.int64) for array in arrays]


def _listed(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put clients' samples one after the other; gives them, and where each client's begin and end."""
    sizes = torch.tensor([0, *map(len, parts)])
    return torch.cat(list(parts)).to(torch.int64), sizes.cumsum(0)


def _pool(labels: Tensor, samples: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sort samples by label; gives them, and where each of the ``classes`` labels begins and ends."""
    targets = labels[samples]
    counts = torch.bincount(targets, minlength=classes)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return samples[targets.argsort(stable=True)], starts


@register("partition", "sampled", virtual=True)
def _virtual(labels: IntArray, alpha: float, samples_per_client: int) -> None:
    """State what virtual clients are drawn by, when they are asked for; see ``SampledPartition``."""


@register("partition", "iid")
def _iid(labels: IntArray, clients: int, seed: int) -> list[IntArray]:
    """Return equal sizes, at random."""
    return np.array_split(_order(labels, seed), clients)


@register("partition", "dirichlet")
def _dirichlet(
    labels: IntArray, clients: int, seed: int, alpha: float, min_size: int, self_balancing: bool
) -> list[IntArray]:
    """Redraw the division of every label until each client has ``min_size`` samples, as NIID-Bench does.

    The draws, cuts and shuffles are those of flwr-datasets' DirichletPartitioner, to the bit, without its
    limit of eleven draws. Raises ``UserError`` for a minimum that no draw will meet.
    """
    rng = np.random.default_rng(derive(seed, "partition-dirichlet"))
    order = _order(labels, seed)
    piles = [np.flatnonzero(labels[order] == label) for label in np.unique(labels)]
    short: list[int] = []
    counts = [len(pile) for pile in piles]
    for draw in range(_most_draws(len(piles), clients)):
        cuts = _dirichlet_cuts(rng, counts, clients, alpha, self_balancing=self_balancing)
        sizes = np.diff(cuts, axis=1).sum(0)
        short.append(int((sizes < min_size).sum()))
        if not short[-1]:
            return _dealt(rng, order, piles, cuts)
        if draw + 1 == TRIAL_DRAWS and np.mean(short) > HOPELESS_DEVIATIONS * np.std(short):
            break
    lower = "lower it, " if min_size > 1 else ""
    raise UserError(
        f"partition.min_size = {min_size}: not reached in {len(short):,} draws with "
        f"partition.alpha = {alpha:g}, {clients} clients and {len(labels)} samples: at best {min(short)} "
        f"clients had fewer; {lower}raise alpha, take fewer clients, or "
        'partition.scheme = "label-dirichlet", which gives all the same size'
    )


def _most_draws(labels: int, clients: int) -> int:
    """Give how often to redraw: for some tens of seconds, whatever the shape."""
    return max(TRIAL_DRAWS, MOST_DRAWN_SHARES // (labels * clients))


def _dirichlet_cuts(
    rng: np.random.Generator, counts: Sequence[int], clients: int, alpha: float, *, self_balancing: bool
) -> IntArray:
    """Draw where each label's samples are cut between clients, int64 (labels, clients + 1)."""
    fair = sum(counts) / clients
    alphas = np.full(clients, float(alpha))
    cuts = np.zeros((len(counts), clients + 1), dtype=np.int64)
    sizes = np.zeros(clients, dtype=np.int64)
    for row, count in zip(cuts, counts, strict=True):
        shares = rng.dirichlet(alphas)
        if self_balancing:
            shares[sizes > fair] = 0
            shares = shares / sum(shares.tolist())
        row[1:] = (np.cumsum(shares) * count).astype(np.int64)
        row[-1] = count
        sizes += np.diff(row)
    return cuts


def _dealt(
    rng: np.random.Generator, order: IntArray, piles: Sequence[IntArray], cuts: IntArray
) -> list[IntArray]:
    """Cut the piles, and shuffle what each client gets."""
    parts = []
    for client in range(cuts.shape[1] - 1):
        held = [pile[row[client] : row[client + 1]] for pile, row in zip(piles, cuts, strict=True)]
        mine = np.concatenate(held).tolist()
        rng.shuffle(mine)
        parts.append(order[mine])
    return parts


@register("partition", "shards")
def _shards(labels: IntArray, clients: int, seed: int, shards_per_client: int) -> list[IntArray]:
    """Return shards of one label each (McMahan et al. 2017)."""
    rng = np.random.default_rng(derive(seed, "partition-shards"))
    order = _order(labels, seed)
    by_label = order[np.argsort(labels[order], kind="stable")]
    size = len(labels) // (clients * shards_per_client)
    usable = len(labels) // size
    dealt = rng.permutation(usable)[: clients * shards_per_client].reshape(clients, -1)
    parts = [[place for shard in own for place in range(shard * size, (shard + 1) * size)] for own in dealt]
    for part in parts:
        rng.shuffle(part)
    return [by_label[part] for part in parts]


@register("partition", "labels")
def _labels(
    labels: IntArray, clients: int, rng: np.random.Generator, labels_per_client: int
) -> list[IntArray]:
    """Return parts of a few labels each; raises ``UserError`` where there are not so many labels."""
    names = np.unique(labels)
    if labels_per_client > len(names):
        raise UserError(
            f"partition.labels_per_client = {labels_per_client}: at most the {len(names)} labels of the data"
        )
    held = np.zeros((clients, len(names)), dtype=bool)
    for client in range(clients):
        own = client % len(names)
        others = np.delete(np.arange(len(names)), own)
        held[client, [own, *rng.choice(others, labels_per_client - 1, replace=False)]] = True
    parts: list[list[IntArray]] = [[] for _ in range(clients)]
    for column, name in enumerate(names):
        holders = np.flatnonzero(held[:, column])
        if len(holders):
            samples = rng.permutation(np.flatnonzero(labels == name))
            for holder, part in zip(holders, np.array_split(samples, len(holders)), strict=True):
                parts[holder].append(part)
    return [np.concatenate(part) for part in parts]


@register("partition", "label-dirichlet")
def _label_dirichlet(labels: IntArray, clients: int, seed: int, alpha: float) -> list[IntArray]:
    """Fill equal clients from their own label mixes until the samples run out.

    Ours rather than flwr-datasets' InnerDirichletPartitioner: that draws sample by sample (8 s for 1,000
    clients) and divides by zero when a client's labels are all used up at a small alpha. Here a sweep
    draws all that every client still needs; a label in too great demand is divided at random among those
    who drew it, and is out of the next sweep, so at most one sweep a label is needed.
    """
    rng = numpy_rng(seed, "partition-label-dirichlet")
    stock = np.bincount(labels)
    mixes = rng.dirichlet(np.full(len(stock), float(alpha)), size=clients)
    need = np.array([len(part) for part in np.array_split(labels, clients)])
    given = np.zeros((clients, len(stock)), dtype=np.int64)
    while need.any():
        # A client whose own labels are all used up takes what is left, as it is left.
        mix = np.where(stock > 0, mixes, 0.0)
        total = mix.sum(1, keepdims=True)
        mix = np.where(total > 0, mix / np.where(total > 0, total, 1), stock / stock.sum())
        drawn = rng.multinomial(need, mix)
        for label in np.flatnonzero(drawn.sum(0) > stock):
            drawn[:, label] = rng.multivariate_hypergeometric(drawn[:, label], stock[label])
        given, need, stock = given + drawn, need - drawn.sum(1), stock - drawn.sum(0)
    return _deal(labels, given, rng)


@register("partition", "quantity")
def _quantity(labels: IntArray, clients: int, seed: int, alpha: float, min_size: int) -> list[IntArray]:
    """Give each client ``min_size`` samples and divide the rest by Dirichlet(alpha).

    Ours: flwr-datasets skews sizes only by fixed functions of the client's number (linear, square,
    exponential), which no seed changes.
    """
    rng = numpy_rng(seed, "partition-quantity")
    shares = rng.dirichlet(np.full(clients, float(alpha)))
    sizes = min_size + rng.multinomial(len(labels) - clients * min_size, shares)
    return np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1])


@register("partition", "natural")
def _natural(labels: IntArray, clients: int, owners: IntArray | None) -> list[IntArray]:
    """Give each client what it comes with; raises ``UserError`` for another number of clients."""
    del labels
    if owners is None:
        raise UserError(
            'partition.scheme = "natural": these data come with no clients; it needs image folders '
            'train/CLIENT/CLASS/* (data.name = "imagefolder"), or a set that says whose each image is'
        )
    found = int(owners.max()) + 1
    if found != clients:
        raise UserError(
            f"partition.clients = {clients}: the training images are of {found} clients; "
            f"set partition.clients = {found}"
        )
    return [np.flatnonzero(owners == client) for client in range(clients)]


def _deal(labels: IntArray, counts: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Give client c ``counts[c, l]`` samples of each label l, at random."""
    piles = [rng.permutation(np.flatnonzero(labels == label)) for label in range(counts.shape[1])]
    cuts = [np.split(pile, np.cumsum(counts[:, label])[:-1]) for label, pile in enumerate(piles)]
    return [np.concatenate([cut[client] for cut in cuts]) for client in range(len(counts))]


def _order(labels: IntArray, seed: int) -> IntArray:
    """Shuffle all samples, so that a sorted dataset does not come out sorted, int64 (N,)."""
    return numpy_rng(seed, "partition-order").permutation(len(labels))
