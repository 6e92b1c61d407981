"""Exact samples of the discrete Gaussian, fast enough for every element of a large network.

N_Z(0, sigma^2) gives the integer x a probability in proportion to exp(-x^2 / (2 sigma^2)) (Canonne, Kamath
and Steinke 2020, "The Discrete Gaussian for Differential Privacy"). Noise of floating-point numbers has gaps
that give values away (Mironov 2012); integers have none, and neither does their sum with an exact sum.

The sampler is vectorised, and exact for any source of random bits that is:

- |x| = m y + j with m a power of two, 0 <= j < m: y is drawn in proportion to exp(-(m y)^2 / (2 sigma^2)) by
  inversion, j uniformly, and both are kept with probability exp(-j (2 m y + j) / (2 sigma^2)) (the splitting
  of Ducas et al. 2013, "Lattice Signatures and Bimodal Gaussians"); m is about sigma / 16 or less, so more
  than nine in ten are.
- Both comparisons are made with 32 random bits. Where these do not decide, about once in a hundred million
  samples, further bits are drawn and compared in decimal arithmetic of as many digits as it takes.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache, reduce
from math import ceil, log10

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = Callable[[int], NDArray[np.uint32]]
"""A source of uniform 32-bit words: called with a count, gives as many new ones."""
Integers = NDArray[np.int64]

LARGEST_SIGMA = 1 << 30
"""So that all products are within int64, tails included."""
CHUNK = 1 << 13
"""Samples drawn at a time, so that what it takes stays in the cache."""
STEPS_BITS = 4
"""The table is of a Gaussian with a deviation from 2**STEPS_BITS to twice that."""
WORD_BITS = 32
CELL_BITS = 16
FLOAT_ERROR = 2.0**-48
"""More than numpy's ``exp`` of a number from -1 to 0 can be wrong by."""
EXTRA_DIGITS = 20


@dataclass(frozen=True)
class DiscreteGaussian:
    """The distribution N_Z(0, sigma^2) for a whole ``sigma`` from 1 to ``LARGEST_SIGMA``."""

    sigma: int

    def __post_init__(self) -> None:
        if not 1 <= self.sigma <= LARGEST_SIGMA:
            raise ValueError(f"sigma = {self.sigma}: must be from 1 to {LARGEST_SIGMA}")

    @property
    def step(self) -> int:
        """Return m, the power of two that |x| is divided by."""
        return int(1 << max(0, self.sigma.bit_length() - 1 - STEPS_BITS))

    def sample(self, count: int, words: Words) -> Integers:
        """Return ``count`` independent samples, int64 (count,), of the random bits that ``words`` gives."""
        found, have = [np.empty(0, dtype=np.int64)], 0
        while have < count:
            kept = self._tried(count - have + (count - have) // 8 + 8, words)
            found.append(kept[: count - have])
            have += len(found[-1])
        return np.concatenate(found)

    def _tried(self, count: int, words: Words) -> Integers:
        """Return what is kept of ``count`` tries."""
        m = self.step
        steps = self._steps(words(count), words)
        mixed = words(count)
        rest = (mixed & np.uint32(m - 1)).astype(np.int64)
        negative = (mixed >> np.uint32(WORD_BITS - 1)).astype(bool)
        size = steps * m + rest
        kept = self._accepted(rest * (size + steps * m), words(count), words)
        kept &= ~(negative & (size == 0))  # zero has one sign
        return np.where(negative, -size, size)[kept]

    def _steps(self, drawn: NDArray[np.uint32], words: Words) -> Integers:
        """Invert the distribution of y at ``drawn``, the first 32 bits of uniform numbers."""
        table, least, most = _table(self.sigma, self.step)
        cells = drawn >> np.uint32(WORD_BITS - CELL_BITS)
        steps: Integers = least[cells].astype(np.int64)
        apart = np.flatnonzero(steps != most[cells])
        steps[apart] = np.searchsorted(table, drawn[apart], side="right")
        unsure = apart[table[np.maximum(steps[apart], 1) - 1] == drawn[apart]]
        for place in unsure.tolist():
            steps[place] = self._step(int(drawn[place]), words)
        return steps

    def _step(self, drawn: int, words: Words) -> int:
        """Invert at a number whose first 32 bits are ``drawn``, with as many more as it takes."""
        bits = WORD_BITS
        while True:
            drawn, bits = drawn << WORD_BITS | int(words(1)[0]), bits + WORD_BITS
            thresholds = list(_exact_thresholds(self.sigma, self.step, bits))
            if drawn not in thresholds:
                return sum(threshold < drawn for threshold in thresholds)

    def _accepted(self, exponents: Integers, drawn: NDArray[np.uint32], words: Words) -> NDArray[np.bool_]:
        """Return where a uniform number beginning with ``drawn`` is below exp(-exponent / (2 sigma^2))."""
        limit = np.exp(exponents * (-0.5 / self.sigma**2))
        low = drawn * 2.0**-WORD_BITS
        sure: NDArray[np.bool_] = low + 2.0**-WORD_BITS <= limit - FLOAT_ERROR
        unsure = np.flatnonzero(~sure & (low < limit + FLOAT_ERROR))
        for place in unsure.tolist():
            sure[place] = self._below(int(exponents[place]), int(drawn[place]), words)
        return sure

    def _below(self, exponent: int, drawn: int, words: Words) -> bool:
        """Decide one of these comparisons with as many more bits as it takes."""
        bits = WORD_BITS
        while exponent:
            context = _context(bits)
            limit = int(context.multiply(_weight(exponent, self.sigma, context), Decimal(1 << bits)))
            if drawn != limit:
                return drawn < limit
            drawn, bits = drawn << WORD_BITS | int(words(1)[0]), bits + WORD_BITS
        return True


def add_noise(quanta: Tensor, sigma: int, words: Words) -> None:
    """Add samples of N_Z(0, ``sigma``^2) to whole numbers, float64 (elements,), in place; none for 0."""
    for piece in quanta.split(CHUNK) if sigma else ():
        piece.add_(torch.from_numpy(DiscreteGaussian(sigma).sample(len(piece), words)))


def system_words(count: int) -> NDArray[np.uint32]:
    """Return random words of the operating system: noise that nobody can draw again."""
    return np.frombuffer(os.urandom(4 * count), dtype=np.uint32)


def seeded_words(rng: np.random.Generator) -> Words:
    """Return the words of a seeded generator: the same noise again, and no secret from who has the seed."""

    def words(count: int) -> NDArray[np.uint32]:
        raw: NDArray[np.uint64] = rng.bit_generator.random_raw((count + 1) // 2)
        return raw.view(np.uint32)[:count]

    return words


def _context(bits: int) -> Context:
    """Return decimal arithmetic in which numbers below 2**bits have all their digits, and some more."""
    return Context(prec=ceil(bits * log10(2)) + EXTRA_DIGITS)


def _weight(exponent: int, sigma: int, context: Context) -> Decimal:
    """Return exp(-exponent / (2 sigma^2))."""
    return context.exp(context.divide(Decimal(-exponent), Decimal(2 * sigma**2)))


@lru_cache(maxsize=4)
def _table(sigma: int, step: int) -> tuple[NDArray[np.uint32], Integers, Integers]:
    """Return the thresholds, and how many are below the first, and at most the last, number of each cell.

    A cell is of numbers with the same first ``CELL_BITS``: in most of them no threshold is.
    """
    table = np.array(list(_exact_thresholds(sigma, step, WORD_BITS)), dtype=np.uint32)
    first = np.arange(1 << CELL_BITS, dtype=np.uint32) << np.uint32(WORD_BITS - CELL_BITS)
    last = first | np.uint32((1 << WORD_BITS - CELL_BITS) - 1)
    return (
        table,
        np.searchsorted(table, first, side="left").astype(np.int16),
        np.searchsorted(table, last, side="right").astype(np.int16),
    )


def _exact_thresholds(sigma: int, step: int, bits: int) -> Iterator[int]:
    """Yield floor(2**bits P(y <= k)) for k = 0, 1, ... as long as that is below 2**bits."""
    context = _context(bits)
    least = context.power(Decimal(10), Decimal(-context.prec))
    weights = [Decimal(1)]
    while weights[-1] > least:
        weights.append(_weight((step * len(weights)) ** 2, sigma, context))
    total, below, largest = reduce(context.add, weights), Decimal(0), (1 << bits) - 1
    for weight in weights[:-1]:
        below = context.add(below, weight)
        yield min(largest, int(context.multiply(context.divide(below, total), Decimal(1 << bits))))
