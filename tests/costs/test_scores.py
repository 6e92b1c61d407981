"""IES, RCS, BIS, budgets and fronts: closed forms, and laws over random curves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.costs.scores import (
    Chance,
    accuracy_at_budget,
    balanced_integration,
    best_row,
    cost_to_accuracy,
    inverse_efficiency,
    pareto_front,
    rate_correct,
    target_fault,
)

accuracies = st.floats(0.0, 1.0)
costs = st.floats(0.0, 1e18)
COUNTABLE = 2.0**52
"""Up to it one more is more."""
points = st.lists(st.tuples(costs, accuracies), max_size=12)
curves = st.lists(st.tuples(costs, st.none() | accuracies), max_size=12).map(
    lambda rows: [(cost, row[1]) for cost, row in zip(sorted(r[0] for r in rows), rows, strict=True)]
)
CURVE = [(0.0, 0.1), (10.0, 0.4), (20.0, None), (30.0, 0.8), (40.0, 0.7)]


def test_ies_and_rcs_are_the_published_quotients():
    # The authors' FMDConv row on CIFAR-100: 115.16 s an epoch at a top-1 of 74.99%.
    assert inverse_efficiency(115.16, 0.7499) == pytest.approx(153.567, abs=1e-3)
    assert rate_correct(0.7499, 10_000, 115.16) == pytest.approx(65.1181, abs=1e-4)


@pytest.mark.parametrize(
    ("cost", "accuracy", "ies", "rcs"),
    [
        (5.0, 0.0, None, 0.0),
        (0.0, 0.5, 0.0, None),
        (0.0, 0.0, None, None),
        (None, 0.5, None, None),
        (5.0, None, None, None),
    ],
)
def test_ies_and_rcs_at_their_edges(cost, accuracy, ies, rcs):
    assert inverse_efficiency(cost, accuracy) == ies
    assert rate_correct(accuracy, 100, cost) == rcs


@given(cost=st.floats(0.0, allow_infinity=False, allow_nan=False), accuracy=accuracies)
def test_scores_are_never_nan_or_infinite(cost, accuracy):
    for score in (inverse_efficiency(cost, accuracy), rate_correct(accuracy, 10_000, cost)):
        assert score is None or (math.isfinite(score) and score >= 0.0)


@given(cost=st.floats(1e-3, 1e15), accuracy=st.floats(1e-3, 1.0), samples=st.integers(1, 10**6))
def test_cumulative_ies_and_rcs_multiply_to_the_samples(cost, accuracy, samples):
    product = inverse_efficiency(cost, accuracy) * rate_correct(accuracy, samples, cost)
    assert product == pytest.approx(samples)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_chance_correction_maps_guessing_to_zero_and_perfection_to_one(classes):
    chance = Chance(num_classes=classes, samples=100)
    assert chance.corrected(1 / classes) == 0.0
    assert chance.corrected(1.0) == 1.0
    assert chance.corrected(0.0) == pytest.approx(-1 / (classes - 1))
    assert chance.corrected(None) is None


def test_bis_closed_form():
    # The middle of three at equal distances has z = 0, the others sqrt(3 / 2) and its negative.
    third = math.sqrt(1.5)
    assert balanced_integration([0.1, 0.2, 0.3], [7.0, 7.0, 7.0]) == pytest.approx([-third, 0.0, third])
    assert balanced_integration([0.1, 0.2, 0.3], [9.0, 8.0, 7.0]) == pytest.approx(
        [-2 * third, 0.0, 2 * third]
    )


def test_bis_leaves_out_members_without_figures():
    third = math.sqrt(1.5)
    found = balanced_integration([0.1, None, 0.2, 0.3], [9.0, 1.0, 8.0, 7.0])
    assert found == pytest.approx([-2 * third, None, 0.0, 2 * third])


def test_two_members_have_no_bis():
    # Their z-scores are 1 and -1 whatever was measured.
    assert balanced_integration([0.9, None, 0.5], [10.0, 5.0, 20.0]) == [None, None, None]
    assert balanced_integration([0.9, 0.5], [10.0, 20.0]) == [None, None]
    assert balanced_integration([], []) == []


@given(members=st.lists(st.tuples(accuracies, costs), min_size=3, max_size=20), factor=st.floats(1e-6, 1e6))
def test_bis_sums_to_zero_and_ignores_the_unit(members, factor):
    a, c = [m[0] for m in members], [round(m[1], 3) for m in members]
    scores = balanced_integration(a, c)
    assert math.fsum(scores) == pytest.approx(0.0, abs=1e-6)
    if max(c) - min(c) > 1e-6 * max(c):
        assert balanced_integration(a, [x * factor for x in c]) == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    ("budget", "expected"), [(0, 0.1), (9.9, 0.1), (10, 0.4), (29, 0.4), (35, 0.8), (1e9, 0.7)]
)
def test_accuracy_at_budget(budget, expected):
    assert accuracy_at_budget(CURVE, budget) == expected


@pytest.mark.parametrize(
    ("target", "paid"), [(0.1, 0.0), (0.4, 10.0), (0.6, 30.0), (0.8, 30.0), (0.81, None)]
)
def test_cost_to_accuracy(target, paid):
    assert cost_to_accuracy(CURVE, target) == paid


def test_an_empty_or_unevaluated_curve_has_no_figures():
    for curve in ([], [(1.0, None)], [(5.0, 0.9)]):
        assert accuracy_at_budget(curve, 2.0) is None
    assert cost_to_accuracy([(1.0, None)], 0.0) is None


@given(curve=curves, budget=costs)
def test_a_budget_buys_the_last_model_within_it_and_no_better_one_before(curve, budget):
    within = [a for cost, a in curve if cost <= budget and a is not None]
    assert accuracy_at_budget(curve, budget) == (within[-1] if within else None)


@given(curve=curves.filter(lambda curve: all(cost < COUNTABLE for cost, _ in curve)), target=accuracies)
def test_budget_and_target_are_duals(curve, target):
    curve = [(cost + i, a) for i, (cost, a) in enumerate(curve)]  # every round costs something
    paid = cost_to_accuracy(curve, target)
    if paid is None:
        assert all(a is None or a < target for _, a in curve)
        return
    assert accuracy_at_budget(curve, paid) >= target
    assert all(a is None or a < target for c, a in curve if c < paid)


@pytest.mark.parametrize(
    ("accuracy", "classes", "samples", "guess"),
    [(0.1, 10, 1000, True), (0.118, 10, 1000, True), (0.12, 10, 1000, False), (0.118, 10, 10_000, False),
     (0.02, 10, 1000, True), (0.55, 2, 100, True), (None, 10, 1000, False)],
)  # fmt: skip
def test_chance_is_two_standard_errors_of_a_guess(accuracy, classes, samples, guess):
    chance = Chance(num_classes=classes, samples=samples)
    assert chance.covers(accuracy) == guess
    assert (chance.remark(accuracy) == f"within noise of chance (1 in {classes})") == guess


def test_chance_on_an_imbalanced_test_set_is_to_answer_its_commonest_class():
    chance = Chance(num_classes=2, samples=300, largest_class_share=0.8)
    assert chance.level == 0.8
    assert chance.remark(0.84) == "within noise of chance (80.00%, the commonest class)"
    assert chance.remark(0.85) is None
    assert chance.corrected(0.8) == 0.0
    assert chance.corrected(1.0) == 1.0
    assert target_fault(0.75, chance, 0.2) is not None
    balanced = Chance(num_classes=10, samples=1000, largest_class_share=100 / 1000)
    assert balanced.words == "chance (1 in 10)"


def test_of_images_of_one_class_no_accuracy_is_better_than_guessing():
    chance = Chance(num_classes=1, samples=10, largest_class_share=1.0)
    assert chance.covers(1.0)
    assert chance.corrected(1.0) is None


def test_without_a_test_set_no_accuracy_is_held_against_chance():
    assert not Chance(num_classes=10, samples=0).covers(0.05)


def test_a_target_that_guessing_or_no_training_meets_is_refused():
    ten = Chance(num_classes=10, samples=1000)
    assert target_fault(0.8, ten, 0.12) is None
    assert target_fault(0.1, ten, 0.05) == "a target of 10% is at or below chance (1 in 10)"
    assert target_fault(0.14, ten, 0.142) == "the untrained model meets a target of 14% (14.2%)"
    assert target_fault(0.14, None, None) is None


def test_validation_chooses_and_the_first_of_equals_counts():
    rows = [
        {"round": 0, "validation_top1": None, "top1": 0.9},
        {"round": 1, "validation_top1": 0.5, "top1": 0.4},
        {"round": 2, "validation_top1": 0.5, "top1": 0.8},
    ]
    assert best_row(rows) == rows[1]
    assert best_row([{"round": 1, "top1": 0.9}]) is None


def test_pareto_front_cheapest_first_with_ties():
    spots = [
        (3.0, 0.9),
        (1.0, 0.5),
        (2.0, 0.5),
        (2.0, 0.7),
        (1.0, 0.5),
        (None, 0.99),
        (0.5, None),
        (9.0, 0.9),
    ]
    assert pareto_front(spots) == [1, 4, 3, 0]
    assert pareto_front([]) == []


@given(points)
def test_the_front_is_exactly_the_unbeaten_points(spots):
    def beats(p, q):
        return p[0] <= q[0] and p[1] >= q[1] and p != q

    front = pareto_front(spots)
    assert sorted(front) == [i for i, q in enumerate(spots) if not any(beats(p, q) for p in spots)]
    assert [spots[i][0] for i in front] == sorted(spots[i][0] for i in front)


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_nonsense_costs_are_refused(cost):
    with pytest.raises(ValueError, match="cost"):
        inverse_efficiency(cost, 0.5)
    with pytest.raises(ValueError, match="cost"):
        pareto_front([(cost, 0.5)])


@pytest.mark.parametrize("accuracy", [94.21, -0.1, math.nan])
def test_percentages_and_nan_are_refused_as_accuracies(accuracy):
    with pytest.raises(ValueError, match="fraction"):
        rate_correct(accuracy, 10, 1.0)
    with pytest.raises(ValueError, match="fraction"):
        balanced_integration([accuracy, 0.5], [1.0, 2.0])


def test_a_falling_cumulative_cost_is_refused():
    with pytest.raises(ValueError, match="must not fall"):
        cost_to_accuracy([(2.0, 0.1), (1.0, 0.2)], 0.2)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rate_correct(0.5, 0, 1.0), "samples"),
        (lambda: Chance(num_classes=0, samples=1), "num_classes"),
    ],
)
def test_impossible_counts_are_refused(call, name):
    with pytest.raises(ValueError, match=name):
        call()
