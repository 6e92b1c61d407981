"""Oort (Lai et al. 2021, "Efficient Federated Learning via Guided Participant Selection").

As its reference implementation has it, whose every constant is a key of ``[selection]``. Of the places of a
round, a share goes to clients that were never used (exploration), the rest to those of most utility:

- Utility u = n sqrt(mean squared loss) of the examples of a client's first local epoch.
- Score = (min(u, clip) - 0.999 least u) / (most u - 0.999 least u) + sqrt(bonus ln(round) / last round), and
  times (T / t)^slowness for a client that takes t > T seconds. ``clip`` is a percentile of the utilities.
- Exploited clients are drawn in proportion to their score, among those above ``cut_off`` times the score at
  the first place that is not to be filled; explored ones in proportion to their examples, times (T / t)^
  slowness, among the best ``window`` times the places.
- T is a percentile of all durations. The pacer moves it every ``pacer_rounds``: up where the utility that was
  exploited hardly changed, down where it changed sharply.
- Who was used more than ``blacklist_after`` times is left out, at most a share of all clients.

Other than there, the utilities of clients that were never used, which are their examples, do not enter the
range of the others' scores, and exploration ends at once when nobody is unexplored. Who was asked and did
not answer, as a client whose budget no plan fits, is not explored again, and is asked only where others are
too few. A client that was never used takes as long as its full plan would. Time is proportional to the
population.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedfmd.config.sections.selection import SelectionConfig
from fedfmd.selection.drawing import Drawing
from fedfmd.selection.history import Known, SelectionHistory

LEAST_SHARE = 0.999
"""Of the smallest utility, which scores a little above 0 so."""
LEAST_RANGE = 1e-4


@dataclass(frozen=True)
class Profiles:
    """What is known of all clients before they are used."""

    examples: Sequence[int]
    seconds: Sequence[float | None]
    """That the full plan takes a client's device."""

    @classmethod
    def alike(cls, clients: int) -> "Profiles":
        """Return those of clients of which nothing is known."""
        return cls([1] * clients, [None] * clients)


def draw_by_utility(draw: Drawing, wanted: int, history: SelectionHistory, profiles: Profiles) -> None:
    """Draw ``wanted`` clients: those of utility, then unused ones; the rest is filled uniformly."""
    config, known = draw.config.selection, history.clients
    population = draw.config.partition.clients
    left_out = blacklist(config, known, population) - draw.taken
    draw.taken |= left_out
    threshold = preferred_seconds(config, history, profiles, draw.round)
    asked = known.keys() | history.silent
    unused = [client for client in range(population) if client not in asked]
    share = exploration(config, draw.round) if unused else 0.0
    used = draw.free(sorted(known))
    places = min(int(wanted * (1 - share) + 1e-9), len(used))
    if places:
        scores = utility_scores(config, {c: known[c] for c in used}, draw.round, threshold)
        draw.exploited = frozenset(_exploit(draw, config, scores, places))
    else:
        draw.exploited = frozenset()
    _explore(draw, draw.free(unused), wanted - len(draw.chosen), threshold, profiles)
    draw.fill(wanted)
    draw.taken -= left_out


def exploration(config: SelectionConfig, round: int) -> float:
    """Return the share of a round's places that is for clients never used."""
    return max(config.exploration * config.exploration_decay**round, config.exploration_least)


def utility_scores(
    config: SelectionConfig, known: Mapping[int, Known], round: int, preferred: float
) -> dict[int, float]:
    """Return Oort's score of every client, at least 0; ``preferred`` is T in device seconds."""
    positive = sorted(k.utility for k in known.values() if k.utility > 0) or [0.0]
    clip = positive[min(int(len(positive) * config.clip_percentile), len(positive) - 1)]
    least = positive[0] * LEAST_SHARE
    span = max(positive[-1] - least, LEAST_RANGE)
    return {
        client: max(
            0.0,
            ((min(k.utility, clip) - least) / span + _bonus(config, k, round))
            * _slowness(config, k.device_seconds, preferred),
        )
        for client, k in known.items()
    }


def blacklist(config: SelectionConfig, known: Mapping[int, Known], population: int) -> set[int]:
    """Return the clients that were used too often, those used most first."""
    if not config.blacklist_after:
        return set()
    often = [client for client, k in known.items() if k.uses > config.blacklist_after]
    often.sort(key=lambda client: (-known[client].uses, client))
    return set(often[: int(config.blacklist_share * population)])


def preferred_seconds(
    config: SelectionConfig, history: SelectionHistory, profiles: Profiles, round: int
) -> float:
    """Return T: the given one, or the pacer's percentile of all durations."""
    if config.preferred_seconds is not None:
        return config.preferred_seconds
    percentile = paced(config, history.exploited, round)
    if percentile >= 1:
        return math.inf
    profiled = enumerate(profiles.seconds)
    known = history.clients
    durations = sorted(
        seconds
        for client, full in profiled
        if (seconds := known[client].device_seconds if client in known else full) is not None
    )
    return durations[min(int(len(durations) * percentile), len(durations) - 1)] if durations else math.inf


def paced(config: SelectionConfig, exploited: Mapping[int, float], round: int) -> float:
    """Return the percentile of durations that T is in a ``round``, as the pacer has moved it by then."""
    every, percentile = config.pacer_rounds, config.preferred_percentile
    for moment in range(2 * every, round + 1, every):
        now = sum(exploited.get(r, 0.0) for r in range(moment - every, moment))
        before = sum(exploited.get(r, 0.0) for r in range(moment - 2 * every, moment - every))
        if abs(now - before) <= config.pacer_flat * before:
            percentile = min(1.0, percentile + config.pacer_step)
        elif abs(now - before) >= config.pacer_sharp * before:
            percentile = max(config.pacer_step, percentile - config.pacer_step)
    return percentile


def _exploit(
    draw: Drawing, config: SelectionConfig, scores: Mapping[int, float], places: int
) -> Sequence[int]:
    best = sorted(scores, key=lambda client: (-scores[client], client))
    least = scores[best[min(places, len(best) - 1)]] * config.cut_off
    good = [client for client in best if scores[client] >= least]
    return draw.take(good, [scores[client] for client in good], places)


def _explore(draw: Drawing, unused: Sequence[int], places: int, preferred: float, profiles: Profiles) -> None:
    config = draw.config.selection
    places = min(places, len(unused))
    worth = {c: profiles.examples[c] * _slowness(config, profiles.seconds[c], preferred) for c in unused}
    best = sorted(unused, key=lambda client: (-worth[client], client))[: int(config.window * places)]
    draw.take(best, [worth[client] for client in best], places)


def _bonus(config: SelectionConfig, known: Known, round: int) -> float:
    """Return what is added for a client that was not used for long."""
    return math.sqrt(config.staleness_bonus * math.log(max(round, 1)) / max(known.round, 1))


def _slowness(config: SelectionConfig, seconds: float | None, preferred: float) -> float:
    """Return the factor of a client that takes so many ``seconds``."""
    slow = seconds is not None and seconds > preferred
    return float(np.power(preferred / seconds, config.slowness_exponent)) if slow and seconds else 1.0
