"""The top of a study's page: what was compared, what came out first, and what failed."""

from collections.abc import Sequence
from html import escape

from fedfmd.errors import first_few
from fedfmd.pages.run.head import facts_list, run_facts
from fedfmd.pages.run.parts import card
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.wording import column_scale, few, fewer, interval_text, name, two_seeds
from fedfmd.results.analysis import Comparison, Measure
from fedfmd.results.statistics import Estimate
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import RunOutcome
from fedfmd.units import ABSENT, SHARE, counted, level

FRONT_NAMES = 3
"""Arms that the tile of the front names."""


def study_head(
    study: Study,
    found: Comparison,
    looks: Looks,
    trials: Sequence[Trial],
    outcomes: Sequence[RunOutcome],
    more: Sequence[str] = (),
) -> str:
    """Return the head of the page; ``found`` is on the study's own cost axis."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    status = "unfinished" if failed else "finished"
    label = (
        f"{len(failed)} of {counted(len(outcomes), 'run')} failed"
        if failed
        else ("The run finished" if len(outcomes) == 1 else f"All {len(outcomes)} runs finished")
    )
    notes = [warning] if (warning := few(len(found.seeds))) else []
    notes += [*more, *found.notes]
    notes += [f"{trial.arm}, seed {trial.seed}: {note}" for trial in trials for note in trial.run.notes]
    notes += [f"{o.arm}, seed {o.seed}, failed: {o.reason}" for o in failed]
    missing = [arm.name for arm in study.arms if arm.name not in found.arms]
    notes += [f"{arm}: no run finished, the arm is in no figure." for arm in missing]
    if found.baseline not in found.arms:
        notes.append(f"The baseline {found.baseline} has no finished run: nothing is compared with it.")
    shown = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"""<header class="top">
<p class="eyebrow"><span>Study</span><span class="status {status}">{escape(label)}</span></p>
<h1>{escape(study.name)}</h1>
<p class="lead">{counted(len(study.arms), "arm")} with {counted(len(study.config.seeds), "seed")} each,
compared at equal {escape(found.axis.in_text)}.</p>
{f'<div class="notes" role="note">{shown}</div>' if notes else ""}
{answer_cards(found, looks)}
{facts_list(_facts(study, trials))}
</header>"""


def _facts(study: Study, trials: Sequence[Trial]) -> dict[str, object]:
    """What all runs share: what an arm varies, or what came out otherwise in one, is not told of all."""
    keys = {key for arm in study.arms for key in arm.keys}
    varied = {
        "Model": any(key.startswith("model.") for key in keys) or "control" in keys,
        "Dataset": any(key.startswith("data.") for key in keys),
        "Partition": any(key.startswith("partition.") for key in keys),
        "Clients, cohort": bool(keys & {"partition.clients", "server.cohort"}),
        "Strategy": "server.strategy" in keys,
    }
    first, *others = (run_facts(trial.run) for trial in trials)
    varied |= {k: True for k, v in first.items() if any(facts[k] != v for facts in others)}
    hidden = ("Parameters", "Forward MACs per image", "Seed", "Run directory")
    shared = {k: "varies" if varied.get(k) else v for k, v in first.items() if k not in hidden}
    return {"Seeds": ", ".join(map(str, study.config.seeds))} | shared


def answer_cards(found: Comparison, looks: Looks) -> str:
    """The answers one looks for first, each with what speaks against taking it as settled."""
    cards = []
    for measure in [m for m in found.measures if m.at_budget][-1:]:
        cards.append(_winner(found, looks, measure, name(measure, found.axis), lower=False))
    for measure in [m for m in found.measures if m.to_target][-1:]:
        label = f"Fewest {found.axis.in_text} to {level(measure.level or 0.0)}"
        cards.append(_winner(found, looks, measure, label, lower=True))
    final = next(m for m in found.measures if m.key == "final")
    cards.append(_winner(found, looks, final, "Final top-1", lower=False))
    front = first_few([*map(looks.arm, found.front)], FRONT_NAMES, between="; ") or ABSENT
    cards.append(("On the Pareto front", front, f"by the means of {counted(len(found.seeds), 'seed')}"))
    return f'<dl class="cards words">{"".join(card(*each) for each in cards)}</dl>'


def _winner(
    found: Comparison, looks: Looks, measure: Measure, label: str, *, lower: bool
) -> tuple[str, str, str]:
    known = {arm: e for arm in found.arms if (e := found.cell(arm, measure).estimate).mean is not None}
    if not known:
        return label, ABSENT, "no arm got there with every seed"
    order = sorted(known, key=lambda arm: (known[arm].mean or 0.0) * (1 if lower else -1))
    best = known[order[0]]
    rivals = sum(_overlap(known[arm], best) for arm in order[1:])
    scale = column_scale(found, measure)
    unit = scale.unit if scale.unit == SHARE else f" {scale.unit}"
    spread = two_seeds(best, scale) or interval_text(best, scale)
    less = fewer(best, len(found.seeds))
    told = " ".join(filter(None, (f"{scale.number(best.mean)}{unit}", less and f"({less})", spread)))
    if all(found.cell(arm, "final").at_chance for arm in known):
        return label, "No arm above chance", f"highest: {looks.arm(order[0])}, {told}"
    if found.cell(order[0], "final").at_chance:
        told += ", which is chance"
    return label, looks.arm(order[0]), "; ".join(filter(None, (told, _reach(best, len(known) - 1, rivals))))


def _reach(best: Estimate, others: int, rivals: int) -> str:
    """Say how sure it is that the first of several arms is the first; empty of one arm."""
    if not others:
        return ""
    if best.count == 1:
        return "one seed tells no arms apart"
    return f"interval overlaps {counted(rivals, 'other')}" if rivals else "ahead of all others"


def _overlap(rival: Estimate, best: Estimate) -> bool:
    """Whether the two intervals have anything in common, or one is absent and cannot tell them apart."""
    if rival.low is None or rival.high is None or best.low is None or best.high is None:
        return True
    return rival.low <= best.high and best.low <= rival.high
