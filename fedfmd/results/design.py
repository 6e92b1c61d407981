"""The design of a study: its factors with their levels, and which arm stands at which levels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Levels = Mapping[str, Any]
"""A level by each factor's key."""


@dataclass(frozen=True)
class Factor:
    """One thing that a study varies: a key of the config, or ``arm`` for the arms that its file names."""

    key: str
    levels: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether its levels are numbers, and so have distances."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.levels)

    @property
    def varied(self) -> bool:
        """Whether it has more than one level."""
        return len(self.levels) > 1

    @property
    def limits(self) -> bool:
        """Whether it is a budget."""
        return "budget" in self.key.split(".")


@dataclass(frozen=True)
class Design:
    """Factors in the order of the study's file, and the levels of each arm."""

    factors: tuple[Factor, ...]
    points: Mapping[str, Levels]

    @classmethod
    def of(cls, points: Mapping[str, Levels]) -> "Design":
        """Return the design of arms, each with the same factors; levels in the order of the arms."""
        keys = dict.fromkeys(key for levels in points.values() for key in levels)
        return cls(tuple(Factor(key, _seen(points, key)) for key in keys), points)

    def factor(self, key: str) -> Factor:
        """Return a factor by its key."""
        return next(factor for factor in self.factors if factor.key == key)

    def level(self, arm: str, factor: Factor) -> Any:
        """Return where an arm stands on a factor."""
        return self.points[arm][factor.key]

    @property
    def varied(self) -> tuple[Factor, ...]:
        """The factors with more than one level."""
        return tuple(factor for factor in self.factors if factor.varied)

    def ordered(self, order: Sequence[Any]) -> "Design":
        """Return the design with the levels that ``order`` names first, in its order."""

        def place(level: Any) -> int:
            return order.index(level) if level in order else len(order)

        factors = (replace(f, levels=tuple(sorted(f.levels, key=place))) for f in self.factors)
        return replace(self, factors=tuple(factors))

    def at(self, levels: Levels) -> str | None:
        """Return the arm at exactly these levels; null where the study left that combination out."""
        return self._arms.get(frozenset(levels.items()))

    @cached_property
    def _arms(self) -> Mapping[frozenset[tuple[str, Any]], str]:
        """The arms by their levels: effects ask for each of them many times."""
        return {frozenset(levels.items()): arm for arm, levels in self.points.items()}


def _seen(points: Mapping[str, Levels], key: str) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(levels[key] for levels in points.values()))
