"""How measures and estimates are called and written, the same in tables, figures and the page."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fedfmd.pages.study.looks import Looks
from fedfmd.results.analysis import IQM, Cell, Comparison, Measure
from fedfmd.results.costs import Axis
from fedfmd.results.design import Factor
from fedfmd.results.effects import Effects
from fedfmd.results.statistics import BOOTSTRAP, EQUAL_VALUES, FEW, LOG_STUDENT, STUDENT, Estimate
from fedfmd.studies.plan import Study, some_arms
from fedfmd.studies.runner import RunOutcome
from fedfmd.studies.search import Tuning, early_words, searches
from fedfmd.units import (
    ABSENT,
    RATIO,
    SCORE,
    SHARE,
    PrefixedUnit,
    counted,
    in_column,
    least_of,
    level,
    metric_scale,
    number,
    quantity,
    rate_scale,
)

EQUAL_MARK = "="
"""In the place of an interval, where the values of all seeds are equal."""
TWO_SEEDS = "two seeds:"
"""Before their values, in the place of an interval that leaves what is possible."""
TWO_SEEDS_CAPTION = f'"{TWO_SEEDS}" gives both values where their interval reaches impossible ones.'
SMALLEST_P = 0.001
CHANCE = "chance"
"""Beside an accuracy that guessing reaches."""


ON_CLIENTS = {
    "clients_mean": "Clients' mean",
    "clients_worst10": "Worst tenth of clients",
    "clients_gain": "Gain over training alone",
    "clients_tuned_gain": "Gain over training alone, fine-tuned",
    "clients_served": "Clients with a model",
}
"""What clients got, each counting once."""


def name(measure: Measure, axis: Axis) -> str:
    """Call a measure by its name, as ``Top-1 within 3.1 GMAC``."""
    on_clients, _, within = measure.key.partition("_at_budget")
    if on_clients in ON_CLIENTS:
        budget = f" within {quantity(measure.level, axis.unit)}{'' if axis.unit else ' rounds'}"
        return ON_CLIENTS[on_clients] + (budget if measure.level is not None else within)
    if measure.at_budget:
        return f"Top-1 within {quantity(measure.level, axis.unit)}{'' if axis.unit else ' rounds'}"
    if measure.to_target:
        return f"{axis.label} to {level(measure.level or 0.0)}"
    fixed = {"final": "Final top-1", "best": "Best top-1", "cost": f"{axis.label} spent"}
    fixed[IQM] = "Final top-1, interquartile mean"
    return fixed.get(measure.key, measure.key.upper())


def method(measure: Measure) -> str:
    """Name the method of a measure's interval."""
    return BOOTSTRAP if measure.key == IQM else STUDENT


def paired_method(measure: Measure) -> str:
    """Name the method of the interval of a measure's comparison with the baseline."""
    return LOG_STUDENT if measure.by_ratio else STUDENT


def few(count: int) -> str:
    """Return the warning that belongs beside figures of so many seeds; empty where it is not needed."""
    return f"Warning: {few_words(count)}" if count < FEW else ""


def few_words(count: int) -> str:
    """Say that so many seeds are few."""
    return f"{counted(count, 'seed')}, fewer than {FEW}, {'proves' if count == 1 else 'prove'} little."


def fewer(estimate: Estimate, seeds: int) -> str:
    """Say of how many seeds an estimate is, as ``n=2``; empty where it is of all ``seeds``, or of none."""
    return f"n={estimate.count}" if 0 < estimate.count < seeds else ""


def failures_words(outcomes: Sequence[RunOutcome], looks: Looks) -> str:
    """Say whose runs failed, which no mean holds; empty without any."""
    lost = Counter(outcome.arm for outcome in outcomes if outcome.status == "failed")
    runs = Counter(outcome.arm for outcome in outcomes)
    told = ", ".join(f"{looks.arm(arm)} ({count} of {runs[arm]})" for arm, count in lost.items())
    return told and f"Runs that failed, and are left out: {told}."


def cell_notes(cell: Cell) -> list[str]:
    """Say what a figure must not be read without: that runs ended below its budget, that it is chance."""
    notes = [f"{cell.short} ended before"] if cell.short else []
    return notes + ([CHANCE] if cell.at_chance else [])


def figures_of(
    found: Comparison, arm: str, columns: Sequence[tuple[Measure, PrefixedUnit]], write: Callable[..., str]
) -> list[str]:
    """Write an arm's figures, a cell for each measure, with all that they must not be read without."""
    return [
        write(cell.estimate, scale, len(found.seeds), cell_notes(cell), signed=measure.signed)
        for measure, scale in columns
        for cell in [found.cell(arm, measure)]
    ]


def intervals_caption(found: Comparison) -> str:
    """Say how means and intervals are made: method, level, n, and what stands for an absent one."""
    count = len(found.seeds)
    equal = f' "{EQUAL_MARK}" stands for no interval: all seeds have equal values.'
    middle = (
        f" Interquartile means: [{level(found.confidence)} interval by {BOOTSTRAP}]."
        if any(measure.key == IQM for measure in found.measures)
        else ""
    )
    spread = (
        f"Mean \N{PLUS-MINUS SIGN} standard deviation (median) [{level(found.confidence)} interval of the "
        f"mean by {STUDENT}], n = {counted(count, 'seed')}.{equal}"
        if count > 1
        else "One seed: no interval."
    )
    served = (
        "Clients that can afford no model guess in the clients' mean and worst tenth, and have no gain."
        if any(measure.key == "clients_served" for measure in found.measures)
        else ""
    )
    two = TWO_SEEDS_CAPTION if count == 2 else ""
    return " ".join(filter(None, (spread + middle, few(count), two, served)))


def paired_caption(found: Comparison, looks: Looks) -> str:
    """Say how the comparison with the baseline is made."""
    count, against = len(found.seeds), len(found.arms) - 1
    test = "the paired t test" if found.test == "t" else "Wilcoxon's signed-rank test"
    text = (
        f"Paired with {looks.arm(found.baseline)}, seed by seed, n = {counted(count, 'seed')}: "
        f"mean difference, of costs the geometric mean of the ratios [{level(found.confidence)} interval by "
        f"{STUDENT}, for ratios of their logarithms]; p by {test}, adjusted over "
        f"the arms that have one, at most {against}, by Holm's method."
    )
    return " ".join(filter(None, (text, few(count))))


def estimate_parts(estimate: Estimate, scale: PrefixedUnit, *, signed: bool = False) -> list[str]:
    """Write an estimate in parts: mean, deviation, median, interval or why there is none.

    A mean that does not exist, since some seeds never got there, is a dash; the median may stand.
    """
    if not estimate.count:
        return [ABSENT]
    parts = [scale.number(estimate.mean, signed=signed)]
    if both := two_seeds(estimate, scale, signed=signed):
        return [*parts, both]
    if estimate.sd:
        parts.append(f"\N{PLUS-MINUS SIGN} {scale.number(estimate.sd)}")
    if estimate.count > 1 and estimate.reason != EQUAL_VALUES:
        beyond = "\N{INFINITY}" if estimate.median is None else scale.number(estimate.median, signed=signed)
        parts.append(f"({beyond})")
    if interval := interval_text(estimate, scale, signed=signed):
        parts.append(interval)
    elif estimate.reason == EQUAL_VALUES:
        parts.append(f"({EQUAL_MARK})")
    return parts


def interval_text(estimate: Estimate, scale: PrefixedUnit, *, signed: bool = False) -> str:
    """Write an interval as far as the figure can go; empty without one.

    Student's t knows no bounds, a cost and a share have some; what is cut off covers no value of theirs.
    """
    if estimate.low is None or estimate.high is None:
        return ""
    least, most = _possible(scale, signed=signed)
    bounds = (max(least, estimate.low), min(most, estimate.high))
    low, high = (scale.number(bound, signed=signed) for bound in bounds)
    return f"[{low}, {high}]"


def _possible(scale: PrefixedUnit, *, signed: bool) -> tuple[float, float]:
    """Return the least and the greatest value of figures of a scale; ``signed`` ones are differences."""
    if scale.unit == SCORE:
        return -math.inf, math.inf
    if scale.unit == SHARE:
        return (-1.0 if signed else 0.0), 1.0
    return (-math.inf if signed else 0.0), math.inf


def two_seeds(estimate: Estimate, scale: PrefixedUnit, *, signed: bool = False) -> str:
    """Write the two values of two seeds whose interval leaves what the figure can be; empty otherwise.

    Such an interval is as wide as it says, and tells nothing: a third seed does.
    """
    if estimate.count != 2 or estimate.low is None or estimate.high is None or estimate.mean is None:
        return ""
    least, most = _possible(scale, signed=signed)
    if least <= estimate.low <= estimate.high <= most:
        return ""
    away = (estimate.sd or 0.0) / math.sqrt(2)
    ends = (scale.number(estimate.mean + sign * away, signed=signed) for sign in (-1, 1))
    return f"{TWO_SEEDS} {' and '.join(ends)}"


def estimate_text(estimate: Estimate, scale: PrefixedUnit, *, signed: bool = False) -> str:
    """Write an estimate, as ``84.20 \N{PLUS-MINUS SIGN} 1.31 (84.00) [80.90, 87.50]``."""
    return " ".join(estimate_parts(estimate, scale, signed=signed))


def column_scale(found: Comparison, measure: Measure) -> PrefixedUnit:
    """Choose the unit of a column: percent, or the cost's with what suits the least mean, as its decimals."""
    if measure.kind in ("accuracy", "gain"):
        return PrefixedUnit(100.0, SHARE)
    if measure.kind == "score":
        return PrefixedUnit(1.0, SCORE)
    cells = [found.cell(arm, measure).estimate for arm in found.arms]
    middles = [e.mean if e.mean is not None else e.median for e in cells]
    beside = [value for e in cells for value in (e.sd, e.median, e.low, e.high)]
    unit = found.axis.unit
    if not unit:
        return in_column(PrefixedUnit(1.0, "rounds"), middles, beside)
    if measure.kind == "rate":
        return in_column(rate_scale(least_of(middles), unit), middles, beside)
    return metric_scale(middles, unit, beside)


def paired_scale(measure: Measure) -> PrefixedUnit:
    """Return the unit of a comparison with the baseline: points of accuracy, z-scores, or a ratio."""
    if measure.kind in ("accuracy", "gain"):
        return PrefixedUnit(100.0, SHARE)
    return PrefixedUnit(1.0, SCORE if measure.kind == "score" else RATIO)


def paired_text(measure: Measure, estimate: Estimate, seeds: int) -> str:
    """Write a comparison, as ``+1.20 [+0.30, +2.10], p = 0.02`` points or ``0.84 [0.80, 0.91]``.

    Of less than all ``seeds`` it says how many.
    """
    parts = (_paired_interval(measure, estimate), p_text(estimate), fewer(estimate, seeds))
    return ", ".join(filter(None, parts))


def p_text(estimate: Estimate) -> str:
    """Write an adjusted p value; empty without one."""
    if estimate.p is None:
        return ""
    return f"p < {SMALLEST_P}" if estimate.p < SMALLEST_P else f"p = {number(estimate.p)}"


def _paired_interval(measure: Measure, estimate: Estimate) -> str:
    parts = estimate_parts(estimate, paired_scale(measure), signed=not measure.by_ratio)
    told = [p for p in parts[1:] if p.startswith(("[", TWO_SEEDS)) or EQUAL_MARK in p]
    return " ".join(parts[:1] + told)


def effect_name(looks: Looks, levels: Sequence[tuple[Factor, Any]]) -> str:
    """Call an effect by its levels: ``FMDConv`` or ``FMDConv x MAC budget 25%``."""
    return " \N{MULTIPLICATION SIGN} ".join(looks.placed(factor.key, value) for factor, value in levels)


def effects_scale(found: Effects) -> PrefixedUnit:
    """Choose the unit of a column of effects."""
    return metric_scale([effect.estimate.mean for effect in found.effects], found.metric.unit)


def difference_unit(scale: PrefixedUnit) -> str:
    """Return the unit of differences between figures of a scale: points between percentages."""
    return "points" if scale.unit == SHARE else scale.unit


def effects_words(found: Effects, looks: Looks, scale: PrefixedUnit) -> str:
    """Say what effects are measured from, and how small a one the seeds would find."""
    text = f"against {looks.places(found.reference)}, seed by seed; p by Holm's method."
    if not found.tests:
        return text
    asked = f"p at most {number(found.level)}"
    if found.tests > 1:
        asked += f", the first step of Holm's method over {found.tests} main effects"
    if found.out_of_reach:
        least = number(found.least_p)
        return f"{text} So few seeds can find nothing: p is never below {least}; needed: {asked}."
    if found.detectable is None:
        return text
    least = f"{scale.number(found.detectable)} {difference_unit(scale)}".strip()
    return f"{text} With 80% power these seeds detect a main effect of {least} ({asked})."


def tuning_notes(study: Study, looks: Looks, tunings: Sequence[Tuning]) -> list[str]:
    """Say how arms were tuned and at what cost, or that they were not."""
    if study.config.search is None:
        same = "All arms have the settings of the file, none was tuned: [search] finds what suits each."
        return [same] if len(study.arms) > 1 else []
    keys = ", ".join(study.config.search.space)
    spent = {tuning.tried[0].arm: tuning.macs for tuning in tunings if tuning.tried}
    most = quantity(max(spent.values(), default=0.0), "MAC")
    total = quantity(sum(spent.values()), "MAC")
    notes = [
        f"Tuned by validation images: {keys}, for at most {most} an arm, {total} in all, in no other figure."
    ]
    for found in searches(tunings):
        arms = some_arms([looks.arm(tuning.arm) for tuning in found], len(tunings))
        if found[0].chosen is None:
            notes.append(f"{arms}: every candidate diverged or failed; compared untuned.")
        notes += [
            f"{arms}: {key} was chosen at the edge of its list; the best may lie beyond."
            for key in found[0].edges
        ]
    return [*notes, *early_words((one.judged_rounds, one.run_rounds) for one in tunings)]
