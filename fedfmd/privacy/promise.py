"""What a config promises each client: its accountant's terms, and the rounds that they allow."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import UserError
from fedfmd.privacy.accountant import (
    Relation,
    Releases,
    default_delta,
    epsilon,
    noise_for,
    require_accountant,
    rounds_within,
)


@dataclass(frozen=True)
class Promise:
    """That whoever sees every global model learns at most so much of one client."""

    one: Releases
    """What a round releases."""
    delta: float
    budget: float | None
    """Most epsilon; null for as much as the rounds take."""

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Promise":
        """Return what a config promises.

        A target epsilon is solved for the rounds of ``server.horizon``, so that more rounds later leave the
        noise as it was. Raises ``UserError`` where that cannot be, or the accountant is not installed.
        """
        require_accountant()
        privacy, population = config.privacy, config.partition.clients
        relation: Relation = "add-or-remove-one" if config.selection.independent else "replace-one"
        delta = privacy.delta or default_delta(population)
        one = Releases(0.0, config.server.cohort, population, relation)
        if privacy.epsilon is None:
            noise = privacy.noise_multiplier or 0.0
        else:
            noise = noise_for(privacy.epsilon, delta, replace(one, rounds=config.server.horizon_rounds))
        return cls(replace(one, noise_multiplier=noise), delta, privacy.epsilon_budget)

    def epsilon(self, releases: Iterable[Releases]) -> float | None:
        """Return what releases come to; null where they are without noise, and nothing is promised."""
        found = epsilon(releases, self.delta)
        return found if math.isfinite(found) else None

    def after(self, rounds: int) -> float | None:
        """Return what the first ``rounds`` come to."""
        return self.epsilon([replace(self.one, rounds=rounds)] if rounds else [])

    def rounds_left(self, before: Iterable[Releases] = ()) -> int | None:
        """Return how many more rounds the budget allows behind those ``before``; null without a budget."""
        return None if self.budget is None else rounds_within(self.budget, self.delta, before, self.one)

    def check(self) -> None:
        """Raise ``UserError`` where the budget is not enough for one round."""
        if self.rounds_left() == 0:
            taken = self.after(1)
            raise UserError(
                f"privacy.epsilon_budget = {self.budget:g}: the first round takes "
                f"{'more than can be counted' if taken is None else f'{taken:.3g}'}; allow "
                "more, raise privacy.noise_multiplier, or let fewer of the clients take part in a round"
            )
