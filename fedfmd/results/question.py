"""The question that a study asks: what stands on x, what tells its lines and panels apart, and the answer.

One factor is x; the first of the others is told by colour, further ones by line or by small panels. Each
point is one arm: the mean of a metric over its seeds, with the interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fedfmd.config.study import FigureConfig
from fedfmd.records.schema import Number
from fedfmd.results.design import Design, Factor, Levels
from fedfmd.results.metrics import MET, WASTED, Metric
from fedfmd.results.statistics import Estimate, estimate
from fedfmd.results.summary import chance_level
from fedfmd.results.trials import Trial, mostly_guess

MOST_CURVES = 8
"""In one panel: as many as there are looks."""


@dataclass(frozen=True)
class Roles:
    """What each varied factor is told by."""

    x: Factor
    colour: Factor
    """That of x where nothing else is left for it."""
    line: Factor | None
    panels: tuple[Factor, ...]

    @property
    def joined(self) -> bool:
        """Whether a series over x is arms that differ in nothing else."""
        return self.colour != self.x

    def drawn_at(self, colour: Any, line: Any) -> Levels:
        """Return the levels that a series has by its colour and its dash."""
        told = {self.colour.key: colour} if self.joined else {}
        return told | ({self.line.key: line} if self.line else {})

    @property
    def lined(self) -> bool:
        """Whether lines are drawn between points: where x has an order, or dashes tell a factor."""
        return self.x.numeric or self.line is not None


@dataclass(frozen=True)
class Point:
    """One arm in the figure."""

    arm: str
    level: Any
    """Of x."""
    values: tuple[tuple[int, Number], ...]
    """Of y, by seed."""
    y: Estimate
    met: Estimate
    """Share of the asked clients that were used within their budget."""
    wasted: Estimate
    """Share of the training compute that was for nothing."""
    guess: bool
    """Whether y is an accuracy of an arm that ends at chance."""


@dataclass(frozen=True)
class Series:
    """Arms that differ in x alone."""

    colour: Any
    line: Any
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One of the small multiples."""

    levels: Levels
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Answer:
    """The figure's content."""

    roles: Roles
    metric: Metric
    panels: tuple[Panel, ...]
    seeds: int
    confidence: float
    chance: Number
    """What guessing scores on y; null where y is no accuracy on the test set."""

    @property
    def tangled(self) -> bool:
        """Whether so much stands side by side that a list of the arms is easier to read."""
        x = self.roles.x
        return len(self.roles.colour.levels) > MOST_CURVES or (not x.numeric and len(x.levels) > MOST_CURVES)

    @property
    def points(self) -> list[tuple[Panel, Series, Point]]:
        """All points, with where they stand."""
        return [(panel, s, point) for panel in self.panels for s in panel.series for point in s.points]


def roles(design: Design, figure: FigureConfig) -> Roles:
    """Return what each factor is told by, as the study's file says, and else chosen.

    x is a budget before another number, of several the one with most levels, and the factor with most levels
    where none is a number. Colour tells the first of the others whose level no other says. What the file
    names is not taken for anything else.
    """
    free = list(design.varied or design.factors[:1])
    named = {key for key in (figure.x, figure.colour, figure.line, *figure.panels) if key}
    left = [factor for factor in free if factor.key not in named]
    x = design.factor(figure.x) if figure.x else _chosen_x(left or free)
    left = [factor for factor in left if factor != x]
    told_apart = [factor for factor in left if not _follows(design, factor, left)]
    colour = design.factor(figure.colour) if figure.colour else next(iter(told_apart or left), x)
    line = design.factor(figure.line) if figure.line else None
    rest = [factor for factor in left if factor not in (colour, line)]
    chosen = [design.factor(key) for key in figure.panels]
    return Roles(x, colour, line, tuple(chosen + rest))


def _follows(design: Design, factor: Factor, others: Sequence[Factor]) -> bool:
    """Return whether another factor's level says this factor's: a policy says which control an arm is.

    In a panel for each level of the other, a colour of this factor would stand alone.
    """
    more = [other.key for other in others if len(other.levels) > len(factor.levels)]
    points = design.points.values()
    return any(
        len({(at[key], at[factor.key]) for at in points}) == len({at[key] for at in points}) for key in more
    )


def _chosen_x(factors: Sequence[Factor]) -> Factor:
    return max(factors, key=lambda factor: (factor.numeric, factor.limits, len(factor.levels)))


def answer(design: Design, told: Roles, metric: Metric, trials: Sequence[Trial], confidence: float) -> Answer:
    """Return the mean of ``metric`` over seeds at every point of the design that has a run."""
    by_arm: dict[str, list[Trial]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    seeds = len({trial.seed for trial in trials})
    panels = (
        Panel(levels, tuple(_series(design, told, levels, metric, by_arm, confidence)))
        for levels in _combinations(told.panels)
    )
    level = chance_level(trial.run for trial in trials) if metric.tested else None
    return Answer(told, metric, tuple(panel for panel in panels if panel.series), seeds, confidence, level)


def panel_of(design: Design, told: Roles, arm: str) -> tuple[Any, ...]:
    """Return an arm's place among small multiples of curves: all that its look does not tell."""
    shown = {told.colour, told.line}
    return tuple(design.level(arm, factor) for factor in curve_panels(design, told) if factor not in shown)


def curve_panels(design: Design, told: Roles) -> tuple[Factor, ...]:
    """Return the factors that panels tell where x is something else, as a cost."""
    return tuple(factor for factor in design.varied if factor not in (told.colour, told.line))


def curve_groups(design: Design, told: Roles, arms: Sequence[str]) -> list[list[str]]:
    """Share arms out over small multiples: those that their looks tell apart together, and never too many."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for arm in arms:
        groups.setdefault(panel_of(design, told, arm), []).append(arm)
    return [
        group[i : i + MOST_CURVES] for group in groups.values() for i in range(0, len(group), MOST_CURVES)
    ]


def _combinations(factors: Sequence[Factor]) -> Iterator[Levels]:
    for levels in product(*(factor.levels for factor in factors)):
        yield {factor.key: level for factor, level in zip(factors, levels, strict=True)}


def _series(
    design: Design,
    told: Roles,
    levels: Levels,
    metric: Metric,
    trials: Mapping[str, Sequence[Trial]],
    confidence: float,
) -> Iterator[Series]:
    for colour in told.colour.levels if told.joined else (None,):
        for line in told.line.levels if told.line else (None,):
            place = {**levels, **told.drawn_at(colour, line)}
            points = tuple(
                _point(arm, level, metric, trials[arm], confidence)
                for level in told.x.levels
                if (arm := _arm_at(design, place | {told.x.key: level})) in trials and arm is not None
            )
            if points:
                yield Series(colour, line, points)


def _arm_at(design: Design, place: Levels) -> str | None:
    """Return the arm at a place that says the level of every varied factor."""
    single = {factor.key: factor.levels[0] for factor in design.factors if factor.key not in place}
    return design.at({**single, **place})


def _point(arm: str, level: Any, metric: Metric, trials: Sequence[Trial], confidence: float) -> Point:
    y, met, wasted = (estimate([m.of(trial) for trial in trials], confidence) for m in (metric, MET, WASTED))
    values = tuple((trial.seed, metric.of(trial)) for trial in trials)
    return Point(arm, level, values, y, met, wasted, metric.tested and mostly_guess(trials))
