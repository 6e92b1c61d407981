"""Arms at equal cost: figures computed by hand, and laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up, two_arms
from scipy.stats import ttest_rel

from fedfmd.config.study import CompareConfig
from fedfmd.costs.scores import accuracy_at_budget, balanced_integration
from fedfmd.records.rows import EvaluationRow, RoundRow
from fedfmd.results.analysis import compare_axes, compare_on
from fedfmd.results.costs import AXES
from fedfmd.results.trials import Trial, last_within, until

MACS = next(axis for axis in AXES if axis.key == "macs")


def figures(found, arm, key):
    estimate = found.cell(arm, key).estimate
    return pytest.approx(
        (estimate.mean - (estimate.sd or 0), estimate.mean, estimate.mean + (estimate.sd or 0))
    )


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=12),
    st.lists(st.floats(0, 12), min_size=1, max_size=5),
)
def test_many_budgets_at_once_agree_with_one_at_a_time(steps, budgets):
    costs = np.cumsum([step for step, _ in steps]).tolist()
    curve = list(zip(costs, (top1 for _, top1 in steps), strict=True))
    for budget, found in zip(budgets, last_within(curve, np.array(budgets)), strict=True):
        exact = accuracy_at_budget(curve, budget)
        assert np.isnan(found) if exact is None else found == exact


def test_arms_are_stopped_at_the_same_cost():
    found = compare_on(MACS, two_arms(), CompareConfig(budgets=[1.0, 2.0, 3.9, 4.0]), "cheap")
    assert figures(found, "cheap", "at_budget_1") == (0.2, 0.3, 0.4)
    assert figures(found, "dear", "at_budget_1") == (0.1, 0.1, 0.1)
    assert figures(found, "cheap", "at_budget_2") == (0.3, 0.4, 0.5)
    assert figures(found, "dear", "at_budget_2") == (0.4, 0.5, 0.6)
    assert found.cell("dear", "at_budget_3").values == found.cell("dear", "at_budget_2").values
    assert figures(found, "dear", "at_budget_4") == (0.6, 0.7, 0.8)


def test_a_run_that_ended_before_the_budget_is_marked():
    found = compare_on(MACS, two_arms(), CompareConfig(budgets=[2.0, 4.0]), "cheap")
    assert [found.cell("cheap", f"at_budget_{i}").short for i in (1, 2)] == [0, 3]
    assert [found.cell("dear", f"at_budget_{i}").short for i in (1, 2)] == [0, 0]


def test_budgets_and_targets_follow_from_the_runs():
    found = compare_on(MACS, two_arms(), CompareConfig(), "cheap")
    assert found.budgets == (0.5, 1.0, 2.0)
    assert found.targets == (0.4,)
    assert all(cell.short == 0 for cell in found.cells.values())
    assert found.cell("cheap", "to_target_1").values == (None, 2.0, 1.0)
    late = found.cell("cheap", "to_target_1").estimate
    assert (late.median, late.mean, late.low) == (2.0, None, None)
    assert late.reason == "1 of 3 seeds never got there"
    assert found.cell("dear", "to_target_1").values == (2.0, 2.0, 2.0)


def test_a_constant_gain_has_no_spread_though_the_seeds_do():
    base = [made_up("a", seed, [0.1, 0.2 + 0.1 * seed]) for seed in range(5)]
    better = [made_up("b", seed, [0.1, 0.25 + 0.1 * seed]) for seed in range(5)]
    found = compare_on(MACS, base + better, CompareConfig(), "a")
    paired = found.cell("b", "final").paired
    assert paired.mean == pytest.approx(0.05)
    assert (paired.low, paired.reason) == (None, "equal in all seeds")
    assert found.cell("b", "final").estimate.high - found.cell("b", "final").estimate.low > 0.2
    assert found.cell("a", "final").paired.count == 0


def test_p_values_of_a_measure_are_adjusted_over_the_arms():
    arms = {"a": [0.5, 0.52, 0.55], "b": [0.6, 0.61, 0.67], "c": [0.55, 0.59, 0.57]}
    trials = [made_up(arm, seed, [0.1, top1]) for arm, tops in arms.items() for seed, top1 in enumerate(tops)]
    found = compare_on(MACS, trials, CompareConfig(), "a")
    plain = [ttest_rel(arms[arm], arms["a"]).pvalue for arm in ("b", "c")]
    adjusted = [found.cell(arm, "final").paired.p for arm in ("b", "c")]
    assert min(adjusted) == pytest.approx(2 * min(plain))
    assert max(adjusted) == pytest.approx(max(max(plain), 2 * min(plain)))


def test_without_validation_nothing_is_chosen_and_the_reason_is_given():
    trials = [
        replace(t, run=replace(t.run, rounds=tuple(replace(r, validation_top1=None) for r in t.run.rounds)))
        for t in two_arms()
    ]
    found = compare_on(MACS, trials, CompareConfig(targets=[0.4]), "cheap")
    assert found.targets == ()
    assert found.cell("cheap", "best").estimate.count == 0
    assert "needs partition.validation above 0" in found.notes[0]
    assert found.cell("cheap", "at_budget_3").estimate.count == 3


def test_targets_that_guessing_or_the_untrained_model_meet_are_left_out():
    trials = [made_up("a", seed, [0.14, 0.6]) for seed in range(2)]
    found = compare_on(MACS, trials, CompareConfig(targets=[0.1, 0.14, 0.5]), "a")
    assert found.targets == (0.5,)
    assert [note.split(":")[1].split(" ")[1:3] for note in found.notes] == [
        ["a", "target"],
        ["the", "untrained"],
    ]


def test_an_arm_that_ends_at_chance_is_called_so():
    trials = [made_up("guess", s, [0.1, 0.11], samples=1000) for s in range(3)]
    trials += [made_up("good", s, [0.1, 0.5 + s / 10], samples=1000) for s in range(3)]
    found = compare_on(MACS, trials, CompareConfig(), "good")
    assert (found.cell("guess", "final").at_chance, found.cell("good", "final").at_chance) == (True, False)
    assert any("1 of " in note and "ends within noise of chance" in note for note in found.notes)


def test_ten_runs_an_arm_have_an_interquartile_mean():
    trials = [made_up("a", seed, [0.1, 0.5 + seed / 100]) for seed in range(10)]
    found = compare_on(MACS, trials, CompareConfig(), "a")
    assert found.cell("a", "final_iqm").estimate.mean == pytest.approx(0.545)
    assert "final_iqm" not in {m.key for m in compare_on(MACS, trials[:9], CompareConfig(), "a").measures}


def test_costs_are_compared_by_ratio_and_only_where_every_seed_got_there():
    found = compare_on(MACS, two_arms(), CompareConfig(targets=[0.3, 0.4]), "cheap")
    assert found.cell("dear", "cost").paired.mean == pytest.approx(2.0)
    assert found.cell("cheap", "to_target_1").values == (2.0, 1.0, 1.0)
    assert found.cell("dear", "to_target_1").paired.mean == pytest.approx(2 ** (2 / 3))
    assert found.cell("dear", "to_target_2").paired.mean is None


def three_arms():
    return [*two_arms(), *(made_up("third", seed, [0.1, 0.3, 0.5], 1.5) for seed in range(3))]


def test_scores_are_per_seed():
    found = compare_on(MACS, three_arms(), CompareConfig(), "cheap")
    assert found.cell("dear", "ies").values == pytest.approx((4 / 0.6, 4 / 0.7, 4 / 0.8))
    assert found.cell("dear", "rcs").values == pytest.approx((15.0, 17.5, 20.0))
    for i in range(3):
        scores = [found.cell(arm, "bis").values[i] for arm in found.arms]
        assert scores == balanced_integration([0.3 + 0.1 * i, 0.6 + 0.1 * i, 0.5], [2.0, 4.0, 3.0])


def test_two_arms_have_no_bis():
    """Their z-scores are +1 and -1, whatever was measured."""
    found = compare_on(MACS, two_arms(), CompareConfig(), "cheap")
    assert "bis" not in {measure.key for measure in found.measures}


def test_correction_for_chance():
    trials = [made_up("guess", 0, [0.1, 0.1]), made_up("good", 0, [0.1, 0.55])]
    found = compare_on(MACS, trials, CompareConfig(chance_corrected=True), "good")
    assert found.cell("guess", "ies").values == (None,)
    assert found.cell("good", "ies").values == pytest.approx((2.0,))
    assert found.cell("good", "rcs").values == pytest.approx((50.0,))


def test_a_seed_that_does_no_better_than_guessing_is_not_left_out_of_an_arm_s_scores():
    trials = [made_up("good", s, [0.1, 0.5 + 0.01 * s]) for s in range(3)]
    trials += [made_up("wild", s, [0.1, top1]) for s, top1 in enumerate((0.08, 0.6, 0.62))]
    found = compare_on(MACS, trials, CompareConfig(chance_corrected=True), "good")
    ies, rcs = found.cell("wild", "ies"), found.cell("wild", "rcs")
    assert ies.values == pytest.approx((None, 0.9 / 0.5, 0.9 / 0.52))
    assert ies.estimate.mean is None
    assert ies.estimate.median == pytest.approx(1.8)
    assert ies.estimate.reason == "1 of 3 seeds did no better than guessing"
    assert rcs.estimate.mean == pytest.approx((0 + 100 * 0.5 / 0.9 + 100 * 0.52 / 0.9) / 3)
    assert (ies.paired.count, rcs.paired.count) == (0, 0)
    lost = [trial for trial in trials if (trial.arm, trial.seed) != ("wild", 0)]  # a run that failed
    found = compare_on(MACS, lost, CompareConfig(chance_corrected=True), "good")
    assert found.cell("wild", "ies").paired.count == 2


def test_the_initial_model_costs_nothing_on_an_axis_that_starts_absent():
    """Simulated seconds and joules are null until a device has worked."""
    rounds = [RoundRow(round=0, top1=0.1), RoundRow(round=1, top1=0.5, cumulative={"device_seconds": 8.0})]
    trial = Trial("a", 0, replace(made_up("a", 0, []).run, rounds=tuple(rounds)))
    device = next(axis for axis in AXES if axis.key == "device_seconds")
    assert trial.curve(device) == [(0.0, 0.1), (8.0, 0.5)]
    assert trial.curve(MACS) == []
    found = compare_on(device, [trial], CompareConfig(axis="device_seconds"), "a")
    assert found.cell("a", "at_budget_1").values == (0.1,)


def test_a_missing_run_is_no_late_run_and_leaves_the_seed_without_bis():
    trials = [trial for trial in three_arms() if (trial.arm, trial.seed) != ("dear", 1)]
    found = compare_on(MACS, trials, CompareConfig(targets=[0.4]), "cheap")
    late = found.cell("dear", "to_target_1").estimate
    assert (late.median, late.mean, late.count) == (2.0, 2.0, 2)
    assert found.cell("dear", "final").paired.count == 2
    assert [value is None for value in found.cell("cheap", "bis").values] == [False, True, False]


def test_the_front_by_means_and_by_seed():
    dominated = [made_up("bad", seed, [0.1, 0.2, 0.2 + 0.25 * (seed == 2)], 3.0) for seed in range(3)]
    found = compare_on(MACS, two_arms() + dominated, CompareConfig(), "cheap")
    assert found.front == ("cheap", "dear")
    assert found.front_seeds == {"cheap": 3, "dear": 3, "bad": 0}


def test_the_budget_curve_follows_the_last_round_and_ends_with_the_shortest_run():
    trials = [made_up("a", 0, [0.1, 0.5, 0.3, 0.6]), made_up("a", 1, [0.1, 0.2, 0.7, 0.6], 0.9)]
    curve = compare_on(MACS, trials, CompareConfig(), "a").curves["a"]
    assert curve.budgets == pytest.approx((0.0, 0.9, 1.0, 1.8, 2.0, 2.7))
    assert [e.mean for e in curve.estimates] == pytest.approx([0.1, 0.15, 0.35, 0.6, 0.5, 0.45])


def test_the_named_axis_comes_first_and_its_budgets_are_not_used_elsewhere():
    found = compare_axes(two_arms(), CompareConfig(axis="bytes", budgets=[15.0]), "cheap")
    assert [comparison.axis.key for comparison in found] == ["bytes", "round", "macs"]
    assert found[0].budgets == (15.0,)
    assert found[2].budgets == (0.5, 1.0, 2.0)
    assert found[0].cell("cheap", "at_budget_1").values == pytest.approx((0.2, 0.3, 0.4))


def on_clients(trial: Trial) -> Trial:
    """The same trial, measured by the clients on their own images alone."""
    rounds = tuple(
        replace(row, top1=None, client_top1_global_mean=row.top1, scored_on="clients")
        for row in trial.run.rounds
    )
    return replace(trial, run=replace(trial.run, rounds=rounds))


def test_accuracies_on_other_images_are_not_compared_in_silence():
    """As of FedBN, whose global model has no norms, beside arms that the server tests."""
    trials = two_arms()
    assert not compare_on(MACS, trials, CompareConfig(), "cheap").notes
    mixed = [on_clients(trial) if trial.arm == "dear" else trial for trial in trials]
    (note,) = compare_on(MACS, mixed, CompareConfig(), "cheap").notes
    assert note.startswith("dear: without a global model, accuracy is the mean over clients")
    assert note.endswith("of the other arms on the test set: the two do not compare.")
    (note,) = compare_on(MACS, [*map(on_clients, trials)], CompareConfig(), "cheap").notes
    assert note.startswith("All arms: ")


def test_scores_of_accuracies_on_clients_images_count_these_and_have_no_chance():
    own = on_clients(made_up("own", 0, [0.1, 0.6], samples=1000))
    rows = [
        EvaluationRow(round=1, client=client, examples=20 * client, model=model, top1=0.6)
        for client in (1, 2)
        for model in ("global", "local")
    ]
    own = replace(own, run=replace(own.run, evaluations=tuple(rows)))
    found = compare_on(MACS, [own], CompareConfig(), "own")
    assert found.cell("own", "rcs").values == pytest.approx((0.6 * 60,))
    found = compare_on(MACS, [own], CompareConfig(chance_corrected=True), "own")
    assert (found.cell("own", "ies").values, found.cell("own", "rcs").values) == ((None,), (None,))


def test_a_run_that_went_on_is_taken_as_it_was_after_the_rounds_of_the_study():
    run = made_up("a", 0, [0.1, 0.2, 0.3, 0.9]).run
    cut = until(run, 2)
    assert (Trial("a", 0, cut).final, Trial("a", 0, cut).total(MACS)) == (0.3, 2.0)
    assert cut.notes == ("It went on to round 3; what came after round 2 is left out here.",)
    assert until(run, 3) is run
