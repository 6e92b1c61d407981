"""Means over seeds with intervals, and paired comparisons; each says its method, level and n.

- **Mean** over seeds with the interval of Student's t, mean +- t sd / sqrt(n). It covers what it says for
  normal samples at every n, and for the top-1 of some thousand test images; ``benchmarks/coverage.py``
  measures how far it falls short for skewed samples. Equal values in all seeds give no interval: their
  spread says nothing of other seeds.
- **Paired** with a baseline, seed by seed: differences by the paired t; ratios as their geometric mean, by
  the t of their logarithms. Both test whether the arms differ, or Wilcoxon's signed ranks do (Wilcoxon
  1945); p values of one measure are adjusted over the arms (Holm 1979).
- **Interquartile mean** from ``IQM_RUNS`` runs an arm: the mean of the middle half, with the percentile
  interval of stratified bootstrap samples (Agarwal et al. 2021, rliable).

An absent figure may mean "never got there": then there is a median, infinitely late beyond half, and no mean.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedfmd.records.schema import Number
from fedfmd.seeds import numpy_rng

Test = Literal["t", "wilcoxon"]
Floats = npt.NDArray[np.float64]
STUDENT, LOG_STUDENT, BOOTSTRAP = "Student's t", "Student's t of the logarithms", "stratified bootstrap"
FEW = 5
"""Below so many seeds a table says that they prove little."""
IQM_RUNS = 10
EQUAL = 1e-12
"""Values no further apart than this, relative to the largest of what they were made from, are equal."""
FINE = 20_000
"""Quantiles of the sample deviation that a power is averaged over: good to four digits."""
NO_VALUE, ONE_VALUE, EQUAL_VALUES = "no value", "one value", "equal in all seeds"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over ``count`` seeds with what speaks for it; absent bounds have their ``reason``."""

    count: int
    mean: Number = None
    sd: Number = None
    """Sample standard deviation, divisor n - 1."""
    median: Number = None
    """Absent where half of the seeds never got there: it is beyond every measurement."""
    low: Number = None
    high: Number = None
    reason: str | None = NO_VALUE
    """Why there is no interval."""
    p: Number = None
    """Of the paired test; after ``holm`` adjusted."""


NOTHING = Estimate(count=0)


def estimate(values: Sequence[Number], confidence: float, *, without: str = "") -> Estimate:
    """Return mean, sd, median and the t interval of ``values`` over seeds.

    Absent values are left out; where ``without`` says what befell their seeds, as ``never got there``, they
    count as beyond all others, so that there is a median and no mean.
    """
    known = [v for v in values if v is not None]
    if not known:
        return NOTHING
    if without and len(known) < len(values):
        middle = float(np.median([math.inf if v is None else v for v in values]))
        missing = f"{len(values) - len(known)} of {len(values)} seeds {without}"
        return Estimate(count=len(known), median=middle if math.isfinite(middle) else None, reason=missing)
    return _student(np.array(known, dtype=np.float64), confidence)


def paired(
    values: Sequence[Number], baseline: Sequence[Number], confidence: float, test: Test, *, by_ratio: bool
) -> Estimate:
    """Compare with the baseline's figures of the same seeds: their differences, or ratios.

    The mean of ratios is geometric. A seed that lacks a figure on either side, or of which a ratio would be
    of zero, is left out.
    """
    pairs = [(a, b) for a, b in zip(values, baseline, strict=True) if a is not None and b is not None]
    if not by_ratio:
        largest = max((abs(v) for pair in pairs for v in pair), default=0.0)
        return from_zero([a - b for a, b in pairs], confidence, test, largest)
    logs = np.array([math.log(a / b) for a, b in pairs if a > 0 and b > 0])
    if not len(logs):
        return NOTHING
    found = from_zero(logs.tolist(), confidence, test, 1.0)  # a ratio is rounded to so much of 1
    ratios = np.exp(logs)
    spread = float(ratios.std(ddof=1)) if len(ratios) > 1 else None
    low, high = (None if bound is None else math.exp(bound) for bound in (found.low, found.high))
    scaled = replace(found, mean=math.exp(found.mean or 0.0), sd=spread, low=low, high=high)
    return replace(scaled, median=float(np.median(ratios)))


def from_zero(differences: Sequence[Number], confidence: float, test: Test, largest: float) -> Estimate:
    """Estimate the mean difference of pairs and test whether there is none.

    ``largest`` is the size of the figures that were subtracted: it says what of a difference is rounding.
    No p value where the pairs differ alike, or there is but one.
    """
    known = np.array([d for d in differences if d is not None], dtype=np.float64)
    found = _student(known, confidence, largest)
    if found.reason is not None:
        return found
    return replace(found, p=_t_test(known) if test == "t" else _wilcoxon(known))


def holm(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Adjust the p values of one measure over the arms, step by step from the smallest (Holm 1979)."""
    known = sorted((e.p, i) for i, e in enumerate(estimates) if e.p is not None)
    adjusted, least = list(estimates), 0.0
    for place, (p, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        adjusted[i] = replace(estimates[i], p=least)
    return adjusted


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """Return the mean of the middle half of all scores, a quarter cut off at either end (rounded down)."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def iqm_estimate(values: Sequence[Number], confidence: float, resamples: int) -> Estimate:
    """Return the interquartile mean of an arm's runs, with the interval of stratified bootstrap samples.

    An arm's runs are of one task and hence one stratum: its runs are drawn with replacement, seeded.
    """
    known = np.array([v for v in values if v is not None])
    if len(known) < IQM_RUNS:
        return Estimate(count=len(known), reason=f"needs {IQM_RUNS} runs")
    middle = interquartile_mean(known)
    found = replace(_student(known, confidence), mean=middle, low=None, high=None)
    if found.reason:
        return found
    drawn = np.sort(known[_resamples(len(known), resamples)], axis=1)
    cut = len(known) // 4
    means = drawn[:, cut : len(known) - cut].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return replace(found, low=float(low), high=float(high))


def student_interval(samples: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Return the bounds (...) of the mean of samples (..., n), n >= 2, by Student's t."""
    count = samples.shape[-1]
    half = _t_quantile(count - 1, confidence) * samples.std(axis=-1, ddof=1) / math.sqrt(count)
    middle = samples.mean(axis=-1)
    return middle - half, middle + half


def detectable(sd: float, count: int, level: float, power: float = 0.8) -> float | None:
    """Return the mean difference that ``count`` pairs find with chance ``power``; null for one pair.

    ``sd`` is that of the differences; the test is the paired t test at ``level``, two-sided.
    """
    return None if count < 2 else _noncentrality(count - 1, level, power) * sd / math.sqrt(count)


def least_p(test: Test, count: int) -> float:
    """Return the smallest p value that a test of ``count`` pairs can have."""
    return 2.0 ** (1 - count) if test == "wilcoxon" else 0.0


@functools.cache
def _noncentrality(freedom: int, level: float, power: float) -> float:
    """Return the noncentrality at which the two-sided t test has this power.

    Given the sample deviation S, t is beyond c with chance Phi(d - c S) + Phi(-d - c S); the mean over S is
    taken over its quantiles, since scipy's noncentral t fails at the small levels of many comparisons.
    """
    from scipy.special import gammaincinv, ndtr, stdtrit

    beyond = stdtrit(freedom, 1 - level / 2)
    spread = beyond * np.sqrt(2 / freedom * gammaincinv(freedom / 2, (np.arange(FINE) + 0.5) / FINE))
    low, high = 0.0, float(spread[-1]) + 10.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        found = float(np.mean(ndtr(middle - spread) + ndtr(-middle - spread)))
        low, high = (middle, high) if found < power else (low, middle)
    return high


def _student(values: Floats, confidence: float, largest: float = 0.0) -> Estimate:
    """Estimate a mean; values whose spread is rounding, of themselves or of figures so large, are equal."""
    if not len(values):
        return NOTHING
    mean, median = float(values.mean()), float(np.median(values))
    if len(values) == 1:
        return Estimate(count=1, mean=mean, median=median, reason=ONE_VALUE)
    if np.ptp(values) <= EQUAL * max(largest, float(np.abs(values).max())):
        return Estimate(count=len(values), mean=mean, sd=0.0, median=median, reason=EQUAL_VALUES)
    low, high = student_interval(values, confidence)
    sd = float(values.std(ddof=1))
    bounds = {"low": float(low), "high": float(high)}
    return Estimate(count=len(values), mean=mean, sd=sd, median=median, reason=None, **bounds)


def _t_test(differences: Floats) -> float:
    """Return the two-sided p value of Student's paired test; the differences are not all alike."""
    from scipy.special import stdtr

    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(2 * stdtr(len(differences) - 1, -abs(differences.mean() / error)))


def _wilcoxon(differences: Floats) -> float:
    from scipy import stats  # a second to import, and few studies need it

    return float(stats.wilcoxon(differences).pvalue)


@functools.cache
def _t_quantile(freedom: int, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


@functools.cache
def _resamples(count: int, resamples: int) -> npt.NDArray[np.int64]:
    """The same for every figure, so that figures of one table vary together."""
    return numpy_rng(0, "bootstrap", count).integers(0, count, (resamples, count))
