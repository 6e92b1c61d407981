"""The tables of a study: CSV with every figure at full precision, Markdown for people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfmd.files import make_folder, write_atomic
from fedfmd.pages.markdown import markdown_line, markdown_table
from fedfmd.pages.run.tables import write_csv
from fedfmd.pages.study.latex import latex_answer, latex_comparison, latex_effects
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.wording import (
    cell_notes,
    column_scale,
    difference_unit,
    effect_name,
    effects_scale,
    estimate_text,
    failures_words,
    few,
    fewer,
    intervals_caption,
    method,
    name,
    p_text,
    paired_caption,
    paired_method,
    paired_text,
)
from fedfmd.results.analysis import AT_BUDGET, TO_TARGET, Comparison, Measure
from fedfmd.results.costs import AXES
from fedfmd.results.findings import Findings
from fedfmd.results.metrics import MET, WASTED
from fedfmd.results.statistics import STUDENT, Estimate
from fedfmd.results.trials import Trial
from fedfmd.studies.runner import RunOutcome
from fedfmd.studies.search import Tuning
from fedfmd.units import PrefixedUnit, counted, level

Lines = list[list[str]]
FRONT = "Front: seeds in which the arm is on the Pareto front of final accuracy and cost; * by the means."


@dataclass(frozen=True)
class Tables:
    """What tables are made of: the study's name, its findings, and how things are called."""

    study: str
    findings: Findings
    looks: Looks
    columns: Sequence[str] = ()
    """Of the LaTeX tables."""

    def places(self, arm: str) -> dict[str, Any]:
        """Return an arm with its level of each factor, as columns of a CSV table."""
        return {"arm": arm, **{k: v for k, v in self.findings.design.points[arm].items() if k != "arm"}}


def write_study_tables(
    tables: Tables, trials: Sequence[Trial], outcomes: Sequence[RunOutcome], folder: Path
) -> None:
    """Write ``answer``, ``effects``, ``comparison``, ``curves``, ``budget_curves`` and ``runs`` as CSV, each
    with a column for every factor; the answer, the effects and the comparisons as Markdown and LaTeX, too."""
    make_folder(folder)
    found, looks, study = tables.findings, tables.looks, tables.study
    write_csv(folder / "answer.csv", list(_answer(tables)))
    write_csv(folder / "effects.csv", list(_effects(tables)))
    write_csv(
        folder / "comparison.csv", [row for one in found.comparisons for row in _comparison(tables, one)]
    )
    write_csv(
        folder / "budget_curves.csv", [row for one in found.comparisons for row in _curves(tables, one)]
    )
    write_csv(folder / "curves.csv", [row for trial in trials for row in _rounds(tables, trial)])
    write_csv(folder / "runs.csv", list(_runs(tables, trials, outcomes)))
    lost = failures_words(outcomes, looks)
    said = " ".join(filter(None, (lost, *found.first.images)))
    write_atomic(folder / "answer.tex", latex_answer(found.answer, looks, study, said))
    count, confidence = len(found.first.seeds), found.first.confidence
    if found.effects.effects:
        write_atomic(folder / "effects.md", markdown_table(effect_lines(tables)))
        effects = latex_effects(found.effects, looks, study, count, confidence, said)
        write_atomic(folder / "effects.tex", effects)
    for comparison in found.comparisons:
        stem = f"comparison_{comparison.axis.key}"
        write_atomic(folder / f"{stem}.md", markdown(comparison, looks, lost))
        write_atomic(folder / f"{stem}.tex", latex_comparison(comparison, looks, study, tables.columns, said))


def write_tuning(tunings: Sequence[Tuning], folder: Path) -> None:
    """Write ``tuning.csv``: every candidate of every arm on every rung; nothing without a search."""
    rows = [
        {
            "arm": tuning.arm,
            "searched_on": one.arm,
            "candidate": one.candidate,
            **one.keys,
            "rung": one.rung,
            "rounds": one.rounds,
            "validation_top1": one.validation_top1,
            "validation_loss": one.validation_loss,
            "macs": one.macs,
            "chosen": one.keys == tuning.chosen,
            "run": one.folder,
        }
        for tuning in tunings
        for one in tuning.tried
    ]
    if rows:
        write_csv(folder / "tuning.csv", rows)


def effect_lines(tables: Tables) -> Lines:
    """Lay out main effects, then interactions."""
    found, looks = tables.findings.effects, tables.looks
    scale = effects_scale(found)
    unit = f" ({difference_unit(scale)})" if scale.unit else ""
    head = ["Effect", f"{looks.metric(found.metric)}, difference{unit}", "Averaged over"]
    return [head] + [
        [
            effect_name(looks, effect.levels),
            ", ".join(filter(None, _effect_parts(effect.estimate, scale, len(tables.findings.first.seeds)))),
            counted(effect.matched, "combination"),
        ]
        for effect in found.effects
    ]


def _effect_parts(estimate: Estimate, scale: PrefixedUnit, seeds: int) -> tuple[str, ...]:
    return estimate_text(estimate, scale, signed=True), p_text(estimate), fewer(estimate, seeds)


def short_lines(found: Comparison, looks: Looks) -> Lines:
    """Lay out what fits a terminal: final accuracy, that within the largest budget, cost."""
    last = {f"{AT_BUDGET}{len(found.budgets)}", f"{TO_TARGET}{len(found.targets)}", "final", "cost"}
    return comparison_lines(found, looks, [measure for measure in found.measures if measure.key in last])


def comparison_lines(found: Comparison, looks: Looks, measures: Sequence[Measure] | None = None) -> Lines:
    """Lay out the means with their intervals: a head, then a line for each arm."""
    scales = {measure: column_scale(found, measure) for measure in measures or found.measures}
    units = (f" ({scale.unit})" if scale.unit else "" for scale in scales.values())
    warning = ", few" if few(len(found.seeds)) else ""
    first = f"Arm (n = {len(found.seeds)}{warning})"
    head = [first, *(f"{name(m, found.axis)}{unit}" for m, unit in zip(scales, units, strict=True)), "Front"]
    return [head] + [
        [
            looks.arm(arm),
            *(
                estimate_text(found.cell(arm, m).estimate, s, signed=m.signed) + _marks(found, arm, m)
                for m, s in scales.items()
            ),
            f"{found.front_seeds[arm]}/{len(found.seeds)}" + (" *" if arm in found.front else ""),
        ]
        for arm in found.arms
    ]


def paired_lines(found: Comparison, looks: Looks) -> Lines:
    """Lay out the comparison with the baseline, seed by seed: differences of accuracies, ratios of costs."""
    head = [f"Against {looks.arm(found.baseline)}"]
    head += [
        f"{name(m, found.axis)} ({'ratio' if m.by_ratio else 'diff.' if m.kind == 'score' else 'points'})"
        for m in found.measures
    ]
    lines = [
        [
            looks.arm(arm),
            *(paired_text(m, found.cell(arm, m).paired, len(found.seeds)) for m in found.measures),
        ]
        for arm in found.arms
        if arm != found.baseline
    ]
    return [head, *lines]


def caption(found: Comparison) -> str:
    """Say what the figures of a table are."""
    return (
        f"{intervals_caption(found)} Cost: {found.axis.meaning}. "
        "Accuracy within a budget is that of the last round evaluated by then, nothing is interpolated. "
        f"{FRONT}"
    )


def markdown(found: Comparison, looks: Looks, lost: str = "") -> str:
    """Write the comparison on one axis as Markdown; ``lost`` says which runs failed."""
    notes = "".join(f"\n- {markdown_line(note)}" for note in filter(None, (lost, *found.notes)))
    about = markdown_line(caption(found)) + (notes and f"\n{notes}")
    tables = [(about, comparison_lines(found, looks))]
    if len(found.arms) > 1:
        tables.append((markdown_line(paired_caption(found, looks)), paired_lines(found, looks)))
    return "\n".join(f"{text}\n\n{markdown_table(lines)}" for text, lines in tables)


def _marks(found: Comparison, arm: str, measure: Measure) -> str:
    """Say how many runs a figure rests on, where that is not all of them or some ended early."""
    cell = found.cell(arm, measure)
    notes = [*filter(None, [fewer(cell.estimate, len(found.seeds))]), *cell_notes(cell)]
    return f" ({', '.join(notes)})" if notes else ""


def _comparison(tables: Tables, found: Comparison) -> Iterable[dict[str, Any]]:
    for measure in found.measures:
        for arm in found.arms:
            cell = found.cell(arm, measure)
            yield {
                "cost_axis": found.axis.key,
                "unit": found.axis.unit,
                "measure": measure.key,
                "level": measure.level,
                **tables.places(arm),
                "caption": f"{name(measure, found.axis)}: mean, {level(found.confidence)} interval by "
                f"{method(measure)}, n = {counted(cell.estimate.count, 'seed')}",
                "seeds": cell.estimate.count,
                "mean": cell.estimate.mean,
                "sd": cell.estimate.sd,
                "median": cell.estimate.median,
                "low": cell.estimate.low,
                "high": cell.estimate.high,
                "no_interval": cell.estimate.reason,
                "method": method(measure),
                "interval_level": found.confidence,
                "warning": few(len(found.seeds)) or None,
                "at_chance": cell.at_chance if measure.key == "final" else None,
                "runs_ended_before": cell.short,
                "baseline": found.baseline,
                "paired_by": "ratio" if measure.by_ratio else "difference",
                "paired_seeds": cell.paired.count,
                "paired_mean": cell.paired.mean,
                "paired_median": cell.paired.median,
                "paired_low": cell.paired.low,
                "paired_high": cell.paired.high,
                "paired_no_interval": cell.paired.reason,
                "paired_method": paired_method(measure),
                "paired_test": found.test,
                "paired_p_holm": cell.paired.p,
                "on_front": arm in found.front,
                "seeds_on_front": found.front_seeds[arm],
                **{f"seed_{seed}": value for seed, value in zip(found.seeds, cell.values, strict=True)},
            }


def _answer(tables: Tables) -> Iterable[dict[str, Any]]:
    answer = tables.findings.answer
    for _, _, point in answer.points:
        yield {
            **tables.places(point.arm),
            "metric": answer.metric.key,
            "unit": answer.metric.unit,
            "seeds": point.y.count,
            **_bounds("", point.y),
            "at_chance": point.guess if answer.metric.tested else None,
            **_bounds("budget_met_", point.met),
            **_bounds("wasted_", point.wasted),
            "interval_level": answer.confidence,
            **{f"seed_{seed}": value for seed, value in point.values},
        }


def _effects(tables: Tables) -> Iterable[dict[str, Any]]:
    found = tables.findings.effects
    for effect in found.effects:
        yield {
            "kind": "interaction" if effect.interaction else "main",
            "levels": ", ".join(f"{factor.key}={value}" for factor, value in effect.levels),
            "against": ", ".join(f"{f.key}={found.reference[f.key]}" for f, _ in effect.levels),
            "metric": found.metric.key,
            "seeds": effect.estimate.count,
            **_bounds("", effect.estimate),
            "p_holm": effect.estimate.p,
            "combinations": effect.matched,
        }


def _bounds(prefix: str, found: Estimate) -> dict[str, Any]:
    return {f"{prefix}{name}": getattr(found, name) for name in ("mean", "sd", "low", "high")}


def _curves(tables: Tables, found: Comparison) -> Iterable[dict[str, Any]]:
    for arm, curve in found.curves.items():
        for budget, estimate in zip(curve.budgets, curve.estimates, strict=True):
            yield {
                "cost_axis": found.axis.key,
                **tables.places(arm),
                "budget": budget,
                "mean": estimate.mean,
                "sd": estimate.sd,
                "median": estimate.median,
                "low": estimate.low,
                "high": estimate.high,
                "seeds": estimate.count,
                "method": STUDENT,
                "interval_level": found.confidence,
            }


def _rounds(tables: Tables, trial: Trial) -> Iterable[dict[str, Any]]:
    for row in trial.run.rounds:
        costs = {axis.key: axis.total(row) for axis in AXES if axis.key != "round"}
        figures = {"round": row.round, "top1": row.top1, "validation_top1": row.validation_top1}
        yield {**tables.places(trial.arm), "seed": trial.seed, **figures, **costs}


def _runs(
    tables: Tables, trials: Sequence[Trial], outcomes: Sequence[RunOutcome]
) -> Iterable[dict[str, Any]]:
    found = {(trial.arm, trial.seed): trial for trial in trials}
    for outcome in outcomes:
        trial = found.get((outcome.arm, outcome.seed))
        control = trial.run.summary.control if trial else None
        yield {
            **tables.places(outcome.arm),
            "seed": outcome.seed,
            "run": outcome.folder,
            "status": "failed" if outcome.status == "failed" else "finished",
            "reason": outcome.reason,
            "final_top1": trial.final if trial else None,
            "best_top1": trial.best if trial else None,
            "budget_met": MET.of(trial) if trial else None,
            "wasted_share": WASTED.of(trial) if trial else None,
            "rounds": trial.run.rounds[-1].round if trial else None,
            "parameters": trial.run.summary.parameters if trial else None,
            "control_ratio": control.ratio if control else None,
            "forward_macs": trial.run.summary.forward_macs if trial else None,
            **({a.key: trial.total(a) for a in AXES if a.key != "round"} if trial else {}),
        }
