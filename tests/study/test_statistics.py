"""Medians and their bootstrap intervals: laws and closed forms."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.study.statistics import Bootstrap, differences, ratios

BOOTSTRAP = Bootstrap(0.95, 2000)
samples = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=7)


@given(samples)
def test_the_median_lies_in_its_interval_and_the_interval_in_the_range(values):
    found = BOOTSTRAP.estimate(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.count == len(values)


@given(samples, st.floats(0.1, 10), st.floats(-100, 100))
def test_another_unit_gives_the_same_interval_in_that_unit(values, factor, shift):
    plain = BOOTSTRAP.estimate(values)
    other = BOOTSTRAP.estimate([factor * value + shift for value in values])
    for a, b in ((plain.low, other.low), (plain.median, other.median), (plain.high, other.high)):
        assert b == pytest.approx(factor * a + shift, rel=1e-9, abs=1e-4)


def test_three_seeds_give_their_range_and_one_gives_itself():
    found = BOOTSTRAP.estimate([3.0, 1.0, 2.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)
    alone = BOOTSTRAP.estimate([5.0])
    assert (alone.low, alone.median, alone.high, alone.count) == (5.0, 5.0, 5.0, 1)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_the_interval_is_that_of_all_resamples(confidence):
    """With five values all 3125 resamples can be listed; the drawn ones must give the same quantiles."""
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    medians = sorted(sorted(drawn)[2] for drawn in product(values, repeat=5))
    tail = (1 - confidence) / 2
    exact = [medians[math.ceil(q * len(medians)) - 1] for q in (tail, 1 - tail)]
    found = Bootstrap(confidence, 20_000).estimate(values)
    assert [found.low, found.high] == exact


def test_more_confidence_never_narrows():
    values = [0.61, 0.64, 0.66, 0.7, 0.71, 0.75, 0.8]
    widths = [(e := Bootstrap(c, 4000).estimate(values)).high - e.low for c in (0.5, 0.8, 0.9, 0.99)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_what_never_got_there_counts_as_late():
    found = BOOTSTRAP.estimate([1.0, 2.0, None], absent_is_late=True)
    assert (found.low, found.median, found.high, found.count) == (1.0, 2.0, None, 2)
    mostly = BOOTSTRAP.estimate([1.0, None, None], absent_is_late=True)
    assert (mostly.low, mostly.median, mostly.high) == (1.0, None, None)
    left_out = BOOTSTRAP.estimate([1.0, 2.0, None])
    assert (left_out.median, left_out.high, left_out.count) == (1.5, 2.0, 2)


def test_nothing_known_is_no_estimate():
    assert BOOTSTRAP.estimate([None, None]).median is None
    assert BOOTSTRAP.estimate([], absent_is_late=True).count == 0


def test_pairs_need_both_sides():
    assert differences([0.5, None, 0.7], [0.25, 0.1, None]) == [0.25, None, None]
    assert ratios([6.0, 1.0, None], [3.0, 0.0, 2.0]) == [2.0, None, None]
