"""What images are normalised by: the mean and standard deviation of each channel, from exact sums."""

from collections.abc import Sequence
from math import prod, sqrt

import numpy as np

from fedfmd.data.arrays import Bytes

_CHUNK_BYTES = 1 << 24


def channel_statistics(images: Bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 (N, c, h, w), N >= 1, scaled to 0..1."""
    return statistics_of(images.size // images.shape[1], *channel_sums(images))


def channel_sums(images: Bytes) -> tuple[list[int], list[int]]:
    """Return the sums of pixels and of their squares per channel of uint8 (N, c, h, w), in steps of 1/255.

    They are whole numbers, hence exact and the same on every machine, and sums over several parts of a set
    are those of the set; a chunk at a time is widened.
    """
    totals = np.zeros((2, images.shape[1]), dtype=np.int64)
    step = max(1, _CHUNK_BYTES // prod(images.shape[1:]))
    for start in range(0, len(images), step):
        wide = images[start : start + step].astype(np.int32)
        totals[0] += wide.sum((0, 2, 3))
        totals[1] += np.square(wide, out=wide).sum((0, 2, 3))
    sums, squares = totals.tolist()
    return sums, squares


def statistics_of(
    pixels: int, sums: Sequence[int], squares: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, scaled to 0..1, of what ``channel_sums`` returns.

    ``pixels``, at least 1, are those of one channel; a channel without any deviation gets 1.
    """
    means = [total / pixels for total in sums]
    deviations = [
        sqrt(max(0.0, total / pixels - mean * mean)) for total, mean in zip(squares, means, strict=True)
    ]
    return tuple(mean / 255 for mean in means), tuple((std or 255.0) / 255 for std in deviations)
