"""Main effects and interactions of a study's factors, seed by seed.

The main effect of a level is the metric there minus that at the reference level, averaged over all
combinations of the other factors that have both; the interaction of two levels is the difference of such
differences. Both are computed within a seed, which fixes data, clients and cohorts of all arms alike; over
the seeds then come mean, interval and test, adjusted by Holm's method over the effects of one kind.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import fmean
from typing import Any

from fedfmd.records.schema import Number
from fedfmd.results.design import Design, Factor, Levels
from fedfmd.results.metrics import Metric
from fedfmd.results.statistics import Estimate, Test, detectable, from_zero, holm, least_p
from fedfmd.results.trials import Trial

Values = Mapping[tuple[str, int], Number]
"""A metric by arm and seed."""


@dataclass(frozen=True)
class Effect:
    """What one level, or two levels together, do to the metric, against the reference."""

    levels: tuple[tuple[Factor, Any], ...]
    estimate: Estimate
    matched: int
    """Combinations of the other factors that it is averaged over."""

    @property
    def interaction(self) -> bool:
        """Whether it is of two levels together."""
        return len(self.levels) > 1


@dataclass(frozen=True)
class Effects:
    """All effects on one metric."""

    metric: Metric
    reference: Levels
    effects: tuple[Effect, ...]
    detectable: Number
    """Main effect that the pairs of each, the fewest of them, would find in four of five studies by the first
    step of Holm's method, at ``level``; absent where nothing varies, and for signed ranks, whose power has no
    such form."""
    tests: int = 0
    """Main effects that were tested."""
    level: float = 0.0
    """What Holm's method asks of the p value of the first of them: the whole level over ``tests``."""
    least_p: float = 0.0
    """No p value of the test can be smaller with so many pairs."""

    @property
    def out_of_reach(self) -> bool:
        """Whether so few seeds can find no main effect, however large."""
        return self.tests > 0 and self.least_p > self.level


def effects(
    design: Design, metric: Metric, trials: Sequence[Trial], baseline: str, confidence: float, test: Test
) -> Effects:
    """Return main effects, then interactions, against the levels of the arm ``baseline``."""
    reference = design.points[baseline]
    values = {(trial.arm, trial.seed): metric.of(trial) for trial in trials}
    seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
    found: list[Effect] = []
    for count in (1, 2):
        own = [
            effect
            for factors in combinations(design.varied, count)
            for chosen in product(*(_others(factor, reference) for factor in factors))
            if (effect := _effect(design, reference, dict(chosen), values, seeds, confidence, test))
        ]
        adjusted = holm([effect.estimate for effect in own])
        found += [replace(effect, estimate=e) for effect, e in zip(own, adjusted, strict=True)]
    main = [e.estimate for e in found if not e.interaction and e.estimate.p is not None]
    if not main:
        return Effects(metric, reference, tuple(found), None)
    level = round(1 - confidence, 12) / len(main)
    pooled = math.sqrt(fmean((e.sd or 0.0) ** 2 for e in main))
    fewest, most = min(e.count for e in main), max(e.count for e in main)
    least = detectable(pooled, fewest, level) if test == "t" else None
    return Effects(metric, reference, tuple(found), least, len(main), level, least_p(test, most))


def _others(factor: Factor, reference: Levels) -> list[tuple[Factor, Any]]:
    return [(factor, level) for level in factor.levels if level != reference[factor.key]]


def _effect(
    design: Design,
    reference: Levels,
    chosen: Mapping[Factor, Any],
    values: Values,
    seeds: Sequence[int],
    confidence: float,
    test: Test,
) -> Effect | None:
    places = list(_contrasts(design, reference, chosen))
    if not places:
        return None
    differences = [_difference(places, values, seed) for seed in seeds]
    used = {arm for place in places for arm, _ in place}
    largest = max((abs(v) for (arm, _), v in values.items() if arm in used and v is not None), default=0.0)
    found = from_zero(differences, confidence, test, largest)
    return Effect(tuple(chosen.items()), found, len(places))


Contrast = tuple[tuple[str, int], ...]
"""Arms with the sign that they count with."""


def _contrasts(design: Design, reference: Levels, chosen: Mapping[Factor, Any]) -> Iterator[Contrast]:
    """Yield, for each combination of the other factors, the arms whose signed sum is the effect there."""
    keys = [factor.key for factor in chosen]
    others = {
        tuple((key, level) for key, level in point.items() if key not in keys)
        for point in design.points.values()
    }
    for rest in sorted(others, key=repr):
        arms = []
        for picks in product((True, False), repeat=len(chosen)):
            place = dict(rest)
            for pick, (factor, level) in zip(picks, chosen.items(), strict=True):
                place[factor.key] = level if pick else reference[factor.key]
            arms.append((design.at(place), (-1) ** picks.count(False)))
        if all(arm is not None for arm, _ in arms):
            yield tuple((arm, sign) for arm, sign in arms if arm is not None)


def _difference(places: Sequence[Contrast], values: Values, seed: int) -> Number:
    """Return the effect in one seed; absent where a run of it is missing."""
    sums = []
    for contrast in places:
        terms = [(values.get((arm, seed)), sign) for arm, sign in contrast]
        if any(value is None for value, _ in terms):
            return None
        sums.append(sum(sign * value for value, sign in terms if value is not None))
    return fmean(sums)
