"""Measure how private a mechanism is, from one run of it: canaries, and how many of them are told apart.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run": of many canaries each is put
in or left out by a fair coin; whoever sees what is released gives each a score, and guesses. A mechanism that
is (epsilon, delta)-private lets only so many guesses be right, so that more of them disprove it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


@dataclass(frozen=True)
class Audit:
    """What guesses come to."""

    canaries: int
    guesses: int
    """How many of the canaries were guessed; an attacker abstains where it is not sure."""
    right: int

    def epsilon(self, delta: float, confidence: float = 0.95) -> float:
        """Return the largest epsilon that the guesses disprove: a lower bound, 0 where they disprove none.

        ``delta`` is the mechanism's; a bound of that ``confidence`` is too large with a chance of 1 minus it.
        """
        low, high = 0.0, 1.0
        if self.chance(0.0, delta) > 1 - confidence:
            return 0.0
        while self.chance(high, delta) <= 1 - confidence:
            low, high = high, 2 * high
        while high - low > 1e-5:
            middle = (low + high) / 2
            low, high = (middle, high) if self.chance(middle, delta) <= 1 - confidence else (low, middle)
        return low

    def chance(self, epsilon: float, delta: float) -> float:
        """Return the chance, at most, of so many right guesses if the mechanism is private (theorem 5.2)."""
        accuracy = 1 / (1 + np.exp(-epsilon))
        beta = binom.sf(self.right - 1, self.guesses, accuracy)
        below = np.cumsum(binom.pmf(np.arange(self.right - 1, -1, -1), self.guesses, accuracy))
        alpha = np.max(below / np.arange(1, self.right + 1), initial=0.0)
        return float(min(1.0, beta + 2 * self.canaries * delta * alpha))


def guess(scores: NDArray[np.float64], there: NDArray[np.bool_], guesses: int) -> Audit:
    """Guess that the highest scores are of canaries that are ``there``, and the lowest of those that are not.

    ``scores``, float64, and ``there``, bool, are of each canary (canaries,); half of the ``guesses`` go to
    either end.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    right = int(there[order[-half:]].sum() + (~there[order[:half]]).sum())
    return Audit(len(scores), 2 * half, right)
