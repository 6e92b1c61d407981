"""Arms at equal cost: pure functions from trials to figures.

Every figure is computed run by run; then come the mean over seeds with its interval, and the paired
comparison with the baseline, seed by seed. Budgets and targets that a study does not name follow from its
runs, so that every run has spent the budget and nobody picks a flattering one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from fedfmd.config.study import CompareConfig
from fedfmd.costs.scores import (
    NO_VALIDATION,
    accuracy_at_budget,
    balanced_integration,
    cost_to_accuracy,
    inverse_efficiency,
    pareto_front,
    rate_correct,
    target_fault,
)
from fedfmd.records.schema import Number
from fedfmd.results.costs import Axis, used_axes
from fedfmd.results.statistics import (
    IQM_RUNS,
    NOTHING,
    Estimate,
    Test,
    estimate,
    holm,
    iqm_estimate,
    paired,
)
from fedfmd.results.summary import chance_level, measured_on
from fedfmd.results.trials import Trial, last_within, mostly_guess

MeasureKind = Literal["accuracy", "gain", "cost", "rate", "score"]
SHARES = (0.25, 0.5, 1.0)
"""Parts of the cheapest run's cost that are compared when a study names no budgets."""
CURVE_POINTS = 120
IQM = "final_iqm"
"""Key of the interquartile mean of the final accuracies."""
AT_BUDGET, TO_TARGET = "at_budget_", "to_target_"
"""How the keys begin of accuracies within a budget and of costs of an accuracy; a number from 1 follows."""


@dataclass(frozen=True)
class Measure:
    """One column: accuracies, gains and scores are compared by difference, costs and rates by ratio."""

    key: str
    kind: MeasureKind
    level: Number = None
    """The budget or the target, for the measures that have one."""

    @property
    def by_ratio(self) -> bool:
        """Whether an arm is compared with the baseline by ratio."""
        return self.kind in ("cost", "rate")

    @property
    def signed(self) -> bool:
        """Whether its own figures are differences, which may be below zero."""
        return self.kind == "gain"

    @property
    def at_budget(self) -> bool:
        """Whether it is the accuracy within a budget, its ``level``."""
        return self.key.startswith(AT_BUDGET)

    @property
    def to_target(self) -> bool:
        """Whether it is what an accuracy, its ``level``, costs."""
        return self.key.startswith(TO_TARGET)

    @property
    def without(self) -> str:
        """What befell a finished run that has no figure here, worse than any; empty where nothing did."""
        if self.to_target:
            return "never got there"
        return "did no better than guessing" if self.key == "ies" else ""

    def lost(self, figure: Number) -> bool:
        """Whether a finished run's figure is as bad as can be, and has no ratio to another."""
        return bool(self.without and figure is None) or (self.by_ratio and figure == 0)


@dataclass(frozen=True)
class Cell:
    """One arm on one measure: a figure a seed, their mean, and the comparison with the baseline."""

    values: tuple[Number, ...]
    estimate: Estimate
    paired: Estimate
    short: int = 0
    """Runs that ended below the budget: their figure is what they had by then."""
    at_chance: bool = False
    """The final accuracies of most runs are within noise of chance."""


@dataclass(frozen=True)
class BudgetCurve:
    """Mean over seeds of the accuracy within each budget, up to where the first seed's run ends."""

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
    """Arms that no other beats in both mean cost and mean final accuracy, cheapest first."""
    front_seeds: Mapping[str, int]
    """In how many seeds an arm was on the front of that seed's runs."""
    confidence: float
    """Level of the intervals."""
    test: Test
    """Of the paired comparison."""
    chance: Number
    """What guessing scores; null where it is not known, or differs between runs."""
    images: tuple[str, ...] = ()
    """Whose images accuracies are fractions of, where that is not the test set for all arms."""
    notes: tuple[str, ...] = ()
    """What the figures do not carry: that, too, absent ones with the reason, accuracies that are chance."""

    def cell(self, arm: str, measure: Measure | str) -> Cell:
        """Return one figure."""
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
    targets, faults = usable_targets(trials, compare)
    columns = _columns(axis, trials, budgets, targets, compare)
    cells: dict[tuple[str, str], Cell] = {}
    for measure, values in columns.items():
        for arm, cell in _cells(measure, axis, trials, values, compare, baseline).items():
            cells[arm, measure.key] = cell
    points = [(cells[arm, "cost"].estimate.mean, cells[arm, "final"].estimate.mean) for arm in arms]
    images = _image_notes(trials)
    curves = {arm: budget_curve(axis, [t for t in trials if t.arm == arm], compare) for arm in arms}
    return Comparison(
        axis=axis,
        budgets=budgets,
        targets=targets,
        baseline=baseline,
        arms=arms,
        seeds=seeds,
        measures=tuple(columns),
        cells=cells,
        curves=curves,
        front=tuple(arms[i] for i in pareto_front(points)),
        front_seeds=_front_seeds(axis, trials, arms, seeds),
        confidence=compare.confidence,
        test=compare.test,
        chance=chance_level(trial.run for trial in trials),
        images=tuple(images),
        notes=(*faults, *_chance_notes(arms, cells), *images, *_control_notes(trials)),
    )


def budget_curve(axis: Axis, trials: Sequence[Trial], compare: CompareConfig) -> BudgetCurve:
    """Return the accuracy at every budget; one beyond the shortest run has no figure from all seeds."""
    curves = [curve for trial in trials if (curve := trial.curve(axis)) and trial.total(axis)]
    if not curves:
        return BudgetCurve((), ())
    end = min(curve[-1][0] for curve in curves)
    start = max(curve[0][0] for curve in curves)
    costs = sorted({cost for curve in curves for cost, _ in curve if start <= cost <= end})
    step = -(-len(costs) // CURVE_POINTS)
    budgets = np.array(costs[::-step][::-1])
    last = np.stack([last_within(curve, budgets) for curve in curves])
    found = tuple(estimate(column.tolist(), compare.confidence) for column in last.T)
    return BudgetCurve(tuple(budgets.tolist()), found)


def usable_targets(
    trials: Sequence[Trial], compare: CompareConfig
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the targets that mean something, and why others, or all, do not."""
    if any(trial.reached is None for trial in trials):
        return (), (f"Best top-1 and cost to a target are absent: {NO_VALIDATION}.",)
    wanted = tuple(compare.targets) or _common_target(trials)
    faults: dict[float, str] = {}
    for target in wanted:
        found = (target_fault(target, trial.chance, trial.untrained) for trial in trials)
        if fault := next(filter(None, found), None):
            faults[target] = fault
    said = tuple(f"Cost to a target is absent: {fault}." for fault in faults.values())
    return tuple(target for target in wanted if target not in faults), said


def _image_notes(trials: Sequence[Trial]) -> list[str]:
    """Say whose images accuracies are fractions of, where that is not the test set for all arms."""
    by_arm = {trial.arm: measured_on([trial.run]) for trial in trials}
    on_clients = [arm for arm, images in by_arm.items() if images == "clients"]
    if not on_clients:
        return []
    told = "without a global model, accuracy is the mean over clients on their own images"
    if len(on_clients) == len(by_arm):
        return [f"All arms: {told}."]
    return [f"{', '.join(on_clients)}: {told}; of the other arms on the test set: the two do not compare."]


def _control_notes(trials: Sequence[Trial]) -> list[str]:
    matches = {trial.arm: control for trial in trials if (control := trial.run.summary.control)}
    return [f"{arm}: {control.remark}" for arm, control in matches.items()]


def _chance_notes(arms: Sequence[str], cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    guessing = sum(cells[arm, "final"].at_chance for arm in arms)
    if not guessing:
        return []
    ends = "ends" if guessing == 1 else "end"
    marked = f"{guessing} of {len(arms)} arms, marked in the table,"
    return [f"{marked} {ends} within noise of chance: IES, RCS and BIS say nothing there."]


def _budgets(axis: Axis, trials: Sequence[Trial], compare: CompareConfig) -> tuple[float, ...]:
    if compare.budgets and axis.key == compare.axis:
        return tuple(sorted(compare.budgets))
    totals = [total for trial in trials if (total := trial.total(axis)) is not None]
    if not totals:
        return ()
    shares = (min(totals) * share for share in SHARES)
    return tuple(dict.fromkeys(float(round(b)) if axis.key == "round" else b for b in shares))


def _common_target(trials: Sequence[Trial]) -> tuple[float, ...]:
    """Choose what the weakest arm reaches on validation, in whole percent."""
    reached: dict[str, list[float]] = {}
    for trial in trials:
        reached.setdefault(trial.arm, []).append(trial.reached or 0.0)
    weakest = min(fmean(values) for values in reached.values())
    return (math.floor(100 * weakest) / 100,) if weakest >= 0.01 else ()


def _columns(
    axis: Axis,
    trials: Sequence[Trial],
    budgets: Sequence[float],
    targets: Sequence[float],
    compare: CompareConfig,
) -> dict[Measure, list[Number]]:
    """Return each measure's figure of every trial."""
    corrected = compare.chance_corrected
    columns = {Measure("final", "accuracy"): [t.final for t in trials]}
    if all(count >= IQM_RUNS for count in Counter(trial.arm for trial in trials).values()):
        columns[Measure(IQM, "accuracy")] = [t.final for t in trials]
    columns[Measure("best", "accuracy")] = [t.best for t in trials]
    curves = [t.curve(axis) for t in trials]
    for i, budget in enumerate(budgets):
        found = [accuracy_at_budget(curve, budget) for curve in curves]
        columns[Measure(f"{AT_BUDGET}{i + 1}", "accuracy", budget)] = found
    columns |= _on_clients(axis, trials, budgets)
    columns[Measure("cost", "cost")] = [t.total(axis) for t in trials]
    for i, target in enumerate(targets):
        found = [cost_to_accuracy(t.choosing_curve(axis), target) for t in trials]
        columns[Measure(f"{TO_TARGET}{i + 1}", "cost", target)] = found
    if axis.rated:
        columns[Measure("ies", "cost")] = [_ies(t, axis, corrected) for t in trials]
        columns[Measure("rcs", "rate")] = [_rcs(t, axis, corrected) for t in trials]
        if len({t.arm for t in trials}) > 2:  # z-scores of two arms are the same whatever they measured
            columns[Measure("bis", "score")] = _bis(axis, trials)
    return columns


def _on_clients(axis: Axis, trials: Sequence[Trial], budgets: Sequence[float]) -> dict[Measure, list[Number]]:
    """Return what clients got: at the end, and at the last measurement within the largest budget.

    Of the model that they can afford, where all runs measured it, else of the global one; absent where a run
    has measured nothing on clients by then. Clients that can afford none guess, and are counted.
    """
    model = "affordable" if all(trial.on_clients["affordable"] for trial in trials) else "global"
    rounds = [figure for trial in trials for figure in trial.on_clients[model].values()]
    shown = {
        "mean": bool(rounds),
        "worst10": bool(rounds),
        "gain": any(figure.gain is not None for figure in rounds),
        "tuned_gain": any(figure.tuned_gain is not None for figure in rounds),
        "served": any(figure.served < 1 for figure in rounds),
    }
    columns: dict[Measure, list[Number]] = {}
    for name in (name for name, known in shown.items() if known):
        key = f"clients_{name}"
        kind: MeasureKind = "gain" if name.endswith("gain") else "accuracy"
        curves = [trial.client_curve(axis, model, name) for trial in trials]
        columns[Measure(key, kind)] = [curve[-1][1] if curve else None for curve in curves]
        if budgets:
            columns[Measure(f"{key}_at_budget", kind, budgets[-1])] = [
                next((value for cost, value in reversed(curve) if cost <= budgets[-1]), None)
                for curve in curves
            ]
    return columns


def _accuracy(trial: Trial, corrected: bool) -> Number:
    """Return what scores take for accuracy: corrected, 0 where guessing would have done better."""
    if not corrected:
        return trial.final
    value = trial.chance.corrected(trial.final) if trial.tested else None  # each client's chance is another
    return None if value is None else max(0.0, value)


def _ies(trial: Trial, axis: Axis, corrected: bool) -> Number:
    return inverse_efficiency(trial.total(axis), _accuracy(trial, corrected))


def _rcs(trial: Trial, axis: Axis, corrected: bool) -> Number:
    if not trial.images:
        return None
    return rate_correct(_accuracy(trial, corrected), trial.images, trial.total(axis))


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


def _cells(
    measure: Measure,
    axis: Axis,
    trials: Sequence[Trial],
    values: Sequence[Number],
    compare: CompareConfig,
    baseline: str,
) -> dict[str, Cell]:
    """Sum up every arm on one measure, of which ``values`` holds each trial's figure."""
    by_arm: dict[str, dict[int, Number]] = {}
    for trial, value in zip(trials, values, strict=True):
        by_arm.setdefault(trial.arm, {})[trial.seed] = value
    seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
    figures = {arm: [found.get(seed) for seed in seeds] for arm, found in by_arm.items()}
    held = holm([_paired(measure, by_arm, seeds, arm, baseline, compare) for arm in figures])
    own = {arm: [trial for trial in trials if trial.arm == arm] for arm in figures}
    budget = measure.level if measure.at_budget else None
    return {
        arm: Cell(
            values=tuple(figures[arm]),
            estimate=_estimate(measure, list(by_arm[arm].values()), compare),
            paired=against,
            short=0 if budget is None else sum((t.total(axis) or 0.0) < budget for t in own[arm]),
            at_chance=measure.key == "final" and mostly_guess(own[arm]),
        )
        for arm, against in zip(figures, held, strict=True)
    }


def _estimate(measure: Measure, values: Sequence[Number], compare: CompareConfig) -> Estimate:
    if measure.key == IQM:
        return iqm_estimate(values, compare.confidence, compare.resamples)
    return estimate(values, compare.confidence, without=measure.without)


def _paired(
    measure: Measure,
    by_arm: Mapping[str, Mapping[int, Number]],
    seeds: Sequence[int],
    arm: str,
    baseline: str,
    compare: CompareConfig,
) -> Estimate:
    """Compare an arm with the baseline; nothing of the baseline itself, or where that would flatter."""
    own, reference = by_arm[arm], by_arm.get(baseline)
    if reference is None or arm == baseline or measure.key == IQM:
        return NOTHING
    both = [(own[seed], reference[seed]) for seed in seeds if seed in own and seed in reference]
    missing = measure.to_target and len(both) < len(seeds)
    if missing or any(measure.lost(figure) for pair in both for figure in pair):
        return NOTHING  # to leave out the seeds that never got there would flatter
    values, others = [a for a, _ in both], [b for _, b in both]
    return paired(values, others, compare.confidence, compare.test, by_ratio=measure.by_ratio)


def _front_seeds(
    axis: Axis, trials: Sequence[Trial], arms: Sequence[str], seeds: Sequence[int]
) -> dict[str, int]:
    counted = dict.fromkeys(arms, 0)
    for seed in seeds:
        members = [trial for trial in trials if trial.seed == seed]
        for i in pareto_front([(trial.total(axis), trial.final) for trial in members]):
            counted[members[i].arm] += 1
    return counted
