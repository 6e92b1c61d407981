"""The data that a study's page carries: plain numbers, ready for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fedfmd.pages.study.wording import name
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.costs import Axis
from fedfmd.results.statistics import Estimate
from fedfmd.results.trials import Trial

Json = dict[str, Any]


def study_data(found: Sequence[Comparison], trials: Sequence[Trial]) -> Json:
    """Collect what the figures show: every run, and the arms on each cost axis."""
    first = found[0]
    return {
        "axis": first.axis.key,
        "axes": [asdict(comparison.axis) for comparison in found],
        "arms": first.arms,
        "baseline": first.baseline,
        "seeds": len(first.seeds),
        "runs": [_run(trial, first.arms, [comparison.axis for comparison in found]) for trial in trials],
        "comparisons": {comparison.axis.key: _comparison(comparison) for comparison in found},
    }


def difference_measures(found: Comparison) -> list[Measure]:
    """Choose the accuracies whose differences are drawn: by budget, the largest first, then whole."""
    within = [measure for measure in found.measures if measure.key.startswith("at_budget")]
    return [*reversed(within), *(measure for measure in found.measures if measure.key in ("final", "best"))]


def _run(trial: Trial, arms: Sequence[str], axes: Sequence[Axis]) -> Json:
    rows = [row for row in trial.run.rounds if row.top1 is not None]
    return {
        "arm": arms.index(trial.arm),
        "seed": trial.seed,
        "rounds": [row.round for row in rows],
        "top1": [row.top1 for row in rows],
        "x": {a.key: [trial.spent(a, row) if trial.total(a) else None for row in rows] for a in axes},
        "total": {axis.key: trial.total(axis) for axis in axes},
        "final": trial.final,
    }


def _comparison(found: Comparison) -> Json:
    return {
        "budgets": found.budgets,
        "arms": [_arm(found, arm) for arm in found.arms],
        "measures": {m.key: name(m, found.axis) for m in difference_measures(found)},
    }


def _arm(found: Comparison, arm: str) -> Json:
    curve = found.curves[arm]
    return {
        "curve": {
            "x": curve.budgets,
            "mean": [e.mean for e in curve.estimates],
            "low": [e.low for e in curve.estimates],
            "high": [e.high for e in curve.estimates],
        },
        "cost": _estimate(found.cell(arm, "cost").estimate),
        "final": _estimate(found.cell(arm, "final").estimate),
        "front": arm in found.front,
        "differences": {m.key: _difference(found, arm, m) for m in difference_measures(found)},
    }


def _difference(found: Comparison, arm: str, measure: Measure) -> Json:
    cell, reference = found.cell(arm, measure), found.cell(found.baseline, measure).values
    pairs = zip(found.seeds, cell.values, reference, strict=True)
    seeds = [[seed, a - b] for seed, a, b in pairs if a is not None and b is not None]
    return _estimate(cell.paired) | {"seeds": seeds}


def _estimate(estimate: Estimate) -> Json:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
