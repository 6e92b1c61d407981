"""The sections of a page: a heading, one sentence of explanation, switches, figures, tables."""

import json
from collections.abc import Sequence
from html import escape
from statistics import median

from fedfmd.config.documents import flat_keys
from fedfmd.costs.fairness import tenth
from fedfmd.pages.run.budgets import budget_panels, limit_uses, plan_counts
from fedfmd.pages.run.clients import got_section
from fedfmd.pages.run.deployed import measured_table
from fedfmd.pages.run.dynamics import measured_rounds
from fedfmd.pages.run.dynamics import story as dynamics_story
from fedfmd.pages.run.parts import Choice, figure_box, switch, table, table_line
from fedfmd.pages.run.payload import client_costs, partition_picture
from fedfmd.records.documents import DECLARED
from fedfmd.results.costs import Axis, used_axes
from fedfmd.results.runs import Run
from fedfmd.results.summary import ClientTotal, client_totals, compare
from fedfmd.units import ABSENT, SCORE, PrefixedUnit, counted, number, percent, quantity, rate


def all_sections(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Return the sections of a page in their order; a comparison has two more."""
    axes = used_axes(runs)
    several = len(runs) > 1
    parts = [
        _comparison_section(runs, labels, axes) if several else "",
        _accuracy_section(runs, axes),
        _efficiency_section([axis for axis in axes if axis.rated]),
        _run_choice(labels) if several else "",
        got_section(runs),
        _clients_section(runs),
        measured_table(runs),
        _budgets_section(runs),
        _dynamics_section(runs),
        _partition_section(runs),
        _rounds_section(runs),
        _setup_section(runs),
    ]
    return "\n".join(part for part in parts if part)


def _comparison_section(runs: Sequence[Run], labels: Sequence[str], axes: Sequence[Axis]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-show="{i}">'
        f'<svg viewBox="0 0 26 14" aria-hidden="true" data-swatch="{i}"></svg>'
        f"<span>{escape(label)}</span></label>"
        for i, label in enumerate(labels)
    )
    tables = "".join(_comparison_table(runs, labels, axis) for axis in axes)
    return f"""<section aria-labelledby="h-comparison"><h2 id="h-comparison">At equal cost</h2>
<p class="intro">Budget and target follow from the set: the whole cost of the cheapest run, and the validation
accuracy that the weakest reached. Accuracy within a budget is that of the last round evaluated by then.
{_target_remark(runs, axes)}Cost counted: <span data-meaning="axis"></span>.</p>
<div class="controls">{switch("axis", "Cost", axis_choices(axes), checked="macs")}
<fieldset><legend>Runs shown</legend><div class="filter">{boxes}</div></fieldset></div>
{tables}
<p class="note">A diamond marks the Pareto front.{_bis_remark(len(runs))}</p>
{figure_box("pareto", "Final accuracy against the whole cost")}
{_differences(runs, labels)}
</section>"""


def _bis_remark(count: int) -> str:
    if count < 3:
        return ""
    return (
        f" BIS is z(accuracy) minus z(cost) over all {count} runs, hidden ones included: "
        "another set gives other values."
    )


def _target_remark(runs: Sequence[Run], axes: Sequence[Axis]) -> str:
    fault = compare(runs, axes[0]).no_target
    return f"Cost to a target is absent: {escape(fault)}. " if fault else ""


def _comparison_table(runs: Sequence[Run], labels: Sequence[str], axis: Axis) -> str:
    found = compare(runs, axis)
    head = ["Run", "Final top-1", "Best top-1", f"{axis.label} spent"]
    head += [f"Top-1 within {quantity(found.budget, axis.unit)}{'' if axis.unit else ' rounds'}"]
    head += [f"{axis.label} to {percent(found.target)}"] if found.target is not None else []
    head += ["IES", "RCS", *(["BIS"] if (ranked := len(runs) > 2) else [])]
    lines = []
    for i, (run, label, row) in enumerate(zip(runs, labels, found.rows, strict=True)):
        cells = [
            percent(row.final_top1),
            percent(row.best_top1),
            quantity(row.cost, axis.unit),
            percent(row.top1_at_budget),
            *([quantity(row.cost_to_target, axis.unit)] if found.target is not None else []),
            quantity(row.ies, axis.unit),
            rate(row.rcs, axis.unit),
            *([PrefixedUnit(1.0, SCORE).number(row.bis, signed=True)] if ranked else []),
        ]
        name = label if run.finished else f"{label} (unfinished)"
        css = ' class="front-row"' if row.on_front else ""
        lines.append(table_line(name, cells, f' data-row="{i}"{css}'))
    return table(f"Comparison by {axis.in_text}", head, lines, data=f'data-axis="{axis.key}"')


def _differences(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """A table of the config keys on which the runs differ, a column a run."""
    flat = [flat_keys(run.config) for run in runs]
    keys = [
        key for key in dict.fromkeys(k for f in flat for k in f) if len({str(f.get(key)) for f in flat}) > 1
    ]
    lines = (table_line(key, [_written(f.get(key)) for f in flat]) for key in keys)
    title = "What differs between the runs"
    return f"<h3>{title}</h3>\n{table(title, ('Config key', *labels), lines, css='free long')}"


def _written(value: object) -> str:
    """Return a value of a config as one would write it there; a dash for a key that is not set."""
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _accuracy_section(runs: Sequence[Run], axes: Sequence[Axis]) -> str:
    choice = "" if len(runs) > 1 else switch("axis", "Cost axis", axis_choices(axes))
    tested = any(row.top1 is not None for run in runs for row in run.rounds)
    what = (
        "Accuracy and loss of the global model on the test set"
        if tested
        else "Accuracy of the global model on the clients' own images, and their training loss"
    )
    return f"""<section aria-labelledby="h-accuracy"><h2 id="h-accuracy">What accuracy cost</h2>
<p class="intro">{what}, against
<span data-meaning="axis"></span>.</p>
{choice}
{figure_box("accuracy", "Accuracy")}
{figure_box("loss", "Loss")}
</section>"""


def _efficiency_section(axes: Sequence[Axis]) -> str:
    if not axes:
        return ""
    return f"""<section aria-labelledby="h-efficiency"><h2 id="h-efficiency">Efficiency</h2>
<p class="intro">IES is cumulative cost over accuracy, lower is better; RCS is correct test answers over
cumulative cost, higher is better. Both reward stopping early, so neither may stand without
the accuracy. Cost counted: <span data-meaning="score"></span>.</p>
{switch("score", "Cost", axis_choices(axes))}
<div class="pair">{figure_box("ies", "Inverse efficiency score")}
{figure_box("rcs", "Rate-correct score")}</div>
</section>"""


def _run_choice(labels: Sequence[str]) -> str:
    options = "".join(f'<option value="{i}">{escape(label)}</option>' for i, label in enumerate(labels))
    return f"""<section aria-labelledby="h-run"><h2 id="h-run">One run in detail</h2>
<p class="intro"><label for="run-choice">The figures below show</label>
<select id="run-choice" data-set="run">{options}</select></p></section>"""


def _clients_section(runs: Sequence[Run]) -> str:
    totals = [client_totals(run) for run in runs]
    if not any(totals):
        return ""
    costs = [(str(cost["key"]), str(cost["label"])) for cost in client_costs(totals)]
    if not costs:  # nobody has been asked for anything yet
        return ""
    stories = "".join(f'<p data-run="{i}">{escape(_burden(total))}</p>' for i, total in enumerate(totals))
    return f"""<section aria-labelledby="h-clients"><h2 id="h-clients">What each client paid</h2>
<div class="intro">{stories}</div>
{switch("client", "Cost", costs)}
{figure_box("clients", "Cost per client over the whole run")}
{"".join(_reasons(i, total) for i, total in enumerate(totals))}
</section>"""


def _burden(totals: Sequence[ClientTotal]) -> str:
    macs = sorted((total.macs for total in totals), reverse=True)
    idle = sum(total.participations == 0 for total in totals)
    most = tenth(len(macs))
    taken = "All clients took part" if not idle else f"{idle:,} of {len(totals):,} clients never took part"
    if not sum(macs):
        return f"{taken}."
    did = percent(sum(macs[:most]) / sum(macs))
    return f"{taken}; the tenth that computed most ({counted(most, 'client')}) did {did} of the work."


def _reasons(index: int, totals: Sequence[ClientTotal]) -> str:
    by_reason: dict[str, int] = {}
    for total in totals:
        for reason, times in total.reasons.items():
            by_reason[reason] = by_reason.get(reason, 0) + times
    if not by_reason:
        return ""
    rows = sorted(by_reason.items(), key=lambda item: -item[1])[:50]
    lines = (table_line(reason, [f"{times:,}"]) for reason, times in rows)
    title = "Why work was not used"
    return f"""<details data-run="{index}"><summary>{title}</summary>
{table(title, ("Outcome and reason", "Times"), lines, css="")}</details>"""


def _budgets_section(runs: Sequence[Run]) -> str:
    if not any(plan_counts(run) or limit_uses(run) for run in runs):
        return ""
    figure = figure_box("plans", "Plans by kind of device") if any(map(plan_counts, runs)) else ""
    return f"""<section aria-labelledby="h-budgets"><h2 id="h-budgets">Plans and limits</h2>
<p class="intro">A client counts in every round that asked it. Use is what was measured, as a share of what
the client was allowed in that round.</p>
{figure}
{budget_panels(runs)}
</section>"""


def _dynamics_section(runs: Sequence[Run]) -> str:
    if not any(map(measured_rounds, runs)):
        return ""
    stories = "".join(f'<p data-run="{i}">{escape(dynamics_story(run))}</p>' for i, run in enumerate(runs))
    return f"""<section aria-labelledby="h-dynamics"><h2 id="h-dynamics">Inside the dynamic convolutions</h2>
<div class="intro">{stories}</div>
{figure_box("entropy", "Attention entropy by layer and round")}
<div class="pair">{figure_box("usage", "Use of the kernels at the end")}
{figure_box("cosine", "Agreement of the kernel updates")}</div>
<p class="note">Entropy is a share of log K: 1 when all kernels are used alike, 0 when each image uses one.
Agreement is the mean cosine between the updates of two clients, larger updates counting more.</p>
</section>"""


def _partition_section(runs: Sequence[Run]) -> str:
    pictures = [partition_picture(run) for run in runs]
    if not any(run.partition.sizes or picture for run, picture in zip(runs, pictures, strict=True)):
        return ""
    thinned = any(picture and picture["thinned"] for picture in pictures)
    note = " Every so many clients or classes are drawn; the table file has all." if thinned else ""
    stories = "".join(f'<p data-run="{i}">{escape(_holdings(run))}</p>' for i, run in enumerate(runs))
    drawn = figure_box("partition", "Training images by class and client") + (
        '<p class="note">The stronger the shade, the more images; it follows the square root of the count.'
        f"{note}</p>"
    )
    if not any(pictures):
        drawn = '<p class="note">Which classes each client holds is not recorded.</p>'
    return f"""<section aria-labelledby="h-partition"><h2 id="h-partition">Who has what</h2>
<div class="intro">{stories}</div>
{drawn}
</section>"""


def _holdings(run: Run) -> str:
    sizes = run.partition.sizes
    if not sizes:
        return "The run records no sizes."
    scheme = run.partition.scheme
    split = f"Split by {scheme or 'an unnamed scheme'}"
    whose = "Each client brought its own images" if scheme == DECLARED else split
    return (
        f"{whose}: a client holds {min(sizes):,} to {max(sizes):,} training images; the median is "
        f"{number(median(sizes))}."
    )


def _rounds_section(runs: Sequence[Run]) -> str:
    if not any(row.round for run in runs for row in run.rounds):
        return ""
    return f"""<section aria-labelledby="h-rounds"><h2 id="h-rounds">Round by round</h2>
<div class="pair">{figure_box("duration", "Duration of a round")}
{figure_box("outcomes", "What became of the cohort")}</div>
<details data-table="rounds" class="block"><summary>Table of rounds</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Table of rounds"></div></details>
</section>"""


def _setup_section(runs: Sequence[Run]) -> str:
    blocks = "".join(
        f'<div data-run="{i}"><details class="block"><summary>Resolved config</summary>'
        f'<pre tabindex="0"><code>{escape(run.config_text)}</code></pre></details>'
        f'<details class="block"><summary>Environment</summary>'
        f'<pre tabindex="0"><code>{escape(json.dumps(run.environment.to_json(), indent=2))}</code></pre>'
        "</details></div>"
        for i, run in enumerate(runs)
    )
    return (
        f'<section class="folded" aria-labelledby="h-setup"><h2 id="h-setup">Reproduce</h2>{blocks}</section>'
    )


def axis_choices(axes: Sequence[Axis]) -> list[Choice]:
    """Return the cost axes as the choices of a switch."""
    return [(axis.key, axis.label) for axis in axes]
