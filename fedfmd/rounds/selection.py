"""Who is asked in a round: a function of the seed, the round, the attempt and what is known of clients."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from statistics import median

import numpy as np

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.devices import available, presence_of
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
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
    """What is known of the clients that have been asked."""

    clients: dict[int, Known] = field(default_factory=dict)
    """Those who have answered."""
    silent: set[int] = field(default_factory=set)
    """Those who have been asked, and have never answered."""

    def update(self, rows: Sequence[ClientRow], outrun: Set[int] = frozenset()) -> None:
        """Learn from the rows of an attempt, in which the clients ``outrun`` were only slower than others.

        An update that arrived is an answer, of use or not. Who was outrun would have answered: what it took
        until the round closed is the least it takes.
        """
        for row in rows:
            if row.used or row.uplink_bytes or row.client in outrun:
                loss = row.train_loss if row.used else None
                self.clients[row.client] = Known(row.round, loss, row.device_seconds, row.examples)
        self.silent |= {row.client for row in rows}
        self.silent -= self.clients.keys()

    def to_json(self) -> Json:
        """Give it as plain data."""
        known = [[client, *asdict(known).values()] for client, known in self.clients.items()]
        return {"clients": known, "silent": sorted(self.silent)}

    @classmethod
    def from_json(cls, document: Json) -> "SelectionHistory":
        """Read it back."""
        known = {client: Known(*known) for client, *known in document["clients"]}
        return cls(known, set(document["silent"]))


@dataclass(frozen=True)
class Draw:
    """Who was drawn, and when those come back who would have been, and were not there."""

    chosen: list[int]
    """Ascending, all different."""
    returns: list[float]
    """On the simulated clock."""


def await_cohort(
    config: ExperimentConfig,
    round: int,
    attempt: int,
    history: SelectionHistory,
    *,
    needed: int,
    now: float,
    count: int | None = None,
    exclude: Set[int] = frozenset(),
    draw: Sequence[int] = (),
) -> tuple[list[int], float]:
    """Draw a cohort, and let the clock go on while fewer than ``needed`` are there; gives when they are, too.

    The clock goes from one client's return to the next, for a week at most.
    """
    began = now
    while True:
        drawn = draw_cohort(config, round, attempt, history, count, exclude, now, draw)
        if len(drawn.chosen) >= needed or not drawn.returns:
            break
        if min(drawn.returns) - began > LONGEST_WAIT_SECONDS:
            break
        now = min(drawn.returns)
    return drawn.chosen, now


def draw_cohort(
    config: ExperimentConfig,
    round: int,
    attempt: int = 0,
    history: SelectionHistory | None = None,
    count: int | None = None,
    exclude: Set[int] = frozenset(),
    now: float = 0.0,
    draw: Sequence[int] = (),
) -> Draw:
    """Draw ``count`` clients for a round, none of ``exclude``.

    By default as many as a round asks: ``selection.over_selection`` times the cohort.

    Draws fewer when that many are not available at ``now`` on the simulated clock. ``draw`` numbers the draws
    of one attempt, where there are several.
    """
    rng = numpy_rng(config.seed, "cohort", round, attempt, *(draw if any(draw) else ()))
    asked = math.ceil(config.server.cohort * config.selection.over_selection - 1e-9)
    wanted = asked if count is None else count
    wanted = min(wanted, config.partition.clients - len(exclude))
    drawn = _Draw(config, round, rng, set(exclude), now)
    known = history or SelectionHistory()
    if config.selection.kind == "oort":
        _oort(drawn, wanted, known.clients)
    elif config.selection.kind == "tifl":
        _tifl(drawn, wanted, known)
    drawn.fill(wanted)
    return Draw(sorted(drawn.chosen), drawn.returns)


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
        if wanted * 2 <= population:  # else rejection would take long
            for _ in range(AVAILABILITY_TRIES * wanted):
                if len(self.chosen) >= wanted:
                    return
                self.offer(int(self.rng.integers(population)))
        if len(self.taken) * 2 > population or wanted * 2 > population:  # few are left, and hard to hit
            for client in self.rng.permutation(population).tolist():
                if len(self.chosen) < wanted:
                    self.offer(client)

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


def _tifl(draw: _Draw, wanted: int, history: SelectionHistory) -> None:
    """Take clients of one latency tier, drawn uniformly among the tiers (Chai et al. 2020, section 4.2).

    Clients never asked come first: each is profiled once, with the round's deadline as the bound. Who does
    not answer then is left out. Tiers are fixed quantiles of the latencies; the paper's credits and tiers
    chosen by accuracy are not there.
    """
    known = history.clients
    draw.taken |= history.silent
    new = draw.config.partition.clients - len(draw.taken | known.keys())
    if new > 0:
        measured = set(known) - draw.taken
        draw.taken |= measured
        draw.fill(min(wanted, new))
        draw.taken -= measured
        return
    measured_first = sorted((k.device_seconds or 0.0, client) for client, k in known.items())
    tiers = np.array_split([c for _, c in measured_first], draw.config.selection.tiers)
    filled = [tier.tolist() for tier in tiers if len(tier)]
    if not filled:
        return
    tier = filled[int(draw.rng.integers(len(filled)))]
    for client in draw.rng.permutation(tier).tolist():
        if len(draw.chosen) < wanted:
            draw.offer(client)
