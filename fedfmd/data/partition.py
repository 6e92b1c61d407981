"""Who has what: how the training samples are spread over the clients.

Schemes, by ``make_partition``:

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
- ``quantity``: label-independent, sizes by Dirichlet(alpha), at least ``min_size`` each (NIID-Bench).
- ``sampled``: virtual clients. Client c draws ``samples_per_client`` samples with its own label mix from
  Dirichlet(alpha), a pure function of (seed, c), when it is asked for: a population of a million costs
  nothing. Two clients may hold the same sample.

With ``validation`` a seeded share of the samples stays at the server, to choose by; it is taken first, and
the scheme spreads what is left. No client ever holds one of them.

``iid`` and ``shards`` are computed by flwr-datasets. Its import takes seconds, so it happens
inside ``make_partition`` only: workers load the saved file.
"""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfmd.data.cache import save_dataset
from fedfmd.data.dataset import Dataset
from fedfmd.errors import UserError
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed
from fedfmd.seeds import derive, numpy_rng

SCHEMES = ("iid", "dirichlet", "label-dirichlet", "shards", "quantity", "sampled")
_FORMAT = "fedfmd-partition-2"
_LISTED_SIZES = 10_000
TRIAL_DRAWS = 1000
"""Draws of `dirichlet` after which it is judged whether more make sense."""
HOPELESS_DEVIATIONS = 10
"""Standard deviations between no client that is short of samples and the mean count of such clients."""
MOST_DRAWN_SHARES = 3 * 10**7
"""Random shares, one for each label and client, that all redraws may take together."""
IntArray = NDArray[np.int64]


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
    @abstractmethod
    def sizes(self) -> IntArray:
        """Samples of each client, int64 (clients,)."""

    @abstractmethod
    def indices(self, client: int) -> Tensor:
        """Give the samples of one client, int64 (size,). Raises ``IndexError`` for an unknown client."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What a file holds beside ``about``."""

    def size(self, client: int) -> int:
        """Count the samples of one client."""
        self._check(client)
        return int(self.sizes[client])

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
        """Describe the partition as JSON: scheme, parameters, seed, sizes, hash.

        Sizes are a list up to 10,000 clients; beyond, smallest, median and largest speak for them.
        """
        sizes = self.sizes
        kept = {"validation": self.validation.tolist()} if len(self.validation) else {}
        listed = {"sizes": sizes.tolist()} if len(sizes) <= _LISTED_SIZES else {}
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
            kind = SampledPartition if about["scheme"] == "sampled" else ListedPartition
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

    @cached_property
    def sizes(self) -> IntArray:
        """Samples of each client."""
        return np.diff(self.offsets.numpy())

    def indices(self, client: int) -> Tensor:
        """Give the samples of one client."""
        self._check(client)
        return self.flat[int(self.offsets[client]) : int(self.offsets[client + 1])]

    def _tensors(self) -> dict[str, Tensor]:
        return {"flat": self.flat, "offsets": self.offsets}


@dataclass(frozen=True, kw_only=True)
class SampledPartition(Partition):
    """A partition whose clients are drawn when they are asked for."""

    pool: Tensor
    """All samples, sorted by label, int64."""
    starts: Tensor
    """Samples of label l are ``pool[starts[l]:starts[l + 1]]``, int64 (labels + 1,)."""

    @property
    def sizes(self) -> IntArray:
        """Samples of each client: one number, seen ``clients`` times."""
        return np.broadcast_to(np.int64(self.about["samples_per_client"]), (self.num_clients,))

    def indices(self, client: int) -> Tensor:
        """Draw the samples of one client: without repetition as long as a label's samples last."""
        self._check(client)
        rng = numpy_rng(self.about["seed"], "partition-sampled", client)
        starts = self.starts.numpy()
        held = np.diff(starts)
        mix = rng.dirichlet(np.full(len(held), self.about["alpha"])) * (held > 0)
        mix = mix / mix.sum() if mix.sum() > 0 else held / held.sum()
        wanted = rng.multinomial(self.about["samples_per_client"], mix)
        parts = [
            starts[label] + rng.choice(held[label], count, replace=bool(count > held[label]))
            for label, count in enumerate(wanted)
            if count
        ]
        return self.pool[torch.from_numpy(np.concatenate(parts))]

    def _tensors(self) -> dict[str, Tensor]:
        return {"pool": self.pool, "starts": self.starts}


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
    samples_per_client: int = 50,
    validation: float = 0.0,
) -> Partition:
    """Spread the samples with these labels, int64 (N,), over ``clients`` clients.

    The share ``validation`` of them, at least one if it is above 0, is kept from the clients.
    Parameters that a scheme does not use are ignored and not recorded. Raises ``UserError`` for values that
    are impossible, or that a draw cannot meet.
    """
    given = {
        "alpha": alpha,
        "min_size": min_size,
        "self_balancing": self_balancing,
        "shards_per_client": shards_per_client,
        "samples_per_client": samples_per_client,
    }
    if scheme not in SCHEMES:
        raise UserError(f"partition.scheme = {scheme!r}: allowed are {', '.join(SCHEMES)}")
    used = {key: given[key] for key in _PARAMETERS[scheme]}
    kept, left = validation_split(len(labels), validation, seed)
    _check_values(len(left), scheme, clients, used)
    about = {"scheme": scheme, "seed": seed, "clients": clients, "samples": len(left), **used}
    targets = labels[left].numpy()
    if scheme == "sampled":
        pool, starts = _sampled(targets)
        return SampledPartition(about=about, validation=kept, pool=left[pool], starts=starts)
    flat, offsets = _listed(_DEALERS[scheme](targets, about))
    about["unassigned"] = len(left) - len(flat)
    return ListedPartition(about=about, validation=kept, flat=left[flat], offsets=offsets)


def validation_split(samples: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return a seeded ``share`` of the indices 0 .. samples - 1 and all others, both ascending, int64.

    A share above 0 is at least one sample, and leaves at least one.
    """
    count = min(max(1, round(share * samples)), samples - 1) if share else 0
    order = torch.from_numpy(numpy_rng(seed, "partition-validation").permutation(samples))
    return order[:count].sort().values, order[count:].sort().values


def write_client_file(dataset: Dataset, partition: Partition, client: int, path: Path) -> None:
    """Write one client's own training pictures as a file for ``open_prepared``, with no test pictures.

    It holds nothing of the other clients but the whole training set's mean and standard deviation, which
    every client needs to see its pictures as the others do.
    """
    save_dataset(dataset.subset(partition.indices(client)).without_test(), path)


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "iid": (),
    "dirichlet": ("alpha", "min_size", "self_balancing"),
    "label-dirichlet": ("alpha",),
    "shards": ("shards_per_client",),
    "quantity": ("alpha", "min_size"),
    "sampled": ("alpha", "samples_per_client"),
}


def _check_values(samples: int, scheme: str, clients: int, used: dict[str, Any]) -> None:
    for key in ("min_size", "shards_per_client", "samples_per_client"):
        if used.get(key, 1) < 1:
            raise UserError(f"partition.{key} = {used[key]}: must be at least 1")
    if not 0 < used.get("alpha", 1) < float("inf"):
        raise UserError(f"partition.alpha = {used['alpha']}: must be a number above 0")
    if clients < 1:
        raise UserError(f"partition.clients = {clients}: must be at least 1")
    if samples < 1:
        raise UserError("partition: the training set is empty")
    if scheme == "sampled":
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


def _listed(parts: list[IntArray]) -> tuple[Tensor, Tensor]:
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    flat = np.concatenate(parts).astype(np.int64)
    return torch.from_numpy(flat), torch.from_numpy(offsets)


def _sampled(labels: IntArray) -> tuple[Tensor, Tensor]:
    pool = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int64)
    return torch.from_numpy(pool), torch.from_numpy(starts)


def _iid(labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    from flwr_datasets.partitioner import IidPartitioner

    return _by_flwr(IidPartitioner(num_partitions=about["clients"]), labels, about)


def _dirichlet(labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    """Redraw the division of every label until each client has ``min_size`` samples, as NIID-Bench does.

    The draws, cuts and shuffles are those of flwr-datasets' DirichletPartitioner, to the bit, without its
    limit of eleven draws. Raises ``UserError`` for a minimum that no draw will meet.
    """
    rng = np.random.default_rng(derive(about["seed"], "partition-dirichlet"))
    order = numpy_rng(about["seed"], "partition-order").permutation(len(labels))
    piles = [np.flatnonzero(labels[order] == label) for label in np.unique(labels)]
    short: list[int] = []
    for draw in range(_most_draws(len(piles), about["clients"])):
        cuts = _dirichlet_cuts(rng, [len(pile) for pile in piles], about)
        sizes = np.diff(cuts, axis=1).sum(0)
        short.append(int((sizes < about["min_size"]).sum()))
        if not short[-1]:
            return _dealt(rng, order, piles, cuts)
        if draw + 1 == TRIAL_DRAWS and np.mean(short) > HOPELESS_DEVIATIONS * np.std(short):
            break
    raise UserError(_unreachable(len(short), min(short), about))


def _most_draws(labels: int, clients: int) -> int:
    """Give how often to redraw: for some tens of seconds, whatever the shape."""
    return max(TRIAL_DRAWS, MOST_DRAWN_SHARES // (labels * clients))


def _dirichlet_cuts(rng: np.random.Generator, counts: Sequence[int], about: dict[str, Any]) -> IntArray:
    """Draw where each label's samples are cut between clients, int64 (labels, clients + 1)."""
    clients, fair = about["clients"], about["samples"] / about["clients"]
    alpha = np.full(clients, float(about["alpha"]))
    cuts = np.zeros((len(counts), clients + 1), dtype=np.int64)
    sizes = np.zeros(clients, dtype=np.int64)
    for row, count in zip(cuts, counts, strict=True):
        shares = rng.dirichlet(alpha)
        if about["self_balancing"]:
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


def _unreachable(draws: int, fewest: int, about: dict[str, Any]) -> str:
    least, alpha, clients = about["min_size"], about["alpha"], about["clients"]
    lower = "lower it, " if least > 1 else ""
    return (
        f"partition.min_size = {least}: not reached in {draws:,} draws with partition.alpha = {alpha:g}, "
        f"{clients} clients and {about['samples']} samples: at best {fewest} clients had fewer; {lower}raise "
        'alpha, take fewer clients, or partition.scheme = "label-dirichlet", which gives all the same size'
    )


def _shards(labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    from flwr_datasets.partitioner import ShardPartitioner

    partitioner = ShardPartitioner(
        num_partitions=about["clients"],
        partition_by="label",
        num_shards_per_partition=about["shards_per_client"],
        seed=derive(about["seed"], "partition-shards"),
    )
    return _by_flwr(partitioner, labels, about)


def _label_dirichlet(labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    """Fill equal clients from their own label mixes until the samples run out.

    Ours rather than flwr-datasets' InnerDirichletPartitioner: that draws sample by sample (8 s for 1,000
    clients) and divides by zero when a client's labels are all used up at a small alpha. Here a sweep
    draws all that every client still needs; a label in too great demand is divided at random among those
    who drew it, and is out of the next sweep, so at most one sweep a label is needed.
    """
    rng = numpy_rng(about["seed"], "partition-label-dirichlet")
    clients, stock = about["clients"], np.bincount(labels)
    mixes = rng.dirichlet(np.full(len(stock), float(about["alpha"])), size=clients)
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


def _quantity(labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    """Give each client ``min_size`` samples and divide the rest by Dirichlet(alpha).

    Ours: flwr-datasets skews sizes only by fixed functions of the client's number (linear, square,
    exponential), which no seed changes.
    """
    rng = numpy_rng(about["seed"], "partition-quantity")
    clients, floor = about["clients"], about["min_size"]
    shares = rng.dirichlet(np.full(clients, float(about["alpha"])))
    sizes = floor + rng.multinomial(len(labels) - clients * floor, shares)
    return np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1])


_DEALERS = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "label-dirichlet": _label_dirichlet,
    "shards": _shards,
    "quantity": _quantity,
}


def _deal(labels: IntArray, counts: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Give client c ``counts[c, l]`` samples of each label l, at random."""
    piles = [rng.permutation(np.flatnonzero(labels == label)) for label in range(counts.shape[1])]
    cuts = [np.split(pile, np.cumsum(counts[:, label])[:-1]) for label, pile in enumerate(piles)]
    return [np.concatenate([cut[client] for cut in cuts]) for client in range(len(counts))]


def _by_flwr(partitioner: Any, labels: IntArray, about: dict[str, Any]) -> list[IntArray]:
    """Let a partitioner of flwr-datasets divide a table of (index, label).

    The table is shuffled first: the IID partitioner takes blocks and the others take a label's samples in
    order, so that a sorted dataset would otherwise come out sorted.
    """
    import datasets

    order = numpy_rng(about["seed"], "partition-order").permutation(len(labels))
    partitioner.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]}).with_format(
        "numpy"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A warning for each redraw, in a hundred words.
            return [partitioner.load_partition(client)["index"][:] for client in range(about["clients"])]
    except ValueError as error:
        raise UserError(f"partition.scheme = {about['scheme']!r}: flwr-datasets cannot: {error}") from None
