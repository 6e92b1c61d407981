"""Arms at equal cost: pure functions from trials to figures.

Every figure is computed run by run; then come the median over seeds with its interval, and the paired
comparison with the baseline, seed by seed. Budgets and targets that a study does not name follow from its
runs, so that every run has spent the budget and nobody picks a flattering one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from fedfmd.metrics import (
    accuracy_at_budget,
    balanced_integration,
    chance_corrected,
    cost_to_accuracy,
    inverse_efficiency,
    pareto_front,
    rate_correct,
)
from fedfmd.records.schema import Number
from fedfmd.report.costs import Axis, used_axes
from fedfmd.study.config import CompareConfig
from fedfmd.study.statistics import Bootstrap, Estimate, differences, ratios
from fedfmd.study.trials import Trial, best_within

Kind = Literal["accuracy", "cost", "rate", "score"]
SHARES = (0.25, 0.5, 1.0)
"""Parts of the cheapest run's cost that are compared when a study names no budgets."""
CURVE_POINTS = 120


@dataclass(frozen=True)
class Measure:
    """One column: accuracies and scores are compared by difference, costs and rates by ratio."""

    key: str
    kind: Kind
    level: Number = None
    """The budget or the target, for the measures that have one."""

    @property
    def by_ratio(self) -> bool:
        """Whether an arm is compared with the baseline by ratio."""
        return self.kind in ("cost", "rate")


@dataclass(frozen=True)
class Cell:
    """One arm on one measure: a figure a seed, their median, and the comparison with the baseline."""

    values: tuple[Number, ...]
    estimate: Estimate
    paired: Estimate
    short: int = 0
    """Runs that ended below the budget: their figure is what they had by then."""


@dataclass(frozen=True)
class BudgetCurve:
    """Median over seeds of the best accuracy within each budget, up to where the first seed's run ends."""

    budgets: tuple[float, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Comparison:
    """All arms on one cost axis."""

    axis: Axis
    budgets: tuple[float, ...]
    targets: tuple[float, ...]
    baseline: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    cells: Mapping[tuple[str, str], Cell]
    """By arm and key of the measure."""
    curves: Mapping[str, BudgetCurve]
    front: tuple[str, ...]
    """Arms that no other beats in both median cost and median final accuracy, cheapest first."""
    front_seeds: Mapping[str, int]
    """In how many seeds an arm was on the front of that seed's runs."""

    def cell(self, arm: str, measure: Measure | str) -> Cell:
        """Give one figure."""
        return self.cells[arm, measure if isinstance(measure, str) else measure.key]


def compare_axes(trials: Sequence[Trial], compare: CompareConfig, baseline: str) -> list[Comparison]:
    """Compare on every cost that the runs have spent, the one that the study names first."""
    axes = used_axes([trial.run for trial in trials])
    axes.sort(key=lambda axis: axis.key != compare.axis)
    return [compare_on(axis, trials, compare, baseline) for axis in axes]


def compare_on(axis: Axis, trials: Sequence[Trial], compare: CompareConfig, baseline: str) -> Comparison:
    """Hold the arms against each other on one cost axis."""
    arms = tuple(dict.fromkeys(trial.arm for trial in trials))
    seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
    budgets = _budgets(axis, trials, compare)
    targets = tuple(compare.targets) or _targets(trials)
    bootstrap = Bootstrap(compare.confidence, compare.resamples)
    columns = _columns(axis, trials, budgets, targets, compare.chance_corrected)
    where = {(trial.arm, trial.seed): i for i, trial in enumerate(trials)}

    def by_seed(values: Sequence[Number], arm: str) -> list[Number]:
        return [values[where[arm, seed]] if (arm, seed) in where else None for seed in seeds]

    cells = {}
    for measure, values in columns.items():
        reference = by_seed(values, baseline)
        for arm in arms:
            own = [(trial, v) for trial, v in zip(trials, values, strict=True) if trial.arm == arm]
            cells[arm, measure.key] = _cell(measure, axis, own, by_seed(values, arm), reference, bootstrap)
    final_costs = {arm: cells[arm, "cost"].estimate.median for arm in arms}
    points = [(final_costs[arm], cells[arm, "final"].estimate.median) for arm in arms]
    return Comparison(
        axis=axis,
        budgets=budgets,
        targets=targets,
        baseline=baseline,
        arms=arms,
        seeds=seeds,
        measures=tuple(columns),
        cells=cells,
        curves={arm: budget_curve(axis, [t for t in trials if t.arm == arm], bootstrap) for arm in arms},
        front=tuple(arms[i] for i in pareto_front(points)),
        front_seeds=_front_seeds(axis, trials, arms, seeds),
    )


def budget_curve(axis: Axis, trials: Sequence[Trial], bootstrap: Bootstrap) -> BudgetCurve:
    """Give the accuracy at every budget; a budget beyond the shortest run has no figure from all seeds."""
    curves = [curve for trial in trials if (curve := trial.curve(axis)) and trial.total(axis)]
    if not curves:
        return BudgetCurve((), ())
    end = min(curve[-1][0] for curve in curves)
    start = max(curve[0][0] for curve in curves)
    costs = sorted({cost for curve in curves for cost, _ in curve if start <= cost <= end})
    step = -(-len(costs) // CURVE_POINTS)
    budgets = np.array(costs[::-step][::-1])
    best = np.stack([best_within(curve, budgets) for curve in curves])
    found = tuple(bootstrap.estimate(column.tolist()) for column in best.T)
    return BudgetCurve(tuple(budgets.tolist()), found)


def _budgets(axis: Axis, trials: Sequence[Trial], compare: CompareConfig) -> tuple[float, ...]:
    if compare.budgets and axis.key == compare.axis:
        return tuple(sorted(compare.budgets))
    totals = [total for trial in trials if (total := trial.total(axis)) is not None]
    if not totals:
        return ()
    shares = (min(totals) * share for share in SHARES)
    return tuple(dict.fromkeys(float(round(b)) if axis.key == "round" else b for b in shares))


def _targets(trials: Sequence[Trial]) -> tuple[float, ...]:
    bests: dict[str, list[float]] = {}
    for trial in trials:
        bests.setdefault(trial.arm, []).append(trial.best or 0.0)
    weakest = min(median(values) for values in bests.values())
    return (math.floor(100 * weakest) / 100,) if weakest >= 0.01 else ()


def _columns(
    axis: Axis,
    trials: Sequence[Trial],
    budgets: Sequence[float],
    targets: Sequence[float],
    corrected: bool,
) -> dict[Measure, list[Number]]:
    """Give each measure's figure of every trial."""

    columns = {Measure("final", "accuracy"): [t.final for t in trials]}
    columns[Measure("best", "accuracy")] = [t.best for t in trials]
    curves = [t.curve(axis) for t in trials]
    for i, budget in enumerate(budgets):
        found = [accuracy_at_budget(curve, budget) for curve in curves]
        columns[Measure(f"at_budget_{i + 1}", "accuracy", budget)] = found
    columns[Measure("cost", "cost")] = [t.total(axis) for t in trials]
    for i, target in enumerate(targets):
        found = [cost_to_accuracy(curve, target) for curve in curves]
        columns[Measure(f"to_target_{i + 1}", "cost", target)] = found
    if axis.rated:
        columns[Measure("ies", "cost")] = [_ies(t, axis, corrected) for t in trials]
        columns[Measure("rcs", "rate")] = [_rcs(t, axis, corrected) for t in trials]
        columns[Measure("bis", "score")] = _bis(axis, trials)
    return columns


def _accuracy(trial: Trial, corrected: bool) -> Number:
    value = chance_corrected(trial.final, trial.num_classes) if corrected else trial.final
    return None if value is None or value < 0 else value


def _ies(trial: Trial, axis: Axis, corrected: bool) -> Number:
    return inverse_efficiency(trial.total(axis), _accuracy(trial, corrected))


def _rcs(trial: Trial, axis: Axis, corrected: bool) -> Number:
    return rate_correct(_accuracy(trial, corrected), trial.test_samples, trial.total(axis))


def _bis(axis: Axis, trials: Sequence[Trial]) -> list[Number]:
    """Score each seed's runs among themselves; a seed that lacks an arm is another set, and has no score."""
    arms = {trial.arm for trial in trials}
    scores: list[Number] = [None] * len(trials)
    for seed in {trial.seed for trial in trials}:
        members = [i for i, trial in enumerate(trials) if trial.seed == seed]
        costs = [trials[i].total(axis) for i in members]
        if len(members) < len(arms) or None in costs:
            continue
        found = balanced_integration([trials[i].final for i in members], costs)
        for i, score in zip(members, found, strict=True):
            scores[i] = score
    return scores


def _cell(
    measure: Measure,
    axis: Axis,
    own: Sequence[tuple[Trial, Number]],
    values: Sequence[Number],
    reference: Sequence[Number],
    bootstrap: Bootstrap,
) -> Cell:
    """Sum up one arm on one measure; ``values`` and the baseline's ``reference`` are by seed."""
    late = measure.key.startswith("to_target")
    budget = measure.level if measure.key.startswith("at_budget") else None
    held = ratios(values, reference) if measure.by_ratio else differences(values, reference)
    if late and None in held:  # to leave out the seeds that never got there would flatter
        held = []
    return Cell(
        values=tuple(values),
        estimate=bootstrap.estimate([value for _, value in own], absent_is_late=late),
        paired=bootstrap.estimate(held),
        short=0 if budget is None else sum((trial.total(axis) or 0.0) < budget for trial, _ in own),
    )


def _front_seeds(
    axis: Axis, trials: Sequence[Trial], arms: Sequence[str], seeds: Sequence[int]
) -> dict[str, int]:
    counted = dict.fromkeys(arms, 0)
    for seed in seeds:
        members = [trial for trial in trials if trial.seed == seed]
        for i in pareto_front([(trial.total(axis), trial.final) for trial in members]):
            counted[members[i].arm] += 1
    return counted
