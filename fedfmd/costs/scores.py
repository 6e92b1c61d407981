"""What an accuracy cost: IES, RCS, BIS, accuracy at budget, cost to target, the Pareto front.

Accuracies are fractions in [0, 1]; a cost is any one non-negative quantity (MACs, bytes, seconds, joules) and
the result is in its unit. Absent is ``None``: an absent input gives an absent result, and no function returns
NaN or infinity. Nonsense (a negative cost, an accuracy of 94) raises ``ValueError``.

- IES, the inverse efficiency score: Townsend & Ashby 1978, 1983. It inflates variance and must never stand
  alone (Bruyer & Brysbaert 2011).
- RCS, the rate-correct score: Woltz & Was 2006.
- BIS, the balanced integration score: Liesefeld & Janczyk 2019. It depends on the set compared.

Here the cost of a federated run takes the place of the response time. None of the scores may be averaged over
rounds or clients: compute one per seed, then report the median and the spread.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from fedfmd.units import percent

NO_VALIDATION = "needs partition.validation above 0"
"""Why a figure that has to be chosen is absent: nothing is chosen on the test set."""
CHANCE_ERRORS = 2.0
"""Standard errors within which an accuracy counts as chance."""

Row = TypeVar("Row")
Curve = Sequence[tuple[float, float | None]]
"""``(cumulative cost, accuracy)`` by round, cost never falling; ``None`` where a round was not evaluated."""


def inverse_efficiency(cost: float | None, accuracy: float | None) -> float | None:
    """IES = cost / accuracy, in the unit of the cost; lower is better.

    ``None`` if either is absent or nothing was classified correctly.
    """
    _check_cost(cost)
    _check_accuracy(accuracy)
    if cost is None or not accuracy:
        return None
    return _finite(cost / accuracy)


def rate_correct(accuracy: float | None, samples: int, cost: float | None) -> float | None:
    """RCS = accuracy * samples / cost: test samples classified correctly per unit of cost; higher is better.

    ``None`` if an input is absent or the cost is zero; 0 where nothing was classified correctly.
    """
    _check_cost(cost)
    _check_accuracy(accuracy)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if accuracy is None or not cost:
        return None
    return _finite(accuracy * samples / cost)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What answering without a look at the image scores on a test set: always its commonest class.

    That is one in ``num_classes`` where all classes have as many images, and more on any other test set.
    """

    num_classes: int
    samples: int
    """Images of the test set; 0 where there is none."""
    largest_class_share: float | None = None
    """Share of the images that are of the commonest class; where it is not known, classes count as equal."""

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {self.num_classes}")

    @property
    def level(self) -> float:
        """The accuracy of such answers."""
        return max(1.0 / self.num_classes, self.largest_class_share or 0.0)

    @property
    def words(self) -> str:
        """The level, and where it is from."""
        balanced = self.level == 1.0 / self.num_classes
        why = f"1 in {self.num_classes}" if balanced else f"{percent(self.level)}, the commonest class"
        return f"chance ({why})"

    def covers(self, accuracy: float | None) -> bool:
        """Whether an accuracy is within noise of chance, or below; false where it is absent.

        Noise is ``CHANCE_ERRORS`` standard errors of a guess, sqrt(p (1 - p) / samples) with p = ``level``.
        """
        _check_accuracy(accuracy)
        if accuracy is None or not self.samples:
            return False
        noise = CHANCE_ERRORS * math.sqrt(self.level * (1.0 - self.level) / self.samples)
        return accuracy <= self.level + noise

    def remark(self, accuracy: float | None) -> str | None:
        """Return what to say beside an accuracy that is no better than guessing; ``None`` beside another."""
        return f"within noise of {self.words}" if self.covers(accuracy) else None

    def corrected(self, accuracy: float | None) -> float | None:
        """Accuracy on a scale where guessing scores 0 and perfection 1; may be negative.

        A' = (A - p) / (1 - p) with p = ``level``. Without it a classifier that guesses at no cost wins every
        IES table; a negative A' is no input for :func:`inverse_efficiency`. ``None`` where all images are of
        one class: there nothing is better than guessing.
        """
        _check_accuracy(accuracy)
        if accuracy is None or self.level >= 1.0:
            return None
        return (accuracy - self.level) / (1.0 - self.level)


def target_fault(target: float, chance: Chance | None, untrained: float | None) -> str | None:
    """Return why an accuracy is no target: guessing, or the untrained model, meets it; ``None`` if it is.

    What is unknown is not checked.
    """
    if chance and target <= chance.level:
        return f"a target of {100 * target:g}% is at or below {chance.words}"
    if untrained is not None and untrained >= target:
        return f"the untrained model meets a target of {100 * target:g}% ({100 * untrained:.4g}%)"
    return None


def balanced_integration(
    accuracies: Sequence[float | None], costs: Sequence[float | None]
) -> list[float | None]:
    """BIS_i = z(accuracy_i) - z(cost_i) over the set compared; higher is better.

    The z-scores use the set's mean and population standard deviation; a side on which all members agree adds
    0. A member that lacks a figure gets ``None`` and is no part of the set. A set needs three members: in one
    of two, each z-score is 1 or -1 whatever was measured. Store the set with the scores: adding a member
    changes them all.
    """
    if len(accuracies) != len(costs):
        raise ValueError(f"{len(accuracies)} accuracies for {len(costs)} costs")
    for accuracy, cost in zip(accuracies, costs, strict=True):
        _check_accuracy(accuracy)
        _check_cost(cost)
    complete = {i: (a, c) for i, (a, c) in enumerate(zip(accuracies, costs, strict=True)) if _known(a, c)}
    if len(complete) < 3:
        return [None] * len(costs)
    gain = _z_scores([float(a or 0.0) for a, _ in complete.values()])
    loss = _z_scores([float(c or 0.0) for _, c in complete.values()])
    scores = dict(zip(complete, (g - s for g, s in zip(gain, loss, strict=True)), strict=True))
    return [scores.get(i) for i in range(len(costs))]


def accuracy_at_budget(curve: Curve, budget: float) -> float | None:
    """Return the accuracy of the last evaluated round whose cumulative cost is within ``budget``.

    Nothing is interpolated: a model exists only where a round ended and was evaluated. Nothing is chosen
    either: a maximum over evaluations of the test set would flatter, and let the untrained model win.
    ``None`` if no evaluation fits. A curve that ends below the budget gives its last: say so beside it.
    """
    _check_cost(budget)
    _check_curve(curve)
    return next((a for c, a in reversed(curve) if a is not None and c <= budget), None)


def cost_to_accuracy(curve: Curve, target: float) -> float | None:
    """Return the cumulative cost of first measuring an accuracy of at least ``target``; ``None`` if never.

    The accuracies choose where to stop, so they must not be those of the test set that is reported on.
    It is what had really been paid at that evaluation, an upper bound; nothing is interpolated. Where cost
    rises in every round its dual holds: ``accuracy_at_budget(curve, cost_to_accuracy(curve, a)) >= a``.
    """
    _check_accuracy(target)
    _check_curve(curve)
    return next((c for c, a in curve if a is not None and a >= target), None)


def best_row(rows: Iterable[Row]) -> Row | None:
    """Return the first row of the highest ``validation_top1``; ``None`` where nothing was validated.

    Rows are records of a ledger, or plain data. The validation set chooses the round or epoch, whose ``top1``
    on the test set is then what is reported.
    """
    known = [(top1, row) for row in rows if (top1 := _validated(row)) is not None]
    return max(known, key=lambda pair: pair[0], default=(None, None))[1]


def _validated(row: Any) -> float | None:
    found: float | None = row.get("validation_top1") if isinstance(row, Mapping) else row.validation_top1
    return found


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Return the positions of the ``(cost, accuracy)`` points that no other point beats, cheapest first.

    A point is beaten by one that costs no more and is at least as accurate, and better in one of the two.
    Equal points all stay; a point that lacks a figure is left out.
    """
    for cost, accuracy in points:
        _check_cost(cost)
        _check_accuracy(accuracy)
    known = [(c, a, i) for i, (c, a) in enumerate(points) if c is not None and a is not None]
    front: list[int] = []
    best_cost, best_accuracy = -1.0, -1.0
    for cost, accuracy, i in sorted(known, key=lambda point: (point[0], -point[1], point[2])):
        if accuracy > best_accuracy or (cost, accuracy) == (best_cost, best_accuracy):
            front.append(i)
            best_cost, best_accuracy = cost, accuracy
    return front


def _z_scores(values: list[float]) -> list[float]:
    # Scaling by the largest first keeps squares of 1e15 MACs, or of 1e-200, inside the range of a float.
    scale = max(map(abs, values)) or 1.0
    scaled = [v / scale for v in values]
    mean = math.fsum(scaled) / len(scaled)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in scaled) / len(scaled))
    if min(scaled) == max(scaled) or deviation == 0.0:
        return [0.0] * len(values)
    return [(v - mean) / deviation for v in scaled]


def _known(*values: float | None) -> bool:
    return all(value is not None for value in values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_cost(cost: float | None) -> None:
    if cost is not None and not (math.isfinite(cost) and cost >= 0.0):
        raise ValueError(f"a cost must be finite and not negative, not {cost}")


def _check_accuracy(accuracy: float | None) -> None:
    if accuracy is not None and not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"an accuracy must be a fraction in [0, 1], not {accuracy}")


def _check_curve(curve: Curve) -> None:
    for cost, accuracy in curve:
        _check_cost(cost)
        _check_accuracy(accuracy)
    if any(later[0] < earlier[0] for earlier, later in pairwise(curve)):
        raise ValueError("a curve's cumulative cost must not fall")
