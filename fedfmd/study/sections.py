"""The sections of a study's page: a sentence of explanation, a figure, the tables behind it."""

import json
from collections.abc import Callable, Sequence
from html import escape

from fedfmd.report.costs import percent, quantity
from fedfmd.report.sections import axis_choices, figure_box, switch
from fedfmd.study.analysis import Comparison, Measure
from fedfmd.study.payload import difference_measures
from fedfmd.study.plan import Study
from fedfmd.study.runner import Outcome
from fedfmd.study.statistics import Estimate
from fedfmd.study.trials import Trial
from fedfmd.study.wording import Scale, axis_name, column_scale, name, paired_scale, seeds

SCORES = ("ies", "rcs", "bis")


def study_sections(
    study: Study, found: Sequence[Comparison], trials: Sequence[Trial], outcomes: Sequence[Outcome]
) -> str:
    """Return the sections in their order; the comparison on the study's own cost axis comes first."""
    parts = [
        _equal_cost(study, found),
        _differences(found) if len(found[0].arms) > 1 else "",
        _final(),
        _every_run(),
        _efficiency(study, found),
        _runs(trials, outcomes),
        _setup(study, trials),
    ]
    return "\n".join(part for part in parts if part)


def _equal_cost(study: Study, found: Sequence[Comparison]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-show="{i}">'
        f'<svg viewBox="0 0 26 14" aria-hidden="true"></svg><span>{escape(arm)}</span></label>'
        for i, arm in enumerate(found[0].arms)
    )
    costs = switch("axis", "Cost", axis_choices([c.axis for c in found]), checked=found[0].axis.key)
    confidence = percent(study.config.compare.confidence, 0)
    tables = "".join(_table(c, lambda m: m.key not in SCORES, "At equal cost") for c in found)
    return f"""<section aria-labelledby="h-equal"><h2 id="h-equal">At equal cost</h2>
<p class="intro">Every arm stopped at the same budget: the best accuracy measured by then, with nothing
interpolated. Medians over seeds, with {confidence} bootstrap intervals in brackets. Cost counted:
<span data-meaning="axis"></span>.</p>
<div class="controls">{costs}
<fieldset><legend>Arms shown</legend><div class="filter">{boxes}</div></fieldset></div>
{figure_box("budget", "Accuracy within a budget")}
{tables}
<p class="note">{escape(_caveats(found[0]))}</p>
</section>"""


def _caveats(found: Comparison) -> str:
    few = len(found.seeds) <= 5
    number = seeds(len(found.seeds))
    range_note = f"With {number} an interval is little more than their range. " if few else ""
    return (
        f"{range_note}A diamond marks the Pareto front of the medians; the column Front counts the seeds in "
        "which the arm is on it. An infinite bound: some seeds never reached the target. Dotted lines in the "
        "figure are the budgets of the table."
    )


def _differences(found: Sequence[Comparison]) -> str:
    first = found[0]
    choices = [(m.key, _choice(m, len(first.budgets))) for m in difference_measures(first)]
    tables = "".join(_paired_table(comparison) for comparison in found)
    title = escape(f"Against {first.baseline}")
    return f"""<section aria-labelledby="h-differences"><h2 id="h-differences">{title}</h2>
<p class="intro">Seed by seed, so that what a seed does to all arms, its data and its clients, cancels out.
An interval without zero says that nearly all seeds agree on the sign; few seeds prove little.</p>
{switch("measure", "Accuracy", choices)}
{figure_box("differences", "Difference to the baseline")}
{tables}
</section>"""


def _choice(measure: Measure, budgets: int) -> str:
    """Call an accuracy by a name that fits every cost axis."""
    if measure.level is None:
        return {"final": "Final", "best": "Best"}[measure.key]
    place = int(measure.key.rpartition("_")[2])
    return "Within the largest budget" if place == budgets else f"Within budget {place}"


def _final() -> str:
    return f"""<section aria-labelledby="h-final"><h2 id="h-final">Final accuracy against the whole cost</h2>
<p class="intro">Large marks are the arms' medians, small ones their runs, bars the intervals. The dotted line
is the Pareto front: no arm costs less and ends higher.</p>
{figure_box("pareto", "Final accuracy against the whole cost")}
</section>"""


def _every_run() -> str:
    return f"""<section aria-labelledby="h-curves"><h2 id="h-curves">Every run</h2>
<p class="intro">Accuracy on the test set as it was measured, a line for each run. Point at one to read its
arm, seed and round.</p>
{figure_box("curves", "Accuracy of every run")}
</section>"""


def _efficiency(study: Study, found: Sequence[Comparison]) -> str:
    corrected = " Accuracy is corrected for chance." if study.config.compare.chance_corrected else ""
    tables = "".join(
        _table(c, lambda m: m.key in SCORES, "Scores")
        if c.axis.rated
        else f'<p class="note" data-axis="{c.axis.key}">No scores on this cost.</p>'
        for c in found
    )
    return f"""<section aria-labelledby="h-efficiency"><h2 id="h-efficiency">Scores</h2>
<p class="intro">Of the whole run: IES is cost over final accuracy, lower is better; RCS is correct test
answers over cost, higher is better; BIS is z(accuracy) minus z(cost) among the {len(found[0].arms)} arms of
a seed, higher is better, and another set of arms gives other values.{corrected} All reward stopping early:
read them beside the accuracies above, never alone.</p>
{tables}
</section>"""


def _table(found: Comparison, wanted: Callable[[Measure], bool], title: str) -> str:
    measures = [measure for measure in found.measures if wanted(measure)]
    scales = [column_scale(found, measure) for measure in measures]
    head = [(name(m, found.axis), s.unit) for m, s in zip(measures, scales, strict=True)]
    lines = []
    for i, arm in enumerate(found.arms):
        cells = "".join(
            _cell(found.cell(arm, m).estimate, s, len(found.seeds), short=found.cell(arm, m).short)
            for m, s in zip(measures, scales, strict=True)
        )
        css = ' class="front-row"' if arm in found.front else ""
        front = f"<td>{found.front_seeds[arm]} of {len(found.seeds)}</td>"
        lines.append(f'<tr data-row="{i}"{css}><th scope="row">{escape(arm)}</th>{cells}{front}</tr>')
    return _holder(found, title, [("Arm", ""), *head, ("Front", "seeds")], lines)


def _paired_table(found: Comparison) -> str:
    measures = [m for m in found.measures if m.key not in ("rcs", "bis")]
    head = [(name(m, found.axis), "ratio" if m.by_ratio else "points") for m in measures]
    lines = []
    for i, arm in enumerate(found.arms):
        if arm == found.baseline:
            continue
        cells = "".join(
            _cell(found.cell(arm, m).paired, paired_scale(m), len(found.seeds), signed=not m.by_ratio)
            for m in measures
        )
        lines.append(f'<tr data-row="{i}"><th scope="row">{escape(arm)}</th>{cells}</tr>')
    return _holder(found, f"Against {found.baseline}", [("Arm", ""), *head], lines)


def _holder(found: Comparison, title: str, head: Sequence[tuple[str, str]], lines: Sequence[str]) -> str:
    columns = "".join(
        f'<th scope="col">{escape(text)}{f" <small>{escape(unit)}</small>" if unit else ""}</th>'
        for text, unit in head
    )
    return (
        f'<div class="scroll free study" data-axis="{found.axis.key}" tabindex="0" role="region" '
        f'aria-label="{escape(title)}, by {escape(axis_name(found.axis))}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(estimate: Estimate, scale: Scale, all_seeds: int, *, short: int = 0, signed: bool = False) -> str:
    median, _, interval = scale.estimate(estimate, signed=signed).partition(" ")
    notes = [f"{estimate.count} seeds"] if 0 < estimate.count < all_seeds else []
    notes += [f"{short} ended before"] if short else []
    small = "".join(f"<small>{escape(text)}</small>" for text in (interval, *notes) if text)
    return f"<td>{escape(median)}{small}</td>"


def _runs(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> str:
    found = {(trial.arm, trial.seed): trial for trial in trials}
    lines = []
    for outcome in outcomes:
        trial = found.get((outcome.arm, outcome.seed))
        cells = [outcome.arm, str(outcome.seed), "failed" if trial is None else "finished"]
        totals = trial.run.rounds[-1].cumulative if trial else {}
        cells += [percent(trial.final if trial else None, 2), percent(trial.best if trial else None, 2)]
        cells += [quantity(totals.get("macs"), "MAC"), quantity(totals.get("bytes"), "B")]
        cells += [quantity(totals.get("client_train_seconds"), "s"), outcome.folder]
        first, *rest = (escape(cell) for cell in cells)
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    names = ("Arm", "Seed", "Status", "Final top-1", "Best top-1", "MACs", "Bytes", "Client seconds", "Run")
    head = "".join(f'<th scope="col">{text}</th>' for text in names)
    return f"""<section aria-labelledby="h-runs"><h2 id="h-runs">The runs</h2>
<div class="scroll study" tabindex="0" role="region" aria-label="The runs">
<table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div></section>"""


def _setup(study: Study, trials: Sequence[Trial]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(arm.name)}</th><td>{escape(_keys(arm.keys))}</td></tr>'
        for arm in study.arms
    )
    environment = json.dumps(trials[0].run.environment, indent=2)
    return f"""<section aria-labelledby="h-setup"><h2 id="h-setup">To do it again</h2>
<div class="scroll free" tabindex="0" role="region" aria-label="What the arms change"><table><thead><tr>
<th scope="col">Arm</th><th scope="col">Changes</th></tr></thead><tbody>{lines}</tbody></table></div>
<details class="block"><summary>Study file</summary>
<pre tabindex="0"><code>{escape(study.dump())}</code></pre></details>
<details class="block"><summary>Environment</summary>
<pre tabindex="0"><code>{escape(environment)}</code></pre></details></section>"""


def _keys(keys: dict[str, object]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) or "nothing"
