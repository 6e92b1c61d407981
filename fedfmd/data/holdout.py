"""What is kept from training: a seeded share of the samples, stratified over their labels for tests.

There the largest remainders decide (Hamilton's method): each label gives the whole part of its share, and
what is left of the total goes to the labels with the largest fractions, equal ones in a seeded order.
"""

import numpy as np

from fedfmd.data.arrays import IntArray
from fedfmd.seeds import numpy_rng


def holdout_size(samples: int, share: float) -> int:
    """Return how many of ``samples`` a ``share`` above 0 keeps: at least one, and at least one is left.

    0 for a share of 0, and of a single sample, which is left for training.
    """
    return min(max(1, round(share * samples)), samples - 1) if share and samples > 1 else 0


def stratified_counts(counts: IntArray, total: int, rng: np.random.Generator) -> IntArray:
    """Divide ``total`` over labels in proportion to ``counts`` (labels,), none beyond its count, int64."""
    exact = total * counts / max(1, counts.sum())
    given: IntArray = np.floor(exact).astype(np.int64)
    tied = rng.permutation(len(counts))
    order = tied[np.argsort(-(exact - given)[tied], kind="stable")]
    given[order[: total - given.sum()]] += 1
    return given


def holdout_split(labels: IntArray, share: float, seed: int, *ids: int) -> tuple[IntArray, IntArray]:
    """Return the places of ``labels``, int64 (N,), that are kept for testing, and all others.

    Both are ascending, int64; the draw follows from the seed and ``ids``, such as a client's number.
    """
    rng = numpy_rng(seed, "partition-holdout", *ids)
    present, counts = np.unique(labels, return_counts=True)
    wanted = stratified_counts(counts, holdout_size(len(labels), share), rng)
    drawn = [
        rng.choice(np.flatnonzero(labels == label), count, replace=False)
        for label, count in zip(present, wanted, strict=True)
    ]
    kept = np.zeros(len(labels), dtype=bool)
    kept[np.concatenate([np.zeros(0, dtype=np.int64), *drawn])] = True
    return np.flatnonzero(kept), np.flatnonzero(~kept)


def validation_split(samples: int, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Return a seeded ``share`` of the indices 0 .. samples - 1 and all others, both ascending, int64.

    A share above 0 is at least one sample, and leaves at least one.
    """
    count = holdout_size(samples, share)
    order = numpy_rng(seed, "partition-validation").permutation(samples)
    return np.sort(order[:count]), np.sort(order[count:])
