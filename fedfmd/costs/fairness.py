"""How evenly something is spread over clients: closed forms, each client counting once.

- worst tenth: the mean of the lowest ceil(n / 10) values (q-FFL reports it; Li et al. 2020).
- Jain's index: (sum x)^2 / (n sum x^2), from 1/n, one has all, to 1, all have the same (Jain et al. 1984).
- Gini's coefficient: sum_ij |x_i - x_j| / (2 n^2 mean), 0 where all have the same, (n - 1)/n where one has
  all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over clients; null without any client."""

    mean: float | None = None
    std: float | None = None
    """Standard deviation of these clients, not an estimate for others: the sum is divided by n."""
    worst10: float | None = None
    jain: float | None = None
    """Null where all values are 0."""


def spread(values: Sequence[float]) -> Spread:
    """Return how clients' values, such as their accuracies, are spread."""
    if not values:
        return Spread()
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    worst = worst_tenth(values)
    return Spread(
        mean=mean,
        std=math.sqrt(variance),
        worst10=math.fsum(values[i] for i in worst) / len(worst),
        jain=jain(values),
    )


def tenth(clients: int) -> int:
    """Return how many are a tenth of so many clients, rounded up: one at least, of any."""
    return -(-clients // 10)


def worst_tenth(values: Sequence[float]) -> list[int]:
    """Return the places of the lowest ceil(n / 10) values, lowest first; of equal ones the first."""
    return sorted(range(len(values)), key=lambda i: (values[i], i))[: tenth(len(values))]


def jain(values: Sequence[float]) -> float | None:
    """Return Jain's index of values that are not negative; null where it has none: no value, or all 0."""
    squares = math.fsum(value * value for value in values)
    return min(1.0, math.fsum(values) ** 2 / (len(values) * squares)) if squares else None


def gini(values: Sequence[float]) -> float | None:
    """Return Gini's coefficient of values that are not negative; null without any, or where all are 0."""
    total, n = math.fsum(values), len(values)
    if not total:
        return None
    ranked = math.fsum((2 * rank - n - 1) * value for rank, value in enumerate(sorted(values), 1))
    return ranked / (n * total)
