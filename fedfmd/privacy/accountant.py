"""What rounds of a private run spend together: Renyi differential privacy, by Google's ``dp-accounting``.

The orders are whole numbers alone. At these the moments of the discrete Gaussian are those of the continuous
one, exactly (the sum over the integers does not change when it is moved by one), and so is all that the
accountant makes of them: what it says of Gaussian noise holds for the noise that is drawn. How clients are
drawn for a round decides what two neighbouring populations are:

- ``replace-one``: a round has exactly ``cohort`` clients, drawn without replacement; one client's data are
  replaced by other data. A sum then moves by up to twice the clip. Wang, Balle and Kasiviswanathan 2019.
- ``add-or-remove-one``: each client takes part with probability cohort / population, by itself; one client is
  there or not. A sum moves by up to the clip. Mironov, Talwar and Zhang 2019.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from fedfmd.errors import UserError

Relation = Literal["replace-one", "add-or-remove-one"]
ORDERS = (*range(2, 33), 36, 40, 44, 48, 56, 64, 80, 384, 512, 1024)
MOST_ROUNDS = 1 << 24
"""Where the search for a number of rounds ends."""
LARGEST_NOISE = 1000.0
"""More is beyond the sampler's range."""


@dataclass(frozen=True)
class Releases:
    """Rounds of a run whose noised sums somebody has seen."""

    noise_multiplier: float
    """Standard deviation of the noise over the clip; 0 is without noise."""
    cohort: int
    """Clients a round: exactly so many, or on average where each is drawn by itself."""
    population: int
    relation: Relation
    rounds: int = 1


def epsilon(releases: Iterable[Releases], delta: float) -> float:
    """Return the epsilon that releases come to at ``delta``: all of one relation; infinite without noise.

    Raises ``UserError`` where the accountant is not installed.
    """
    return _epsilon(tuple(releases), delta)


def rounds_within(budget: float, delta: float, before: Iterable[Releases], one: Releases) -> int:
    """Return how many rounds like ``one`` fit behind those ``before`` within epsilon ``budget``."""
    spent = tuple(before)

    def fits(rounds: int) -> bool:
        return rounds == 0 or epsilon((*spent, replace(one, rounds=rounds)), delta) <= budget

    high = 1
    while fits(high) and high < MOST_ROUNDS:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@lru_cache(maxsize=64)
def noise_for(target: float, delta: float, asked: Releases) -> float:
    """Return the least noise multiplier, to four decimals, that keeps ``asked`` within epsilon ``target``.

    Raises ``UserError`` where none does.
    """

    def beyond(noise_multiplier: float) -> float:
        return epsilon([replace(asked, noise_multiplier=noise_multiplier)], delta) - target

    high = 1.0
    while beyond(high) > 0:
        high *= 2
        if high > LARGEST_NOISE:
            raise UserError(f"privacy.epsilon = {target:g}: no noise keeps {asked.rounds} rounds within it")
    from scipy.optimize import brentq  # half a second that every other run would wait for

    low = high / 2
    while beyond(low) <= 0:
        low /= 2
    found = math.ceil(brentq(beyond, low, high, xtol=1e-6) * 1e4)
    while beyond(found / 1e4) > 0:
        found += 1
    return float(found / 1e4)


def default_delta(population: int) -> float:
    """Return population^-1.1, below one in ``population``: what McMahan et al. 2018 take."""
    return float(population**-1.1)


def require_accountant() -> Any:
    """Import the accountant; raises ``UserError`` where it is not installed."""
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise UserError(
            "privacy.dp: its accountant is not installed; install it with: pip install 'fedfmd[privacy]'"
        ) from None
    return dp_accounting


@lru_cache(maxsize=1024)
def _epsilon(releases: tuple[Releases, ...], delta: float) -> float:
    dp = require_accountant()
    if not releases:
        return 0.0
    if any(r.noise_multiplier == 0 for r in releases):
        return math.inf
    relation = releases[0].relation
    relations = dp.NeighboringRelation
    neighbours = relations.REPLACE_ONE if relation == "replace-one" else relations.ADD_OR_REMOVE_ONE
    accountant = dp.rdp.RdpAccountant(ORDERS, neighbours)
    try:
        for one in releases:
            accountant.compose(_event(dp, one), one.rounds)
        return float(accountant.get_epsilon(delta))
    except ArithmeticError:  # noise whose inverse square is beyond floats promises nothing
        return math.inf


def _event(dp: Any, one: Releases) -> Any:
    """Describe a round to the accountant, whose noise multiplier is over the sensitivity."""
    if one.relation == "add-or-remove-one":
        return dp.PoissonSampledDpEvent(one.cohort / one.population, dp.GaussianDpEvent(one.noise_multiplier))
    noise = dp.GaussianDpEvent(one.noise_multiplier / 2)
    return dp.SampledWithoutReplacementDpEvent(one.population, one.cohort, noise)
