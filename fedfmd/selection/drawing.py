"""Clients drawn for one round, without replacement, of those who are there."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from fedfmd.config.documents import shown
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.devices import available, presence_of
from fedfmd.errors import UserError

AVAILABILITY_TRIES = 50
"""Draws for one place before it stays empty."""


@dataclass(frozen=True)
class Draw:
    """Who was drawn, and when those come back who would have been, and were not there."""

    chosen: list[int]
    """Ascending, all different."""
    returns: list[float]
    """On the simulated clock."""
    exploited: frozenset[int] | None = None
    """Those drawn for what is known of them; null where nobody asks."""
    tier: tuple[int, int] | None = None
    """The tier that they are of, from 0, and of how many; null without tiers."""


class Drawing:
    """Clients drawn so far without replacement, in time that does not grow with the population."""

    def __init__(
        self, config: ExperimentConfig, round: int, rng: np.random.Generator, taken: set[int], now: float
    ):
        self.config, self.round, self.rng, self.now = config, round, rng, now
        self.taken = taken
        self.chosen: list[int] = []
        self.returns: list[float] = []
        """When those come back who are not there."""
        self.exploited: frozenset[int] | None = None
        self.tier: tuple[int, int] | None = None

    @property
    def done(self) -> Draw:
        """What was drawn."""
        return Draw(sorted(self.chosen), self.returns, self.exploited, self.tier)

    def fill(self, wanted: int) -> None:
        """Add clients uniformly until there are ``wanted``."""
        population = self.config.partition.clients
        if wanted * 2 <= population:  # else rejection would take long
            for _ in range(AVAILABILITY_TRIES * wanted):
                if len(self.chosen) >= wanted:
                    return
                self.offer(int(self.rng.integers(population)))
        if len(self.taken) * 2 > population or wanted * 2 > population:  # few are left, and hard to hit
            for client in self.rng.permutation(population).tolist():
                if len(self.chosen) < wanted:
                    self.offer(client)

    def offer(self, client: SupportsIndex) -> bool:
        """Take a client who is new and there; raises ``UserError`` for one that there is not.

        Raises ``TypeError`` for what is no whole number, of Python or NumPy.
        """
        client = operator.index(client)
        if not 0 <= client < self.config.partition.clients:
            raise UserError(
                f"selection.kind = {self.config.selection.kind!r}: offers client {client}; there are 0 to "
                f"{self.config.partition.clients - 1}"
            )
        if client in self.taken:
            return False
        self.taken.add(client)
        if not self._there(client):
            return False
        self.chosen.append(client)
        return True

    def check(self) -> None:
        """Raise ``UserError`` where not each of those taken is a client, once."""
        population = range(self.config.partition.clients)
        known = [client for client in self.chosen if type(client) is int and client in population]
        if len(set(known)) < len(self.chosen):
            raise UserError(
                f"selection.kind = {self.config.selection.kind!r}: has taken {shown(self.chosen)}, where "
                f"each is a number from 0 to {len(population) - 1}, once; offer them to the drawing"
            )

    def free(self, clients: Iterable[int]) -> list[int]:
        """Return those of some clients who are new and there."""
        return [client for client in clients if client not in self.taken and self._there(client)]

    def take(self, clients: Sequence[int], scores: Sequence[float], places: int) -> list[int]:
        """Draw up to ``places`` of some free clients, one after another in proportion to their scores."""
        weights = np.maximum(np.asarray(scores, dtype=np.float64), np.finfo(np.float64).tiny)
        places = min(places, len(clients))
        if places <= 0:
            return []
        picked = self.rng.choice(len(clients), places, replace=False, p=weights / weights.sum()).tolist()
        drawn = [clients[place] for place in picked]
        self.taken.update(drawn)
        self.chosen += drawn
        return drawn

    def _there(self, client: int) -> bool:
        if not self.config.selection.availability:
            return True
        if not available(self.config, client, self.round):
            return False
        presence = presence_of(self.config, client)
        if presence is None or presence.there(self.now):
            return True
        self.returns.append(presence.returns(self.now))
        return False
