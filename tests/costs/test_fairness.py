"""Spread over clients: closed forms and laws of the mean, the worst tenth, Jain's and Gini's indices."""

import itertools
import math
import random

import pytest

from fedfmd.costs.fairness import gini, jain, spread, worst_tenth


def test_the_worst_tenth_is_the_mean_of_the_lowest_tenth_rounded_up() -> None:
    for n, counted in [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (100, 10)]:
        values = [i / 100 for i in range(n)]
        random.Random(n).shuffle(values)
        lowest = sorted(values)[:counted]
        assert len(worst_tenth(values)) == counted == math.ceil(n / 10)
        assert spread(values).worst10 == pytest.approx(sum(lowest) / counted)


def test_equal_clients_are_even_and_one_that_has_all_is_not() -> None:
    even, one = [0.3] * 7, [0.0] * 6 + [0.9]
    assert [jain(even), gini(even)] == pytest.approx([1.0, 0.0])
    assert [jain(one), gini(one)] == pytest.approx([1 / 7, 6 / 7])
    assert spread(even).std == 0.0


def test_the_indices_are_their_definitions() -> None:
    values = [0.2, 0.5, 0.9, 0.0, 0.4]
    n, mean = len(values), sum(values) / len(values)
    pairs = sum(abs(a - b) for a, b in itertools.product(values, values))
    found = spread(values)
    assert gini(values) == pytest.approx(pairs / (2 * n * n * mean))
    assert found.jain == pytest.approx(sum(values) ** 2 / (n * sum(v * v for v in values)))
    assert found.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / n))
    assert found.mean == pytest.approx(mean)


def test_no_order_and_no_unit_changes_an_index() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    for order in itertools.permutations(values):
        assert spread(order) == spread(values)
        assert gini(order) == gini(values)
    scaled = [1e12 * v for v in values]
    assert [jain(scaled), gini(scaled)] == pytest.approx([jain(values), gini(values)])


def test_nothing_has_no_index() -> None:
    assert spread([]).mean is spread([]).worst10 is jain([]) is gini([]) is None
    assert jain([0.0, 0.0]) is gini([0.0, 0.0]) is None
    assert spread([0.0, 0.0]).mean == 0.0
