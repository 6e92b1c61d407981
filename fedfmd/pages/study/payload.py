"""The data that a study's page carries: plain numbers, ready for JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from fedfmd.pages.study.looks import Looks, axis_title, in_a_list, spread, tick
from fedfmd.pages.study.wording import name
from fedfmd.records.schema import Json
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.costs import Axis
from fedfmd.results.findings import Findings
from fedfmd.results.question import Answer, Point, curve_groups
from fedfmd.results.statistics import Estimate
from fedfmd.results.summary import measured_on
from fedfmd.results.trials import Trial

WITHIN = "within_"
"""How the names of differences within a budget begin; its place from the largest follows."""
ACCURACY = {
    "test set": "Accuracy on the test set",
    "clients": "Accuracy on the clients' own images",
    "both": "Accuracy on the test set, or on clients' own images",
}


def study_data(findings: Findings, looks: Looks, trials: Sequence[Trial]) -> Json:
    """Collect what the figures show: the answer, every run, and the arms on each cost axis."""
    found, first = findings.comparisons, findings.first
    arms = [*first.arms]
    return {
        "axis": first.axis.key,
        "axes": [asdict(comparison.axis) for comparison in found],
        "arms": [looks.arm(arm) for arm in arms],
        "looks": [asdict(looks.of(arm)) | {"curve": looks.curve(arm)} for arm in arms],
        "levels": [_levels(looks, arm) for arm in arms],
        "groups": [
            {"title": looks.panel(group[0]), "arms": [arms.index(arm) for arm in group]}
            for group in curve_groups(looks.design, looks.roles, arms)
        ],
        "answer": _answer(findings.answer, looks, arms),
        "chance": first.chance,
        "accuracy": ACCURACY[measured_on(trial.run for trial in trials)],
        "baseline": looks.arm(first.baseline),
        "seeds": len(first.seeds),
        "runs": [_run(trial, arms, [comparison.axis for comparison in found]) for trial in trials],
        "comparisons": {comparison.axis.key: _comparison(comparison) for comparison in found},
    }


def _levels(looks: Looks, arm: str) -> list[int]:
    """Return an arm's place on each varied factor."""
    return [factor.levels.index(looks.design.level(arm, factor)) for factor in looks.design.varied]


def _answer(answer: Answer, looks: Looks, arms: Sequence[str]) -> Json:
    x = answer.roles.x
    title, scale = axis_title(looks, x) if x.numeric else (looks.factor(x.key), 1.0)
    return {
        "label": looks.metric(answer.metric),
        "unit": answer.metric.unit,
        "possible": answer.metric.possible,
        "chance": answer.chance,
        "listed": in_a_list(answer, looks),
        "joined": answer.roles.joined,
        "lined": answer.roles.lined,
        "x": {
            "label": title,
            "numeric": x.numeric,
            "at": [float(v) if x.numeric else i for i, v in enumerate(x.levels)],
            "names": [tick(x, v, scale) if x.numeric else looks.level(x.key, v) for v in x.levels],
            "log": x.numeric and spread(x.levels),
        },
        "panels": [
            {
                "title": looks.places(panel.levels),
                "series": [
                    [_point(point, answer, arms) for point in series.points] for series in panel.series
                ],
            }
            for panel in answer.panels
        ],
    }


def _point(point: Point, answer: Answer, arms: Sequence[str]) -> Json:
    x = answer.roles.x
    return {
        "arm": arms.index(point.arm),
        "x": float(point.level) if x.numeric else x.levels.index(point.level),
        "y": _estimate(point.y),
        "guess": point.guess,
        "met": point.met.mean,
        "wasted": point.wasted.mean,
        "seeds": point.values,
    }


def difference_measures(found: Comparison) -> dict[str, Measure]:
    """Choose the accuracies whose differences are drawn: by budget, the largest first, then whole.

    Each under a name that means the same on every cost, whatever number of budgets it has.
    """
    within = reversed([measure for measure in found.measures if measure.at_budget])
    whole = {measure.key: measure for measure in found.measures if measure.key in ("final", "best")}
    return {f"{WITHIN}{place}": measure for place, measure in enumerate(within, 1)} | whole


def _run(trial: Trial, arms: Sequence[str], axes: Sequence[Axis]) -> Json:
    rows = [row for row in trial.run.rounds if row.accuracy is not None]
    return {
        "arm": arms.index(trial.arm),
        "seed": trial.seed,
        "folder": trial.run.folder.name,
        "rounds": [row.round for row in rows],
        "top1": [row.accuracy for row in rows],
        "x": {a.key: [trial.spent(a, row) if trial.total(a) else None for row in rows] for a in axes},
        "total": {axis.key: trial.total(axis) for axis in axes},
        "final": trial.final,
    }


def _comparison(found: Comparison) -> Json:
    return {
        "budgets": found.budgets,
        "arms": [_arm(found, arm) for arm in found.arms],
        "measures": {key: name(m, found.axis) for key, m in difference_measures(found).items()},
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
        "guess": found.cell(arm, "final").at_chance,
        "differences": {key: _difference(found, arm, m) for key, m in difference_measures(found).items()},
    }


def _difference(found: Comparison, arm: str, measure: Measure) -> Json:
    cell, reference = found.cell(arm, measure), found.cell(found.baseline, measure).values
    pairs = zip(found.seeds, cell.values, reference, strict=True)
    seeds = [[seed, a - b] for seed, a, b in pairs if a is not None and b is not None]
    return _estimate(cell.paired) | {"seeds": seeds}


def _estimate(estimate: Estimate) -> Json:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
