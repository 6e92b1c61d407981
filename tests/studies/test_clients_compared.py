"""Studies compare what clients got: mean, worst tenth and gain, at the end and within a budget, paired."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from made_up import made_up

from fedfmd.config.study import CompareConfig
from fedfmd.pages.study.wording import name
from fedfmd.results.analysis import compare_on
from fedfmd.results.costs import AXES
from fedfmd.results.trials import Trial

MACS = next(axis for axis in AXES if axis.key == "macs")


def measured(arm: str, seed: int, means: Sequence[float], gain: float, cost: float) -> Trial:
    """A run whose clients measured in every round, and trained alone for the last."""
    trial = made_up(arm, seed, [0.1, *means], cost)
    rounds = [
        replace(
            row,
            client_top1_affordable_mean=row.top1,
            client_top1_affordable_worst10=(row.top1 or 0) / 2,
            client_gain_mean=gain if row.round == len(means) else None,
        )
        if row.round
        else row
        for row in trial.run.rounds
    ]
    return replace(trial, run=replace(trial.run, rounds=tuple(rounds)))


def test_mean_worst_tenth_and_gain_are_compared_seed_by_seed() -> None:
    trials = [measured("drop", s, [0.3, 0.4 + 0.02 * s], -0.1, 1.0) for s in range(3)]
    trials += [measured("width", s, [0.4, 0.5 + 0.04 * s], 0.1 + 0.01 * s, 2.0) for s in range(3)]
    found = compare_on(MACS, trials, CompareConfig(budgets=[2.0]), "drop")
    cells = {key: found.cell("width", key) for _, key in found.cells if key.startswith("clients")}
    assert cells["clients_mean"].values == (0.5, 0.54, 0.58)
    assert cells["clients_worst10"].paired.mean == pytest.approx(0.06)
    assert cells["clients_mean_at_budget"].values == (0.4, 0.4, 0.4)  # its second round costs too much
    assert cells["clients_mean_at_budget"].paired.mean == pytest.approx(-0.02)
    assert cells["clients_gain"].paired.mean == pytest.approx(0.21)
    assert cells["clients_gain"].paired.count == 3
    assert cells["clients_gain_at_budget"].values == (None, None, None)  # measured at the end alone
    assert found.cell("drop", "clients_gain_at_budget").values == (-0.1, -0.1, -0.1)
    names = [name(measure, MACS) for measure in found.measures]
    assert "Worst tenth of clients within 2 MAC" in names
    assert "Gain over training alone" in names


def test_runs_that_measured_nothing_have_no_such_column() -> None:
    trials = [made_up("one", seed, [0.1, 0.2]) for seed in range(2)]
    found = compare_on(MACS, trials, CompareConfig(), "one")
    assert not [measure for measure in found.measures if measure.key.startswith("clients")]
