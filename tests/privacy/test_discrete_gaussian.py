"""The sampler against the exact probabilities, and where 32 random bits do not decide."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from fedfmd.privacy.discrete_gaussian import (
    LARGEST_SIGMA,
    DiscreteGaussian,
    Words,
    _exact_thresholds,
    add_noise,
    seeded_words,
    system_words,
)


def seeded(seed: int = 0) -> Words:
    return seeded_words(np.random.default_rng(seed))


def probabilities(sigma: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    values = np.arange(-12 * sigma, 12 * sigma + 1)
    weights = np.exp(-(values**2) / (2 * sigma**2))
    return values, weights / weights.sum()


@pytest.mark.parametrize("sigma", [1, 2, 15, 16, 33, 100])
def test_samples_have_the_exact_probabilities(sigma: int) -> None:
    """Chi-square over every integer that is expected ten times; below 16 the table alone decides."""
    count = 300_000
    values, chances = probabilities(sigma)
    found = np.bincount(
        DiscreteGaussian(sigma).sample(count, seeded(sigma)) - values[0], minlength=len(values)
    )
    often = chances * count >= 10
    seen = np.append(found[often], found[~often].sum())
    expected = np.append(chances[often], chances[~often].sum()) * count
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(seen) - 1) > 1e-3


def test_a_wrong_deviation_would_be_seen() -> None:
    """The same statistic, of samples of 102 against the probabilities of 100."""
    count = 300_000
    values, chances = probabilities(100)
    found = np.bincount(DiscreteGaussian(102).sample(count, seeded()) - values[0], minlength=len(values) + 99)
    often = chances * count >= 10
    statistic = ((found[: len(values)][often] - chances[often] * count) ** 2 / (chances[often] * count)).sum()
    assert chi2.sf(statistic, often.sum()) < 1e-9


@pytest.mark.parametrize("sigma", [1 << 10, 1 << 20, LARGEST_SIGMA])
def test_wide_ones_have_the_moments_and_no_grid_of_their_own(sigma: int) -> None:
    count = 200_000
    found = DiscreteGaussian(sigma).sample(count, seeded()).astype(np.float64) / sigma
    assert abs(found.mean()) < 4 / math.sqrt(count)
    assert abs(found.std() - 1) < 4 / math.sqrt(2 * count)
    assert abs((found**4).mean() - 3) < 4 * math.sqrt(96 / count)
    low_bits = np.bincount(DiscreteGaussian(sigma).sample(count, seeded(1)) & 15, minlength=16)
    assert chi2.sf(((low_bits - count / 16) ** 2 / (count / 16)).sum(), 15) > 1e-3


class Told:
    """Random words that are told beforehand."""

    def __init__(self, words: Sequence[int]):
        self.words = list(words)

    def __call__(self, count: int) -> NDArray[np.uint32]:
        drawn, self.words = self.words[:count], self.words[count:]
        return np.array(drawn, dtype=np.uint32)


@pytest.mark.parametrize("sigma", [3, 40])
@pytest.mark.parametrize("after", [0, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("k", [0, 1, 5, -1])
def test_further_bits_decide_where_the_first_do_not(sigma: int, after: int, k: int) -> None:
    """At a threshold of the table the rest of the number says on which side of it the number is."""
    gaussian = DiscreteGaussian(sigma)
    first = list(_exact_thresholds(sigma, gaussian.step, 32))
    long = list(_exact_thresholds(sigma, gaussian.step, 96))
    number = (first[k] << 64) | (after << 32) | 12345
    steps = gaussian._steps(np.array([first[k]], dtype=np.uint32), Told([after, 12345, 0, 0]))
    assert steps.tolist() == [sum(threshold < number for threshold in long)]


def test_thresholds_are_the_distribution_function_to_the_last_bit() -> None:
    """Of sigma = 1 against a sum of 60 terms in rational arithmetic."""
    terms = [Fraction(_exp(Fraction(-(k**2), 2))) for k in range(60)]
    below = [sum(terms[: k + 1]) / sum(terms) for k in range(6)]
    found = list(_exact_thresholds(1, 1, 64))[:6]
    assert found == [math.floor(b * 2**64) for b in below]


def _exp(x: Fraction) -> Fraction:
    """Return exp(x), x <= 0, within 1e-60, by its series at x / 2^12."""
    small, total, term = x / 4096, Fraction(1), Fraction(1)
    for n in range(1, 40):
        term = (term * small / n).limit_denominator(10**80)
        total += term
    for _ in range(12):
        total = (total * total).limit_denominator(10**80)
    return total


@pytest.mark.parametrize("exponent", [1, 777])
def test_an_undecided_acceptance_is_decided_exactly(exponent: int) -> None:
    gaussian = DiscreteGaussian(40)
    limit = _exp(Fraction(-exponent, 2 * 40**2))
    first = math.floor(limit * 2**32)
    exponents, drawn = np.array([exponent]), np.array([first], dtype=np.uint32)
    second = math.floor(limit * 2**64) & 0xFFFFFFFF
    assert gaussian._accepted(exponents, drawn, Told([second - 1])).tolist() == [True]
    assert gaussian._accepted(exponents, drawn, Told([second + 1])).tolist() == [False]


def test_noise_is_the_same_by_seed_and_new_from_the_system() -> None:
    quanta = [torch.arange(20_000, dtype=torch.float64) for _ in range(4)]
    for vector, words in zip(quanta, (seeded(1), seeded(1), system_words, system_words), strict=True):
        add_noise(vector, 1 << 20, words)
    assert torch.equal(quanta[0], quanta[1])
    assert not torch.equal(quanta[2], quanta[3])
    assert torch.equal(quanta[0], quanta[0].round())
    untouched = torch.ones(5, dtype=torch.float64)
    add_noise(untouched, 0, seeded())
    assert untouched.tolist() == [1.0] * 5
    with pytest.raises(ValueError, match="sigma"):
        DiscreteGaussian(LARGEST_SIGMA + 1)
