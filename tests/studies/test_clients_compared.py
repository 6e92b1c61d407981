"""Studies compare what clients got: mean, worst tenth and gain, at the end and within a budget, paired."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from made_up import looks_of, made_up

from fedfmd.config.study import CompareConfig, FigureConfig, StudyConfig
from fedfmd.pages.paper import paper_style
from fedfmd.pages.study.answer import Shown, draw_answer
from fedfmd.pages.study.latex import latex_comparison
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.payload import study_data
from fedfmd.pages.study.tables import comparison_lines
from fedfmd.pages.study.wording import intervals_caption, name
from fedfmd.records.rows import EvaluationRow
from fedfmd.results.analysis import compare_on
from fedfmd.results.costs import AXES
from fedfmd.results.design import Design
from fedfmd.results.findings import find
from fedfmd.results.trials import Trial

MACS = next(axis for axis in AXES if axis.key == "macs")


def measured(arm: str, seed: int, means: Sequence[float], gain: float, cost: float) -> Trial:
    """A run whose clients measured in every round, and trained alone for the last."""
    trial = made_up(arm, seed, [0.1, *means], cost)
    rows = [
        EvaluationRow(round=round, client=client, examples=10, model="affordable", top1=mean + off)
        for round, mean in enumerate(means, 1)
        for client, off in enumerate((-0.05, 0.05))
    ]
    last = [row for row in rows if row.round == len(means)]
    rows += [replace(row, model="local", top1=row.top1 - gain) for row in last]
    return replace(trial, run=replace(trial.run, evaluations=tuple(rows)))


def test_mean_worst_tenth_and_gain_are_compared_seed_by_seed() -> None:
    trials = [measured("drop", s, [0.3, 0.4 + 0.02 * s], -0.1, 1.0) for s in range(3)]
    trials += [measured("width", s, [0.4, 0.5 + 0.04 * s], 0.1 + 0.01 * s, 2.0) for s in range(3)]
    found = compare_on(MACS, trials, CompareConfig(budgets=[2.0]), "drop")
    cells = {key: found.cell("width", key) for _, key in found.cells if key.startswith("clients")}
    assert cells["clients_mean"].values == pytest.approx((0.5, 0.54, 0.58))
    assert cells["clients_worst10"].paired.mean == pytest.approx(0.12)
    within = cells["clients_mean_at_budget"]
    assert within.values == pytest.approx((0.4, 0.4, 0.4))  # its second round costs too much
    assert within.paired.mean == pytest.approx(-0.02)
    assert cells["clients_gain"].paired.mean == pytest.approx(0.21)
    assert cells["clients_gain"].paired.count == 3
    assert cells["clients_gain_at_budget"].values == (None, None, None)  # measured at the end alone
    assert found.cell("drop", "clients_gain_at_budget").values == pytest.approx((-0.1, -0.1, -0.1))
    names = [name(measure, MACS) for measure in found.measures]
    assert "Worst tenth of clients within 2 MAC" in names
    assert "Gain over training alone" in names
    assert "clients_served" not in cells  # all have a model


def test_clients_without_a_model_guess_and_are_counted() -> None:
    served, left_out = measured("width", 0, [0.3], 0.1, 1.0), measured("drop", 0, [0.5], 0.1, 1.0)
    rows = left_out.run.evaluations
    weak = [EvaluationRow(round=1, client=c, examples=10, model="global", top1=0.9) for c in (2, 3)]
    left_out = replace(left_out, run=replace(left_out.run, evaluations=(*rows, *weak)))
    found = compare_on(MACS, [served, left_out], CompareConfig(), "width")
    assert found.cell("drop", "clients_mean").values == pytest.approx(((0.45 + 0.55 + 0.1 + 0.1) / 4,))
    assert found.cell("drop", "clients_worst10").values == pytest.approx((0.1,))
    assert found.cell("drop", "clients_served").values == (0.5,)
    assert found.cell("width", "clients_served").values == (1.0,)
    assert "guess" in intervals_caption(found)


def test_the_gain_of_fine_tuned_models_stands_beside() -> None:
    trial = measured("one", 0, [0.3], 0.1, 1.0)
    alone = [row for row in trial.run.evaluations if row.model == "local"]
    tuned = tuple(replace(row, model="finetuned", top1=row.top1 + 0.2) for row in alone)
    trial = replace(trial, run=replace(trial.run, evaluations=trial.run.evaluations + tuned))
    found = compare_on(MACS, [trial], CompareConfig(), "one")
    assert found.cell("one", "clients_gain").values == pytest.approx((0.1,))
    assert found.cell("one", "clients_tuned_gain").values == pytest.approx((0.2,))


def test_runs_that_measured_nothing_have_no_such_column() -> None:
    trials = [made_up("one", seed, [0.1, 0.2]) for seed in range(2)]
    found = compare_on(MACS, trials, CompareConfig(), "one")
    assert not [measure for measure in found.measures if measure.key.startswith("clients")]


def test_a_loss_against_training_alone_is_written_with_its_sign_and_its_whole_interval() -> None:
    trials = [measured("drop", s, [0.3, 0.5], -0.1 - 0.02 * s, 1.0) for s in range(3)]
    trials += [measured("width", s, [0.3, 0.5], 0.01 * (s - 1), 1.0) for s in range(3)]
    found = compare_on(MACS, trials, CompareConfig(), "drop")
    gain = [measure for measure in found.measures if measure.key == "clients_gain"]
    looks = looks_of(["drop", "width"])
    lines = [line[1] for line in comparison_lines(found, looks, gain)[1:]]
    assert lines[0].endswith("[-16.97, -7.03]")
    assert lines[1].endswith("[-2.48, +2.48]")
    latex = latex_comparison(found, looks, "s", ["clients_gain"])
    assert "[-16.97, -7.03]" in latex
    assert "[-2.48, +2.48]" in latex


def test_a_figure_of_gains_shows_losses() -> None:
    gains = {"loses": -0.2, "gains": 0.1}
    trials = []
    for arm, gain in gains.items():
        for seed in range(3):
            trial = made_up(arm, seed, [0.1, 0.5])
            rows = [*trial.run.rounds[:-1]]
            rows += [replace(trial.run.rounds[-1], client_gain_mean=gain + 0.01 * seed)]
            trials.append(replace(trial, run=replace(trial.run, rounds=tuple(rows))))
    points = {arm: {"arm": arm} for arm in gains}
    config = StudyConfig(name="s", experiment={}, figure=FigureConfig(y="client_gain_mean"))
    answer = find(Design.of(points), config, "loses", trials).answer
    looks = Looks(Design.of(points), answer.roles, {})
    with paper_style():
        figure = draw_answer(answer, looks, "page", None, Shown.asked(answer, looks))
    low, high = figure.axes[0].get_ylim()
    for _, _, point in answer.points:
        assert low < point.y.low < point.y.high < high
    assert study_data_possible(config, points, trials) == (-1.0, 1.0)


def study_data_possible(
    config: StudyConfig, points: dict[str, dict[str, str]], trials: Sequence[Trial]
) -> object:
    """Return the bounds that the page's script is given for what is on y."""
    findings = find(Design.of(points), config, "loses", trials)
    looks = Looks(Design.of(points), findings.answer.roles, {})
    return study_data(findings, looks, trials)["answer"]["possible"]
