"""Who is asked in a round: a function of the seed, the round, the attempt and what is known of clients.

A selection is a part of the kind ``selection``: a function of a ``Drawing``, to which it offers clients, and
of those of ``wanted, history, profiles`` and its options that it takes. Places that it leaves are filled
uniformly. It states ``timed`` when it needs to know the clients' devices, ``learns = False`` when it looks at
no history, ``looks_at_losses`` when it needs the losses there, ``tiered`` when it draws from latency tiers,
and ``independent`` when it leaves no places: each client is drawn, or not, by itself.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.contracts import make
from fedfmd.errors import UserError
from fedfmd.registry import register, takes
from fedfmd.seeds import numpy_rng
from fedfmd.selection.drawing import Draw, Drawing
from fedfmd.selection.history import SelectionHistory
from fedfmd.selection.oort import Profiles, draw_by_utility
from fedfmd.selection.tifl import draw_of_a_tier

LONGEST_WAIT_SECONDS = 7 * 86_400
"""On the simulated clock, for clients to come back."""


@dataclass(frozen=True)
class Selector:
    """Draws the cohorts of a run by what is known of its clients."""

    config: ExperimentConfig
    history: SelectionHistory = field(default_factory=SelectionHistory)
    profiles: Profiles | None = None
    """What is known of all clients before they are used; null where they count as alike."""
    seed: int | None = None
    """Draws in the place of the config's; null for that one."""

    def draw(
        self,
        round: int,
        attempt: int = 0,
        *,
        count: int | None = None,
        exclude: Set[int] = frozenset(),
        now: float = 0.0,
        turn: Sequence[int] = (),
    ) -> Draw:
        """Draw ``count`` clients for a round, none of ``exclude``.

        By default as many as a round asks: ``selection.over_selection`` times the cohort. Draws fewer when
        that many are not available at ``now`` on the simulated clock. ``turn`` numbers the draws of one
        attempt, where there are several. Raises ``UserError`` for what a selection of one's own does wrongly.
        """
        seed = self.config.seed if self.seed is None else self.seed
        rng = numpy_rng(seed, "cohort", round, attempt, *(turn if any(turn) else ()))
        wanted = min(self._asked if count is None else count, self.config.partition.clients - len(exclude))
        drawn = Drawing(self.config, round, rng, set(exclude), now)
        self._select(drawn, wanted)
        drawn.check()
        if not self.config.selection.independent:
            self._check_places(drawn, wanted)
            drawn.fill(wanted)
        return drawn.done

    def draw_from_those_there(
        self,
        round: int,
        attempt: int = 0,
        *,
        needed: int,
        now: float,
        count: int | None = None,
        exclude: Set[int] = frozenset(),
        turn: Sequence[int] = (),
    ) -> tuple[Draw, float]:
        """Draw as ``draw`` does once ``needed`` clients are there; gives when they are, too.

        The clock goes from one client's return to the next, for a week at most.
        """
        began = now
        while True:
            drawn = self.draw(round, attempt, count=count, exclude=exclude, now=now, turn=turn)
            if len(drawn.chosen) >= needed or not drawn.returns:
                break
            if min(drawn.returns) - began > LONGEST_WAIT_SECONDS:
                break
            now = min(drawn.returns)
        return drawn, now

    @property
    def _asked(self) -> int:
        return math.ceil(self.config.server.cohort * self.config.selection.over_selection - 1e-9)

    def _select(self, drawn: Drawing, wanted: int) -> None:
        """Let the config's selection offer clients; raises ``UserError`` where it returns something."""
        kind = self.config.selection.kind
        options = self.config.own("selection")
        returned = make(
            "selection", kind, drawn, wanted=wanted, history=self.history, **self._profiles, **options
        )
        if returned is not None:
            raise UserError(
                f"selection.kind = {kind!r}: returns a {type(returned).__name__}, where a selection offers "
                "clients to its drawing and returns nothing"
            )

    @cached_property
    def _profiles(self) -> dict[str, Profiles]:
        """What a selection is given that asks for it: a list of all clients, however many there are."""
        if not takes("selection", self.config.selection.kind, "profiles"):
            return {}
        return {"profiles": self.profiles or Profiles.alike(self.config.partition.clients)}

    def _check_places(self, drawn: Drawing, wanted: int) -> None:
        if len(drawn.chosen) > wanted:
            raise UserError(
                f"selection.kind = {self.config.selection.kind!r}: takes {len(drawn.chosen)} clients where "
                f"{wanted} are wanted; offer no more, or state independent = True, where "
                "each client is drawn by itself"
            )


@register("selection", "uniform", learns=False)
def draw_uniformly(draw: Drawing) -> None:
    """Leave all places to be filled uniformly."""
    del draw


@register("selection", "poisson", learns=False, independent=True)
def draw_independently(draw: Drawing) -> None:
    """Let each client take part with probability cohort / population, whoever else does."""
    population = draw.config.partition.clients
    chance = draw.config.server.cohort / population
    for client in np.flatnonzero(draw.rng.random(population) < chance).tolist():
        draw.offer(client)


register("selection", "oort", timed=True, looks_at_losses=True)(draw_by_utility)
register("selection", "tifl", timed=True, tiered=True)(draw_of_a_tier)
