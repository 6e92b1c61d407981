"""Finished runs as points of a study: an arm, a seed, and accuracy against every cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedfmd.costs.scores import Chance
from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.results.clients import ClientFigures, figures
from fedfmd.results.costs import Axis
from fedfmd.results.runs import Run, lost_rounds
from fedfmd.results.summary import best_round, final_round, measured_on, untrained

Known = TypeVar("Known")
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """One finished run of a study."""

    arm: str
    seed: int
    run: Run

    def curve(self, axis: Axis) -> Points:
        """Return (cumulative cost, test accuracy) at each evaluation; nothing if the run spent none of it."""
        return self._points(axis, [row.accuracy for row in self.run.rounds])

    def choosing_curve(self, axis: Axis) -> Points:
        """Return the same with the validation accuracies, which choose where to stop."""
        return self._points(axis, [row.validation_top1 for row in self.run.rounds])

    def client_curve(self, axis: Axis, model: str, name: str) -> Points:
        """Return the same with a figure over the clients, by its name in ``ClientFigures``."""
        found = self.on_clients[model]
        return self._points(axis, [getattr(found.get(row.round), name, None) for row in self.run.rounds])

    def _points(self, axis: Axis, accuracies: Sequence[Number]) -> Points:
        if not self.total(axis):
            return []
        known = zip((self.spent(axis, row) for row in self.run.rounds), accuracies, strict=True)
        return [(cost, top1) for cost, top1 in known if cost is not None and top1 is not None]

    def spent(self, axis: Axis, row: RoundRow) -> Number:
        """Return the cumulative cost at the end of a round; the initial model cost nothing on any axis."""
        cost = axis.total(row)
        return 0.0 if cost is None and row.round == 0 else cost

    def total(self, axis: Axis) -> Number:
        """Return what the run had spent when it was evaluated last; absent for nothing on this axis."""
        row = final_round(self.run)
        return (axis.total(row) or None) if row else None

    @cached_property
    def on_clients(self) -> Mapping[str, Mapping[int, ClientFigures]]:
        """What clients got, by model and round: of ``affordable`` and ``global``, once for all axes."""
        models = ("affordable", "global")
        return {model: figures(self.run, model, guess=1 / self.num_classes) for model in models}

    @cached_property
    def final(self) -> Number:
        """Accuracy of the last evaluation."""
        row = final_round(self.run)
        return row.accuracy if row else None

    @cached_property
    def best(self) -> Number:
        """Test accuracy of the round that validation chooses; absent without validation."""
        row = best_round(self.run)
        return row.accuracy if row else None

    @cached_property
    def reached(self) -> Number:
        """Highest validation accuracy; absent without validation."""
        row = best_round(self.run)
        return row.validation_top1 if row else None

    @property
    def untrained(self) -> Number:
        """Validation accuracy of the initial model."""
        return untrained(self.run)

    @property
    def guesses(self) -> bool:
        """Whether the final accuracy is within noise of chance."""
        return self.tested and self.chance.covers(self.final)

    @property
    def tested(self) -> bool:
        """Whether accuracy is that on the test set, and not the mean over clients on their own images."""
        return measured_on([self.run]) == "test set"

    @property
    def chance(self) -> Chance:
        """What guessing scores on the test set."""
        return _known(self.run.chance)

    @cached_property
    def images(self) -> int:
        """How many images the final accuracy was measured on; 0 where clients' are not known."""
        last = final_round(self.run)
        if self.tested or last is None:
            return self.chance.samples
        own = (row for row in self.run.evaluations if (row.round, row.model) == (last.round, "global"))
        return sum(row.examples for row in own)

    @property
    def num_classes(self) -> int:
        """How many classes the images have."""
        return self.chance.num_classes


def mostly_guess(trials: Sequence[Trial]) -> bool:
    """Return whether the final accuracies of most runs of an arm are within noise of chance."""
    return 2 * sum(trial.guesses for trial in trials) > len(trials)


def until(run: Run, rounds: int) -> Run:
    """Return a run as it was after so many rounds: one that went on by itself has spent more than others."""
    went_on = max((row.round for row in run.rounds), default=0)
    if went_on <= rounds:
        return run
    return replace(
        run,
        rounds=tuple(row for row in run.rounds if row.round <= rounds),
        clients=tuple(row for row in run.clients if row.round <= rounds),
        evaluations=tuple(row for row in run.evaluations if row.round <= rounds),
        notes=(
            *run.notes,
            f"It went on to round {went_on}; what came after round {rounds} is left out here.",
        ),
    )


def comparable(run: Run) -> bool:
    """Return whether a run holds what a trial stands on: all that it wrote, and how accuracy was measured."""
    whole = run.rounds and not run.changed and not lost_rounds(run.summary, run.rounds)
    return bool(whole and run.chance and run.chance.samples)


def _known(value: Known | None) -> Known:
    assert value is not None, "a trial is made of a comparable run"
    return value


def last_within(curve: Points, budgets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the last measured accuracy within each budget (B,), NaN where no evaluation fits.

    ``fedfmd.costs.scores.accuracy_at_budget`` for many budgets at once; nothing is interpolated.
    """
    costs = np.array([cost for cost, _ in curve])
    last = np.array([np.nan, *(top1 for _, top1 in curve)])
    found: npt.NDArray[np.float64] = last[np.searchsorted(costs, budgets, side="right")]
    return found
