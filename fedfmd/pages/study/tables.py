"""The tables of a study: CSV with every figure at full precision, Markdown and LaTeX for people."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedfmd.files import write_atomic
from fedfmd.pages.run.tables import write_csv
from fedfmd.pages.study.wording import (
    column_scale,
    estimate_text,
    few,
    intervals_caption,
    method,
    name,
    paired_caption,
    paired_method,
    paired_text,
    seeds,
)
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.costs import AXES
from fedfmd.results.statistics import STUDENT
from fedfmd.results.trials import Trial
from fedfmd.studies.runner import Outcome
from fedfmd.units import level

Lines = list[list[str]]


def write_study_tables(
    found: Sequence[Comparison], trials: Sequence[Trial], outcomes: Sequence[Outcome], folder: Path
) -> None:
    """Write ``comparison``, ``curves``, ``budget_curves`` and ``runs`` as CSV, and the comparison on each
    axis, with the paired one, as Markdown and LaTeX."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "comparison.csv", [row for comparison in found for row in _comparison(comparison)])
    write_csv(folder / "budget_curves.csv", [row for comparison in found for row in _curves(comparison)])
    write_csv(folder / "curves.csv", [row for trial in trials for row in _rounds(trial)])
    write_csv(folder / "runs.csv", list(_runs(trials, outcomes)))
    for comparison in found:
        stem = f"comparison_{comparison.axis.key}"
        write_atomic(folder / f"{stem}.md", markdown(comparison))
        write_atomic(folder / f"{stem}.tex", latex(comparison))


def short_lines(found: Comparison) -> Lines:
    """Lay out what fits a terminal: final accuracy, that within the largest budget, cost."""
    last = {f"at_budget_{len(found.budgets)}", f"to_target_{len(found.targets)}", "final", "cost"}
    return comparison_lines(found, [measure for measure in found.measures if measure.key in last])


def comparison_lines(found: Comparison, measures: Sequence[Measure] | None = None) -> Lines:
    """Lay out the means with their intervals: a head, then a line for each arm."""
    scales = {measure: column_scale(found, measure) for measure in measures or found.measures}
    units = (f" ({scale.unit})" if scale.unit else "" for scale in scales.values())
    warning = ", few" if few(len(found.seeds)) else ""
    first = f"Arm (n = {len(found.seeds)}{warning})"
    head = [first, *(f"{name(m, found.axis)}{unit}" for m, unit in zip(scales, units, strict=True)), "Front"]
    return [head] + [
        [
            arm,
            *(
                estimate_text(found.cell(arm, m).estimate, s) + _marks(found, arm, m)
                for m, s in scales.items()
            ),
            f"{found.front_seeds[arm]}/{len(found.seeds)}" + (" *" if arm in found.front else ""),
        ]
        for arm in found.arms
    ]


def paired_lines(found: Comparison) -> Lines:
    """Lay out the comparison with the baseline, seed by seed: differences of accuracies, ratios of costs."""
    head = [f"Against {found.baseline}"]
    head += [
        f"{name(m, found.axis)} ({'ratio' if m.by_ratio else 'points' if m.kind == 'accuracy' else 'diff.'})"
        for m in found.measures
    ]
    lines = [
        [arm, *(paired_text(m, found.cell(arm, m).paired) for m in found.measures)]
        for arm in found.arms
        if arm != found.baseline
    ]
    return [head, *lines]


def caption(found: Comparison) -> str:
    """Say what the figures of a table are."""
    return (
        f"{intervals_caption(found)} Cost: {found.axis.meaning}. "
        "Accuracy within a budget is that of the last round evaluated by then, nothing is interpolated. "
        "Front: seeds in which the arm is on the Pareto front of final accuracy and cost; * by the means."
    )


def markdown(found: Comparison) -> str:
    """Write the comparison on one axis as Markdown."""
    tables = [(caption(found), comparison_lines(found))]
    if len(found.arms) > 1:
        tables.append((paired_caption(found), paired_lines(found)))
    return "\n".join(f"{about}\n\n{_markdown(lines)}" for about, lines in tables)


def latex(found: Comparison) -> str:
    """Write the comparison on one axis as LaTeX tables, for the package booktabs."""
    tables = [(comparison_lines(found), caption(found))]
    if len(found.arms) > 1:
        tables.append((paired_lines(found), paired_caption(found)))
    return "\n".join(_latex(lines, about) for lines, about in tables)


def _marks(found: Comparison, arm: str, measure: Measure) -> str:
    """Say how many runs a figure rests on, where that is not all of them or some ended early."""
    cell = found.cell(arm, measure)
    notes = []
    if 0 < cell.estimate.count < len(found.seeds):
        notes.append(f"n={cell.estimate.count}")
    if cell.short:
        notes.append(f"{cell.short} ended before")
    if cell.at_chance:
        notes.append("chance")
    return f" ({', '.join(notes)})" if notes else ""


def _markdown(lines: Lines) -> str:
    head, *body = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\N{INFINITY}": r"$\infty$", "\N{EN DASH}": "--", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"$\mu$", "<": r"$<$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex(lines: Lines, about: str) -> str:
    head, *body = ([latex_text(cell) for cell in line] for line in lines)
    rows = "\n".join(f"{' & '.join(line)} \\\\" for line in body)
    return f"""\\begin{{table}}
\\centering
\\caption{{{latex_text(about)}}}
\\begin{{tabular}}{{l{"r" * (len(head) - 1)}}}
\\toprule
{" & ".join(head)} \\\\
\\midrule
{rows}
\\bottomrule
\\end{{tabular}}
\\end{{table}}
"""


def _comparison(found: Comparison) -> Iterable[dict[str, Any]]:
    for measure in found.measures:
        for arm in found.arms:
            cell = found.cell(arm, measure)
            yield {
                "cost_axis": found.axis.key,
                "unit": found.axis.unit,
                "measure": measure.key,
                "level": measure.level,
                "arm": arm,
                "caption": f"{name(measure, found.axis)}: mean, {_interval_words(found, method(measure))}",
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


def _interval_words(found: Comparison, how: str) -> str:
    return f"{level(found.confidence)} interval by {how}, n = {seeds(len(found.seeds))}"


def _curves(found: Comparison) -> Iterable[dict[str, Any]]:
    for arm, curve in found.curves.items():
        for budget, estimate in zip(curve.budgets, curve.estimates, strict=True):
            yield {
                "cost_axis": found.axis.key,
                "arm": arm,
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


def _rounds(trial: Trial) -> Iterable[dict[str, Any]]:
    for row in trial.run.rounds:
        costs = {axis.key: axis.total(row) for axis in AXES if axis.key != "round"}
        figures = {"round": row.round, "top1": row.top1, "validation_top1": row.validation_top1}
        yield {"arm": trial.arm, "seed": trial.seed, **figures, **costs}


def _runs(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> Iterable[dict[str, Any]]:
    found = {(trial.arm, trial.seed): trial for trial in trials}
    for outcome in outcomes:
        trial = found.get((outcome.arm, outcome.seed))
        control = trial.run.summary.control if trial else None
        yield {
            "arm": outcome.arm,
            "seed": outcome.seed,
            "run": outcome.folder,
            "status": "failed" if outcome.status == "failed" else "finished",
            "reason": outcome.reason,
            "final_top1": trial.final if trial else None,
            "best_top1": trial.best if trial else None,
            "rounds": trial.run.rounds[-1].round if trial else None,
            "parameters": trial.run.summary.parameters if trial else None,
            "control_ratio": control.ratio if control else None,
            "forward_macs": trial.run.summary.forward_macs if trial else None,
            **({a.key: trial.total(a) for a in AXES if a.key != "round"} if trial else {}),
        }
