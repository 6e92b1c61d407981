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
from fedfmd.results.statistics import Estimate, Test, detectable, holm, paired
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
    """Main effect that so many seeds would find in four of five studies; absent where nothing varies."""


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
    spreads = [e.estimate.sd for e in found if not e.interaction and e.estimate.sd]
    pooled = math.sqrt(fmean(s * s for s in spreads)) if spreads else None
    least = None if pooled is None else detectable(pooled, len(seeds), confidence)
    return Effects(metric, reference, tuple(found), least)


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
    zeros: list[Number] = [0.0] * len(differences)
    return Effect(
        tuple(chosen.items()),
        paired(differences, zeros, confidence, test, by_ratio=False),
        len(places),
    )


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
