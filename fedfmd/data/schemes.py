"""How samples are spread over clients: the built-in schemes, in numpy alone.

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

``iid``, ``dirichlet`` and ``shards`` are flwr-datasets' partitions, to the sample, without its import, which
takes seconds, and without its tables, which are read row by row.
"""

from collections.abc import Sequence

import numpy as np

from fedfmd.data.arrays import IntArray
from fedfmd.errors import UserError, first_few
from fedfmd.registry import register
from fedfmd.seeds import derive, numpy_rng

TRIAL_DRAWS = 1000
"""Draws of `dirichlet` after which it is judged whether more make sense."""
HOPELESS_DEVIATIONS = 10
"""Standard deviations between no client that is short of samples and the mean count of such clients."""
MOST_DRAWN_SHARES = 3 * 10**7
"""Random shares, one for each label and client, that all redraws may take together."""


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
        f"partition.alpha = {alpha:g}, {clients} clients and {len(labels)} images: at best {min(short)} "
        f"clients had fewer; {lower}raise alpha, take fewer clients, or "
        'partition.scheme = "label-dirichlet", which gives all the same size'
    )


def _most_draws(labels: int, clients: int) -> int:
    """Return how often to redraw: for some tens of seconds, whatever the shape."""
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
    parts = [np.flatnonzero(owners == client) for client in range(clients)]
    if bare := [client for client, part in enumerate(parts) if not len(part)]:
        raise UserError(
            f'partition.scheme = "natural": no training image is left of client {first_few(bare)}; give more '
            "data.train_samples"
        )
    return parts


def _deal(labels: IntArray, counts: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Give client c ``counts[c, l]`` samples of each label l, at random."""
    piles = [rng.permutation(np.flatnonzero(labels == label)) for label in range(counts.shape[1])]
    cuts = [np.split(pile, np.cumsum(counts[:, label])[:-1]) for label, pile in enumerate(piles)]
    return [np.concatenate([cut[client] for cut in cuts]) for client in range(len(counts))]


def _order(labels: IntArray, seed: int) -> IntArray:
    """Shuffle all samples, so that a sorted dataset does not come out sorted, int64 (N,)."""
    return numpy_rng(seed, "partition-order").permutation(len(labels))
