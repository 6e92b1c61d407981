"""The sections of a study's page: a sentence of explanation, a figure, the tables behind it."""

import json
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import quote

from fedfmd.pages.run.parts import figure_box, switch
from fedfmd.pages.run.sections import axis_choices
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.payload import WITHIN, difference_measures
from fedfmd.pages.study.wording import (
    CHANCE,
    column_scale,
    difference_unit,
    effect_name,
    effects_scale,
    effects_words,
    estimate_parts,
    few,
    figures_of,
    intervals_caption,
    name,
    p_text,
    paired_caption,
    paired_scale,
)
from fedfmd.records.schema import Number
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.findings import Findings
from fedfmd.results.metrics import MET, WASTED
from fedfmd.results.question import Answer
from fedfmd.results.statistics import EQUAL_VALUES, Estimate
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import RunOutcome
from fedfmd.units import PrefixedUnit, counted, level, metric_scale, percent, quantity

WHOLE_LINES = 12
SCORES = ("ies", "rcs", "bis")


def study_sections(
    study: Study, findings: Findings, looks: Looks, trials: Sequence[Trial], outcomes: Sequence[RunOutcome]
) -> str:
    """Return the sections in their order."""
    found = findings.comparisons
    parts = [
        _filters(looks),
        _answer(findings, looks),
        _effects(findings, looks),
        _equal_cost(found, looks),
        _differences(found, looks) if len(found[0].arms) > 1 else "",
        _final(),
        _every_run(),
        _efficiency(study, found, looks),
        _runs(trials, outcomes, looks),
        _setup(study, trials),
    ]
    return "\n".join(part for part in parts if part)


def _filters(looks: Looks) -> str:
    """Return a box for each level of each factor; they hide arms in every figure and table."""
    sets = []
    for place, factor in enumerate(looks.design.varied or looks.design.factors):
        swatch = factor == looks.roles.colour
        boxes = "".join(
            f'<label><input type="checkbox" checked data-level="{place}:{i}">'
            + (f'<svg viewBox="0 0 26 14" aria-hidden="true" data-swatch="{i}"></svg>' if swatch else "")
            + f"<span>{escape(looks.level(factor.key, level))}</span></label>"
            for i, level in enumerate(factor.levels)
        )
        name = escape(looks.factor(factor.key))
        sets.append(f'<fieldset><legend>{name}</legend><div class="filter">{boxes}</div></fieldset>')
    return (
        f'<div class="controls filters" role="group" aria-label="Arms shown">{"".join(sets)}</div>'
        if sets
        else ""
    )


def _answer(findings: Findings, looks: Looks) -> str:
    answer, arms = findings.answer, findings.first.arms
    label, x = looks.metric(answer.metric), looks.factor(answer.roles.x.key)
    scale = metric_scale([p.y.mean for _, _, p in answer.points], answer.metric.unit)
    rows = []
    for _, _, point in answer.points:
        notes = [CHANCE] if point.guess else []
        cells = _stacked(point.y, scale, answer.seeds, notes, signed=answer.metric.signed)
        cells += f"<td>{percent(point.met.mean)}</td><td>{percent(point.wasted.mean)}</td>"
        name = f'<th scope="row">{escape(looks.arm(point.arm))}</th>'
        rows.append(f'<tr data-row="{arms.index(point.arm)}">{name}{cells}</tr>')
    head = [("Arm", f"n = {answer.seeds}"), (label, scale.unit), (MET.label, "%"), (WASTED.label, "%")]
    table = _plain_holder(f"{label} by {x}", head, rows)
    return f"""<section aria-labelledby="h-answer"><h2 id="h-answer">{escape(label)} against {escape(x)}</h2>
<p class="intro">{_means(answer)};
beside them, how many of the clients that were asked stayed within their budget and were used, and how much of
the compute was wasted.{_hollow(answer)}</p>
{figure_box("answer", f"{label} against {x}")}
{table}</section>"""


def _means(answer: Answer) -> str:
    """Say what a mark of the answer is."""
    if answer.seeds == 1:
        return "One seed: no mark has an interval"
    interval = f"{level(answer.confidence)} intervals by Student's t"
    return f"Means over {counted(answer.seeds, 'seed')} with their {interval}"


def _hollow(answer: Answer) -> str:
    if not any(point.guess for _, _, point in answer.points):
        return ""
    return " A hollow mark is an arm that does no better than chance."


def _effects(findings: Findings, looks: Looks) -> str:
    found = findings.effects
    if not found.effects:
        return ""
    scale = effects_scale(found)
    count = len(findings.first.seeds)
    rows = [
        f'<tr><th scope="row">{escape(effect_name(looks, effect.levels))}</th>'
        f"<td>{'interaction' if effect.interaction else 'main effect'}</td>"
        f"{_stacked(effect.estimate, scale, count, signed=True)}<td>{effect.matched}</td></tr>"
        for effect in found.effects
    ]
    head = [("Effect", f"n = {count}"), ("Kind", ""), ("Difference", difference_unit(scale))]
    head += [("Averaged over", "combinations")]
    return f"""<section aria-labelledby="h-effects"><h2 id="h-effects">What each factor does</h2>
<p class="intro">{escape(looks.metric(found.metric))} {escape(effects_words(found, looks, scale))} An
interaction is how much more one level does together with the other than both do apart.</p>
{_plain_holder("What each factor does", head, rows)}</section>"""


def _equal_cost(found: Sequence[Comparison], looks: Looks) -> str:
    costs = switch("axis", "Cost", axis_choices([c.axis for c in found]), checked=found[0].axis.key)
    tables = "".join(_table(c, looks, lambda m: m.key not in SCORES, "At equal cost") for c in found)
    return f"""<section aria-labelledby="h-equal"><h2 id="h-equal">At equal cost</h2>
<p class="intro">Every arm stopped at the same budget: the accuracy of the last round evaluated by then, with
nothing interpolated or chosen. {escape(intervals_caption(found[0]))} Cost counted:
<span data-meaning="axis"></span>.</p>
<div class="controls">{costs}</div>
{figure_box("budget", "Accuracy within a budget")}
{tables}
<p class="note">A diamond marks the Pareto front of the means; the column Front counts the seeds in which the
arm is on it. Where some seeds never reached a target there is no mean, and the median stands if most did.
Dotted lines in the figure are the budgets of the table.</p>
</section>"""


def _differences(found: Sequence[Comparison], looks: Looks) -> str:
    first = found[0]
    choices = [(key, _choice(key)) for key in difference_measures(first)]
    tables = "".join(_paired_table(comparison, looks) for comparison in found)
    title = escape(f"Against {looks.arm(first.baseline)}")
    return f"""<section aria-labelledby="h-differences"><h2 id="h-differences">{title}</h2>
<p class="intro">Seed by seed, so that what a seed does to all arms, its data and its clients, cancels out.
{escape(paired_caption(first, looks))}</p>
{switch("measure", "Accuracy", choices)}
{figure_box("differences", "Difference from the baseline")}
{tables}
</section>"""


def _choice(key: str) -> str:
    """Call an accuracy by a name that fits every cost axis."""
    if not key.startswith(WITHIN):
        return key.capitalize()
    place = int(key.removeprefix(WITHIN))
    return "Within the largest budget" if place == 1 else f"Within budget {place} from the largest"


def _final() -> str:
    return f"""<section aria-labelledby="h-final"><h2 id="h-final">Final accuracy against the whole cost</h2>
<p class="intro">Large marks are the arms' means, small ones their runs, bars the intervals. The dotted line
is the Pareto front: no arm costs less and ends higher.</p>
{figure_box("pareto", "Final accuracy against the whole cost")}
</section>"""


def _every_run() -> str:
    return f"""<section aria-labelledby="h-curves"><h2 id="h-curves">Every run</h2>
<p class="intro">Accuracy as it was measured, a line for each run. Point at one to read its
arm, seed and round.</p>
{figure_box("curves", "Accuracy of every run")}
</section>"""


def _efficiency(study: Study, found: Sequence[Comparison], looks: Looks) -> str:
    corrected = " Accuracy is corrected for chance." if study.config.compare.chance_corrected else ""
    tables = "".join(
        _table(c, looks, lambda m: m.key in SCORES, "Scores")
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


def _table(found: Comparison, looks: Looks, wanted: Callable[[Measure], bool], title: str) -> str:
    shown = [(measure, column_scale(found, measure)) for measure in found.measures if wanted(measure)]
    head = [(name(measure, found.axis), scale.unit) for measure, scale in shown]
    lines = []
    for i, arm in enumerate(found.arms):
        cells = "".join(figures_of(found, arm, shown, _stacked))
        css = ' class="front-row"' if arm in found.front else ""
        front = f"<td>{found.front_seeds[arm]} of {len(found.seeds)}</td>"
        lines.append(
            f'<tr data-row="{i}"{css}><th scope="row">{escape(looks.arm(arm))}</th>{cells}{front}</tr>'
        )
    return _holder(found, title, [("Arm", _n(found)), *head, ("Front", "seeds")], lines)


def _paired_table(found: Comparison, looks: Looks) -> str:
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
        lines.append(f'<tr data-row="{i}"><th scope="row">{escape(looks.arm(arm))}</th>{cells}</tr>')
    return _holder(found, f"Against {looks.arm(found.baseline)}", [("Arm", _n(found)), *head], lines)


def _n(found: Comparison) -> str:
    return f"n = {len(found.seeds)}{', few' if few(len(found.seeds)) else ''}"


def _plain_holder(title: str, head: Sequence[tuple[str, str]], lines: Sequence[str]) -> str:
    """Return a table that stands on no cost axis."""
    return (
        f'<div class="scroll{_free(lines)} study" tabindex="0" role="region" '
        f'aria-label="{escape(title)}, table">'
        f"{_grid(head, lines)}</div>"
    )


def _free(lines: Sequence[str]) -> str:
    """Let a short table stand whole; a long one is scrolled under its head."""
    return " free" if len(lines) <= WHOLE_LINES else ""


def _grid(head: Sequence[tuple[str, str]], lines: Sequence[str]) -> str:
    columns = "".join(
        f'<th scope="col">{escape(text)}{f" <small>{escape(unit)}</small>" if unit else ""}</th>'
        for text, unit in head
    )
    return f"<table data-sort><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _holder(found: Comparison, title: str, head: Sequence[tuple[str, str]], lines: Sequence[str]) -> str:
    return (
        f'<div class="scroll{_free(lines)} study" data-axis="{found.axis.key}" tabindex="0" role="region" '
        f'aria-label="{escape(title)}, by {escape(found.axis.in_text)}">{_grid(head, lines)}</div>'
    )


def _stacked(
    estimate: Estimate,
    scale: PrefixedUnit,
    all_seeds: int,
    notes: Sequence[str] = (),
    *,
    signed: bool = False,
) -> str:
    """Return a cell with a line for each part of an estimate, and why an interval is absent."""
    mean, *parts = estimate_parts(estimate, scale, signed=signed)
    parts = [" ".join(parts[:-1]), *parts[-1:]] if len(parts) > 1 else parts
    parts += [counted(estimate.count, "seed")] if 0 < estimate.count < all_seeds else []
    said = estimate.reason == EQUAL_VALUES or all_seeds == 1  # in the caption
    why = "" if said else estimate.reason
    reasons = [f"no interval: {why}"] if estimate.count and why else []
    figures = "".join(f"<small>{escape(text)}</small>" for text in (*parts, p_text(estimate)) if text)
    words = "".join(f'<small class="why">{escape(text)}</small>' for text in (*reasons, *notes))
    return f"<td>{escape(mean)}{figures}{words}</td>"


def _runs(trials: Sequence[Trial], outcomes: Sequence[RunOutcome], looks: Looks) -> str:
    found = {(trial.arm, trial.seed): trial for trial in trials}
    lines = []
    for outcome in outcomes:
        trial = found.get((outcome.arm, outcome.seed))
        cells = [str(outcome.seed), "failed" if trial is None else "finished"]
        cells += [percent(trial.final if trial else None), percent(trial.best if trial else None)]
        totals = trial.run.rounds[-1].cumulative if trial else {}
        spent = (("macs", "MAC"), ("bytes", "B"), ("client_train_seconds", "s"))
        line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        line += "".join(_sorted_cell(totals.get(key), unit) for key, unit in spent)
        line += f'<td><a href="runs/{quote(outcome.folder)}/">{escape(outcome.folder)}</a></td>'
        lines.append(f'<tr><th scope="row">{escape(looks.arm(outcome.arm))}</th>{line}</tr>')
    names = ("Arm", "Seed", "Status", "Final top-1", "Best top-1", "MACs", "Bytes", "Client seconds", "Run")
    head = "".join(f'<th scope="col">{text}</th>' for text in names)
    return f"""<section aria-labelledby="h-runs"><h2 id="h-runs">The runs</h2>
<div class="scroll study" tabindex="0" role="region" aria-label="The runs, table">
<table data-sort><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div></section>"""


def _sorted_cell(value: Number, unit: str) -> str:
    """Return a cell sorted by its value: its figure may have another prefix than others of its column."""
    known = "" if value is None else f' data-value="{value!r}"'
    return f"<td{known}>{escape(quantity(value, unit))}</td>"


def _setup(study: Study, trials: Sequence[Trial]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(arm.name)}</th><td>{escape(_keys(arm.keys))}</td></tr>'
        for arm in study.arms
    )
    environment = json.dumps(trials[0].run.environment.to_json(), indent=2)
    return f"""<section aria-labelledby="h-setup"><h2 id="h-setup">Reproduce</h2>
<div class="scroll free long" tabindex="0" role="region" aria-label="What the arms change"><table><thead><tr>
<th scope="col">Arm</th><th scope="col">Changes</th></tr></thead><tbody>{lines}</tbody></table></div>
<details class="block"><summary>Study file</summary>
<pre tabindex="0"><code>{escape(study.dump())}</code></pre></details>
<details class="block"><summary>Environment</summary>
<pre tabindex="0"><code>{escape(environment)}</code></pre></details></section>"""


def _keys(keys: dict[str, object]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) or "nothing"
