"""Who is asked in a round: a function of the seed, the round, the attempt and what is known of clients."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from fedfmd.config import ExperimentConfig
from fedfmd.devices import available, presence_of
from fedfmd.records.rows import ClientRow
from fedfmd.seeds import numpy_rng

LEAST_EXPLORATION = 0.3
EXPLORATION_DECAY = 0.98
"""A round (Lai et al. 2021, section 7.1)."""
SLOWNESS_EXPONENT = 2
STALENESS_FACTOR = 0.1
AVAILABILITY_TRIES = 50
"""Draws for one place before it stays empty."""
LONGEST_WAIT_SECONDS = 7 * 86_400
"""On the simulated clock, for clients to come back."""


@dataclass(frozen=True)
class Known:
    """What a client's last use told."""

    round: int
    loss: float | None
    device_seconds: float | None
    examples: int


@dataclass
class SelectionHistory:
    """What is known of the clients that have taken part."""

    clients: dict[int, Known] = field(default_factory=dict)

    def update(self, rows: Iterable[ClientRow]) -> None:
        """Learn from a round's rows."""
        for row in rows:
            if row.used:
                self.clients[row.client] = Known(row.round, row.train_loss, row.device_seconds, row.examples)

    def to_json(self) -> list[Any]:
        """Give it as plain data."""
        return [[client, *asdict(known).values()] for client, known in self.clients.items()]

    @classmethod
    def from_json(cls, document: Sequence[Sequence[Any]]) -> "SelectionHistory":
        """Read it back."""
        return cls({client: Known(*known) for client, *known in document})


def draw_cohort(
    config: ExperimentConfig,
    round: int,
    attempt: int = 0,
    history: SelectionHistory | None = None,
    exclude: frozenset[int] = frozenset(),
    count: int | None = None,
    now: float = 0.0,
) -> list[int]:
    """Draw a round's clients, ascending and all different; ``exclude`` are at work already.

    Asks for ``selection.over_selection`` times the cohort. Gives fewer when that many are not available at
    ``now`` on the simulated clock.
    """
    return sorted(_draw(config, round, attempt, history, exclude, count, now).chosen)


def await_cohort(
    config: ExperimentConfig,
    round: int,
    attempt: int,
    history: SelectionHistory,
    exclude: frozenset[int],
    count: int,
    now: float,
) -> tuple[list[int], float]:
    """Draw a cohort, and let the clock go on while too few clients are there; gives when they are, too.

    Too few are fewer than ``server.min_completed`` with those at work. The clock goes from one client's
    return to the next, for a week at most.
    """
    needed = min(count, config.server.min_completed - len(exclude))
    began = now
    while True:
        draw = _draw(config, round, attempt, history, exclude, count, now)
        if len(draw.chosen) >= needed or not draw.returns:
            break
        if min(draw.returns) - began > LONGEST_WAIT_SECONDS:
            break
        now = min(draw.returns)
    return sorted(draw.chosen), now


def _draw(
    config: ExperimentConfig,
    round: int,
    attempt: int,
    history: SelectionHistory | None,
    exclude: frozenset[int],
    count: int | None,
    now: float,
) -> "_Draw":
    rng = numpy_rng(config.seed, "cohort", round, attempt)
    wanted = math.ceil(
        (config.server.cohort if count is None else count) * config.selection.over_selection - 1e-9
    )
    wanted = min(wanted, config.partition.clients - len(exclude))
    draw = _Draw(config, round, rng, set(exclude), now)
    known = (history or SelectionHistory()).clients
    if config.selection.kind == "oort":
        _oort(draw, wanted, known)
    elif config.selection.kind == "tifl":
        _tifl(draw, wanted, known)
    draw.fill(wanted)
    return draw


class _Draw:
    """Clients drawn so far without replacement, in time that does not grow with the population."""

    def __init__(
        self, config: ExperimentConfig, round: int, rng: np.random.Generator, taken: set[int], now: float
    ):
        self.config, self.round, self.rng, self.now = config, round, rng, now
        self.taken = taken
        self.chosen: list[int] = []
        self.returns: list[float] = []
        """When those come back who are not there."""

    def fill(self, wanted: int) -> None:
        """Add clients uniformly until there are ``wanted``."""
        population = self.config.partition.clients
        if wanted * 2 > population:  # rejection would take long
            for client in self.rng.permutation(population).tolist():
                if len(self.chosen) < wanted:
                    self.offer(client)
            return
        for _ in range(AVAILABILITY_TRIES * wanted):
            if len(self.chosen) == wanted:
                return
            self.offer(int(self.rng.integers(population)))

    def offer(self, client: int) -> bool:
        """Take a client who is new and there."""
        if client in self.taken:
            return False
        self.taken.add(client)
        if self.config.selection.availability and not self._there(client):
            return False
        self.chosen.append(client)
        return True

    def _there(self, client: int) -> bool:
        if not available(self.config, client, self.round):
            return False
        presence = presence_of(self.config, client)
        if presence is None or presence.there(self.now):
            return True
        self.returns.append(presence.returns(self.now))
        return False


def _oort(draw: _Draw, wanted: int, known: Mapping[int, Known]) -> None:
    """Take the clients of largest utility for the places that exploration leaves."""
    config = draw.config.selection
    share = max(LEAST_EXPLORATION, config.exploration * EXPLORATION_DECAY ** (draw.round - 1))
    places = wanted - round(share * wanted)
    preferred = config.preferred_seconds or median(
        [k.device_seconds for k in known.values() if k.device_seconds is not None] or [math.inf]
    )
    values = {client: oort_utility(k, draw.round, preferred) for client, k in known.items()}
    for client in sorted(values, key=lambda c: (-values[c], c)):
        if len(draw.chosen) >= places:
            break
        draw.offer(client)


def oort_utility(known: Known, round: int, preferred_seconds: float) -> float:
    """Give Oort's utility of a client (Lai et al. 2021, eq. 1 and 2, with its bonus for long absence).

    n * sqrt(mean squared loss), here of the mean loss, times (T/t)^2 for a client slower than T, plus
    sqrt(0.1 ln(round) / last round).
    """
    statistical = known.examples * abs(known.loss or 0.0)
    slow = known.device_seconds is not None and known.device_seconds > preferred_seconds
    if slow and known.device_seconds:
        statistical *= (preferred_seconds / known.device_seconds) ** SLOWNESS_EXPONENT
    return statistical + math.sqrt(STALENESS_FACTOR * math.log(max(round, 1)) / max(known.round, 1))


def _tifl(draw: _Draw, wanted: int, known: Mapping[int, Known]) -> None:
    """Take clients of one latency tier, drawn uniformly among the tiers (Chai et al. 2020).

    Clients not measured yet come first, so that everybody gets a tier.
    """
    measured = sorted((k.device_seconds or 0.0, client) for client, k in known.items())
    if len(measured) < draw.config.partition.clients:
        draw.taken |= set(known)
        draw.fill(min(wanted, draw.config.partition.clients - len(known)))
        draw.taken -= set(known) - set(draw.chosen)
        return
    tiers = [t.tolist() for t in np.array_split([c for _, c in measured], draw.config.selection.tiers)]
    tier = tiers[int(draw.rng.integers(len(tiers)))]
    for client in draw.rng.permutation(tier).tolist():
        if len(draw.chosen) < wanted:
            draw.offer(client)
