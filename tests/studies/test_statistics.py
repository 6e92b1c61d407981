"""Means over seeds, their intervals and paired comparisons: closed forms, oracles, measured coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedfmd.results.statistics import (
    EQUAL_VALUES,
    ONE_VALUE,
    detectable,
    estimate,
    holm,
    interquartile_mean,
    iqm_estimate,
    least_p,
    paired,
    student_interval,
)

DRAWS = 20_000
SEEDS = (2, 3, 4, 5, 8, 10, 20)


def covered(samples, truth):
    low, high = student_interval(samples, 0.95)
    return float(((low <= truth) & (truth <= high)).mean())


def top1(rng, shape, images, spread, mean=0.8):
    """Top-1 on ``images`` test images of runs whose true accuracy varies over seeds."""
    accuracy = np.clip(rng.normal(mean, spread, shape), 0, 1)
    return rng.binomial(images, accuracy) / images


@pytest.mark.parametrize("count", SEEDS)
def test_intervals_cover_what_they_say(count):
    rng = np.random.default_rng(count)
    assert covered(rng.normal(5.0, 2.0, (DRAWS, count)), 5.0) >= 0.93
    for images in (1_000, 10_000):
        for spread in (0.002, 0.02):
            assert covered(top1(rng, (DRAWS, count), images, spread), 0.8) >= 0.93


@pytest.mark.parametrize("count", SEEDS)
def test_equal_arms_seldom_differ(count):
    """Pairs share what a seed does to both; the null is no difference."""
    rng = np.random.default_rng(100 + count)
    for images in (1_000, 10_000):
        shared = rng.normal(0, 0.02, (DRAWS, count))
        arms = [
            rng.binomial(images, 0.8 + shared + rng.normal(0, 0.005, shared.shape)) / images for _ in range(2)
        ]
        assert 1 - covered(arms[0] - arms[1], 0.0) <= 0.07


def test_the_interval_is_scipys():
    values = [0.81, 0.79, 0.84, 0.8]
    found = estimate(values, 0.95)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert (found.mean, found.sd, found.median) == pytest.approx((0.81, np.std(values, ddof=1), 0.805))
    assert (found.count, found.reason) == (4, None)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=7), st.floats(0.1, 10), st.floats(-100, 100))
def test_another_unit_gives_the_same_interval_in_that_unit(values, factor, shift):
    plain, other = estimate(values, 0.9), estimate([factor * v + shift for v in values], 0.9)
    if plain.low is None or other.low is None:
        return
    for a, b in ((plain.low, other.low), (plain.mean, other.mean), (plain.high, other.high)):
        assert b == pytest.approx(factor * a + shift, rel=1e-6, abs=1e-4)


def test_equal_or_single_values_have_no_interval_and_say_why():
    equal = estimate([0.5, 0.5, 0.5], 0.95)
    assert (equal.mean, equal.sd, equal.low, equal.high) == (0.5, 0.0, None, None)
    assert equal.reason == EQUAL_VALUES
    assert estimate([0.1 + 0.2, 0.3], 0.95).reason == EQUAL_VALUES  # equal but for rounding
    alone = estimate([5.0], 0.95)
    assert (alone.mean, alone.low, alone.reason, alone.count) == (5.0, None, ONE_VALUE, 1)
    assert estimate([None, None], 0.95).count == 0


def test_what_never_got_there_counts_as_late_and_has_no_mean():
    found = estimate([1.0, 2.0, None], 0.95, without="never got there")
    assert (found.mean, found.median, found.low, found.count) == (None, 2.0, None, 2)
    assert found.reason == "1 of 3 seeds never got there"
    assert estimate([1.0, None, None], 0.95, without="never got there").median is None
    assert estimate([1.0, 2.0, None], 0.95).mean == 1.5


def test_paired_tests_are_scipys():
    a, b = [0.81, 0.85, 0.83, 0.88, 0.80, 0.86], [0.80, 0.82, 0.84, 0.83, 0.79, 0.80]
    by_t = paired(a, b, 0.95, "t", by_ratio=False)
    assert by_t.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (by_t.low, by_t.high) == pytest.approx(stats.ttest_rel(a, b).confidence_interval(0.95))
    by_rank = paired(a, b, 0.95, "wilcoxon", by_ratio=False)
    assert by_rank.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    logs = np.log(a) - np.log(b)
    ratio = paired(a, b, 0.95, "t", by_ratio=True)
    assert ratio.mean == pytest.approx(np.exp(logs.mean()))
    assert ratio.p == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    assert ratio.low < ratio.mean < ratio.high


def test_a_constant_gain_has_no_interval_and_no_p_value():
    found = paired([0.25, 0.35, 0.45], [0.2, 0.3, 0.4], 0.95, "t", by_ratio=False)
    assert found.mean == pytest.approx(0.05)
    assert (found.low, found.p) == (None, None)
    assert found.reason == EQUAL_VALUES


def test_pairs_need_both_sides():
    assert paired([0.5, None, 0.7], [0.25, 0.1, None], 0.95, "t", by_ratio=False).count == 1
    assert paired([6.0, 1.0, None], [3.0, 0.0, 2.0], 0.95, "t", by_ratio=True).mean == pytest.approx(2.0)


def test_holms_step_down():
    """Holm 1979 by hand: 4 x 0.01, then 3 x 0.02 = 0.06, 2 x 0.03 raised to 0.06, and 0.5."""
    rows = [paired([1, 2, 3.5], [1, 1, 1], 0.95, "t", by_ratio=False)] * 4 + [estimate([], 0.95)]
    given_p = [0.03, 0.01, 0.5, 0.02]
    tested = [row.__class__(count=3, p=p) for row, p in zip(rows, given_p, strict=False)] + rows[4:]
    found = [row.p for row in holm(tested)]
    assert found == [pytest.approx(0.06), pytest.approx(0.04), 0.5, pytest.approx(0.06), None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interquartile_mean_is_rliables(values):
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)


def test_the_interquartile_mean_needs_ten_runs_and_its_interval_is_that_of_resamples():
    values = np.random.default_rng(1).normal(0.8, 0.02, 12).tolist()
    found = iqm_estimate(values, 0.95, 20_000)
    assert found.mean == pytest.approx(stats.trim_mean(values, 0.25))
    rng = np.random.default_rng(2)
    drawn = [stats.trim_mean(rng.choice(values, 12), 0.25) for _ in range(5_000)]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-3)
    assert iqm_estimate(values[:9], 0.95, 100).reason == "needs 10 runs"


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_what_so_many_pairs_detect_is_found_in_four_of_five_studies(count, level):
    """Simulated: pairs whose mean difference is what is said, tested by scipy's t test."""
    shift = detectable(2.0, count, level)
    drawn = np.random.default_rng(count).normal(shift, 2.0, (100_000, count))
    found = (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue <= level).mean()
    assert found == pytest.approx(0.8, abs=0.005)
    assert detectable(1.0, 1, level) is None


@given(
    st.lists(st.integers(1, 10_000), min_size=2, max_size=6),
    st.sampled_from([1e-30, 1e-16, 1e-6, 1.0, 1e9, 1e30]),
)
def test_an_estimate_in_another_unit_is_the_same_estimate(values, unit):
    plain, other = estimate(values, 0.95), estimate([unit * v for v in values], 0.95)
    assert other.reason == plain.reason
    for name in ("mean", "sd", "median", "low", "high"):
        a, b = getattr(plain, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or b == pytest.approx(unit * a, rel=1e-6, abs=1e-9 * unit * max(values))
    assert other.sd == pytest.approx(unit * plain.sd, rel=1e-9)


def test_differences_that_are_rounding_are_equal_in_any_unit():
    """0.1 + 0.2 is not 0.3, by a last digit that is none of the seeds'."""
    for unit in (1e-20, 1.0, 1e20):
        own, other = [unit * 0.3, unit * (0.1 + 0.2), unit * 0.7], [unit * 0.3, unit * 0.3, unit * 0.7]
        assert paired(own, other, 0.95, "t", by_ratio=False).reason == EQUAL_VALUES
        assert paired(own, other, 0.95, "t", by_ratio=True).reason == EQUAL_VALUES


def test_signed_ranks_cannot_pass_what_they_can_give():
    for count in range(2, 9):
        assert stats.wilcoxon(np.arange(1.0, count + 1)).pvalue == pytest.approx(least_p("wilcoxon", count))
