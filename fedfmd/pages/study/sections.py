"""The sections of a study's page: a sentence of explanation, a figure, the tables behind it."""

import json
from collections.abc import Callable, Sequence
from html import escape

from fedfmd.pages.run.sections import axis_choices, figure_box, switch
from fedfmd.pages.study.payload import difference_measures
from fedfmd.pages.study.wording import (
    axis_name,
    column_scale,
    estimate_parts,
    few,
    intervals_caption,
    name,
    p_text,
    paired_caption,
    paired_scale,
)
from fedfmd.results.analysis import Cell, Comparison, Measure
from fedfmd.results.statistics import Estimate
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import Outcome
from fedfmd.units import Scale, percent, quantity

SCORES = ("ies", "rcs", "bis")


def study_sections(
    study: Study, found: Sequence[Comparison], trials: Sequence[Trial], outcomes: Sequence[Outcome]
) -> str:
    """Return the sections in their order; the comparison on the study's own cost axis comes first."""
    parts = [
        _equal_cost(found),
        _differences(found) if len(found[0].arms) > 1 else "",
        _final(),
        _every_run(),
        _efficiency(study, found),
        _runs(trials, outcomes),
        _setup(study, trials),
    ]
    return "\n".join(part for part in parts if part)


def _equal_cost(found: Sequence[Comparison]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-show="{i}">'
        f'<svg viewBox="0 0 26 14" aria-hidden="true"></svg><span>{escape(arm)}</span></label>'
        for i, arm in enumerate(found[0].arms)
    )
    costs = switch("axis", "Cost", axis_choices([c.axis for c in found]), checked=found[0].axis.key)
    tables = "".join(_table(c, lambda m: m.key not in SCORES, "At equal cost") for c in found)
    return f"""<section aria-labelledby="h-equal"><h2 id="h-equal">At equal cost</h2>
<p class="intro">Every arm stopped at the same budget: the accuracy of the last round evaluated by then, with
nothing interpolated or chosen. {escape(intervals_caption(found[0]))} Cost counted:
<span data-meaning="axis"></span>.</p>
<div class="controls">{costs}
<fieldset><legend>Arms shown</legend><div class="filter">{boxes}</div></fieldset></div>
{figure_box("budget", "Accuracy within a budget")}
{tables}
<p class="note">A diamond marks the Pareto front of the means; the column Front counts the seeds in which the
arm is on it. Where some seeds never reached a target there is no mean, and the median stands if most did.
Dotted lines in the figure are the budgets of the table.</p>
</section>"""


def _differences(found: Sequence[Comparison]) -> str:
    first = found[0]
    choices = [(m.key, _choice(m, len(first.budgets))) for m in difference_measures(first)]
    tables = "".join(_paired_table(comparison) for comparison in found)
    title = escape(f"Against {first.baseline}")
    return f"""<section aria-labelledby="h-differences"><h2 id="h-differences">{title}</h2>
<p class="intro">Seed by seed, so that what a seed does to all arms, its data and its clients, cancels out.
{escape(paired_caption(first))}</p>
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
<p class="intro">Large marks are the arms' means, small ones their runs, bars the intervals. The dotted line
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
            _cell(found.cell(arm, m), s, len(found.seeds)) for m, s in zip(measures, scales, strict=True)
        )
        css = ' class="front-row"' if arm in found.front else ""
        front = f"<td>{found.front_seeds[arm]} of {len(found.seeds)}</td>"
        lines.append(f'<tr data-row="{i}"{css}><th scope="row">{escape(arm)}</th>{cells}{front}</tr>')
    return _holder(found, title, [("Arm", _n(found)), *head, ("Front", "seeds")], lines)


def _paired_table(found: Comparison) -> str:
    measures = [m for m in found.measures if m.key not in ("rcs", "bis")]
    head = [(name(m, found.axis), "ratio" if m.by_ratio else "points") for m in measures]
    lines = []
    for i, arm in enumerate(found.arms):
        if arm == found.baseline:
            continue
        cells = "".join(
            _stacked(found.cell(arm, m).paired, paired_scale(m), len(found.seeds), signed=not m.by_ratio)
            for m in measures
        )
        lines.append(f'<tr data-row="{i}"><th scope="row">{escape(arm)}</th>{cells}</tr>')
    return _holder(found, f"Against {found.baseline}", [("Arm", _n(found)), *head], lines)


def _n(found: Comparison) -> str:
    return f"n = {len(found.seeds)}{', few' if few(len(found.seeds)) else ''}"


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


def _cell(cell: Cell, scale: Scale, all_seeds: int) -> str:
    notes = [f"{cell.short} ended before"] if cell.short else []
    notes += ["within noise of chance"] if cell.at_chance else []
    return _stacked(cell.estimate, scale, all_seeds, notes)


def _stacked(
    estimate: Estimate, scale: Scale, all_seeds: int, notes: Sequence[str] = (), *, signed: bool = False
) -> str:
    """Return a cell with a line for each part of an estimate, and why an interval is absent."""
    mean, *parts = estimate_parts(estimate, scale, signed=signed)
    parts += [f"{estimate.count} seeds"] if 0 < estimate.count < all_seeds else []
    reason = f"no interval: {estimate.reason}" if estimate.count and estimate.reason else ""
    small = "".join(
        f"<small>{escape(text)}</small>" for text in (*parts, reason, p_text(estimate), *notes) if text
    )
    return f"<td>{escape(mean)}{small}</td>"


def _runs(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> str:
    found = {(trial.arm, trial.seed): trial for trial in trials}
    lines = []
    for outcome in outcomes:
        trial = found.get((outcome.arm, outcome.seed))
        cells = [outcome.arm, str(outcome.seed), "failed" if trial is None else "finished"]
        totals = trial.run.rounds[-1].cumulative if trial else {}
        cells += [percent(trial.final if trial else None), percent(trial.best if trial else None)]
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
    environment = json.dumps(trials[0].run.environment.to_json(), indent=2)
    return f"""<section aria-labelledby="h-setup"><h2 id="h-setup">To do it again</h2>
<div class="scroll free" tabindex="0" role="region" aria-label="What the arms change"><table><thead><tr>
<th scope="col">Arm</th><th scope="col">Changes</th></tr></thead><tbody>{lines}</tbody></table></div>
<details class="block"><summary>Study file</summary>
<pre tabindex="0"><code>{escape(study.dump())}</code></pre></details>
<details class="block"><summary>Environment</summary>
<pre tabindex="0"><code>{escape(environment)}</code></pre></details></section>"""


def _keys(keys: dict[str, object]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) or "nothing"
