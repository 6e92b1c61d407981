"""Who is asked in a round: a function of the seed, the round, the attempt and what is known of clients.

A selection is a part of the kind ``selection``: a function of a ``Drawing``, to which it offers clients, and
of those of ``wanted, history, profiles`` and its options that it takes. Places that it leaves are filled
uniformly. It states ``timed`` when it needs to know the clients' devices, ``learns = False`` when it looks at
no history, ``looks_at_losses`` when it needs the losses there, ``tiered`` when it draws from latency tiers,
and ``independent`` when it leaves no places: each client is drawn, or not, by itself.
"""

import math
from collections.abc import Sequence, Set

import numpy as np

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.contracts import make
from fedfmd.errors import UserError
from fedfmd.registry import register
from fedfmd.seeds import numpy_rng
from fedfmd.selection.drawing import Draw, Drawing
from fedfmd.selection.history import SelectionHistory
from fedfmd.selection.oort import Profiles, draw_by_utility
from fedfmd.selection.tifl import draw_of_a_tier

LONGEST_WAIT_SECONDS = 7 * 86_400
"""On the simulated clock, for clients to come back."""


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
    profiles: Profiles | None = None,
    seed: int | None = None,
) -> tuple[Draw, float]:
    """Draw a cohort, and let the clock go on while fewer than ``needed`` are there; gives when they are, too.

    The clock goes from one client's return to the next, for a week at most.
    """
    began = now
    while True:
        drawn = draw_cohort(config, round, attempt, history, count, exclude, now, draw, profiles, seed)
        if len(drawn.chosen) >= needed or not drawn.returns:
            break
        if min(drawn.returns) - began > LONGEST_WAIT_SECONDS:
            break
        now = min(drawn.returns)
    return drawn, now


def draw_cohort(
    config: ExperimentConfig,
    round: int,
    attempt: int = 0,
    history: SelectionHistory | None = None,
    count: int | None = None,
    exclude: Set[int] = frozenset(),
    now: float = 0.0,
    draw: Sequence[int] = (),
    profiles: Profiles | None = None,
    seed: int | None = None,
) -> Draw:
    """Draw ``count`` clients for a round, none of ``exclude``.

    By default as many as a round asks: ``selection.over_selection`` times the cohort.

    Draws fewer when that many are not available at ``now`` on the simulated clock. ``draw`` numbers the draws
    of one attempt, where there are several. ``profiles`` say what is known of clients before they are used.
    ``seed`` takes the place of the config's.
    """
    rng = numpy_rng(
        config.seed if seed is None else seed, "cohort", round, attempt, *(draw if any(draw) else ())
    )
    asked = math.ceil(config.server.cohort * config.selection.over_selection - 1e-9)
    wanted = asked if count is None else count
    wanted = min(wanted, config.partition.clients - len(exclude))
    drawn = Drawing(config, round, rng, set(exclude), now)
    returned = make(
        "selection",
        config.selection.kind,
        drawn,
        wanted=wanted,
        history=history or SelectionHistory(),
        profiles=profiles or Profiles.alike(config.partition.clients),
        **config.own("selection"),
    )
    if returned is not None:
        raise UserError(
            f"selection.kind = {config.selection.kind!r}: returns a {type(returned).__name__}, where a "
            "selection offers clients to its drawing and returns nothing"
        )
    drawn.check()
    if not config.selection.independent:
        if len(drawn.chosen) > wanted:
            raise UserError(
                f"selection.kind = {config.selection.kind!r}: takes {len(drawn.chosen)} clients where "
                f"{wanted} are wanted; offer no more, or state independent = True, where "
                "each client is drawn by itself"
            )
        drawn.fill(wanted)
    return drawn.done


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
