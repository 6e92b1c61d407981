"""Medians over seeds with bootstrap intervals, and paired comparisons.

The interval is the percentile bootstrap (Efron 1979) of the median, from seeded resamples. With three seeds
it is the range of the three: so few runs support no more. An absent figure may mean "never got there": such
a value counts as infinitely late, and an estimate that lands there is absent.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfmd.records.schema import Number
from fedfmd.seeds import numpy_rng


@dataclass(frozen=True)
class Estimate:
    """A median over ``count`` seeds and its interval; a bound that is absent is beyond every measurement."""

    median: Number
    low: Number
    high: Number
    count: int


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    confidence: float = 0.95
    resamples: int = 4000

    def estimate(self, values: Sequence[Number], *, absent_is_late: bool = False) -> Estimate:
        """Give the median of ``values``; absent ones are left out, or count as later than all others."""
        known = [v for v in values if v is not None]
        if not known:
            return Estimate(None, None, None, 0)
        sample = np.array([math.inf if v is None else v for v in values] if absent_is_late else known)
        medians = _medians(sample[_resamples(len(sample), self.resamples)])
        tail = (1 - self.confidence) / 2
        # Quantiles that are themselves resampled medians: between a figure and infinity lies nothing.
        low = np.quantile(medians, tail, method="inverted_cdf")
        high = np.quantile(medians, 1 - tail, method="inverted_cdf")
        middle = _medians(sample[np.newaxis])[0]
        return Estimate(_finite(middle), _finite(low), _finite(high), len(known))


def differences(values: Sequence[Number], baseline: Sequence[Number]) -> list[Number]:
    """Subtract the baseline's figure of the same seed; absent where either is."""
    return [None if a is None or b is None else a - b for a, b in zip(values, baseline, strict=True)]


def ratios(values: Sequence[Number], baseline: Sequence[Number]) -> list[Number]:
    """Divide by the baseline's figure of the same seed; absent where either is, or the baseline's is 0."""
    return [None if a is None or not b else a / b for a, b in zip(values, baseline, strict=True)]


@functools.cache
def _resamples(count: int, resamples: int) -> npt.NDArray[np.int64]:
    """The same for every figure, so that figures of one table vary together."""
    return numpy_rng(0, "bootstrap", count).integers(0, count, (resamples, count))


def _medians(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ordered = np.sort(samples, axis=1)
    below, above = ordered[:, (ordered.shape[1] - 1) // 2], ordered[:, ordered.shape[1] // 2]
    middle: npt.NDArray[np.float64] = below / 2 + above / 2
    return middle


def _finite(value: float) -> Number:
    return float(value) if math.isfinite(value) else None
