"""TiFL (Chai et al. 2020, "TiFL: A Tier-based Federated Learning System", section 4 and algorithm 2).

Clients never asked come first: each is profiled once, with the round's deadline as the bound, and who does
not answer then is left out. The others fall into tiers, quantiles of their latencies. A round's clients are
of one tier, which is drawn by the tiers' probabilities among those with credits left; each choice costs one.
Every ``selection.adapt_every`` rounds the tiers' accuracies are measured; where that of the tier chosen last
has not grown, probabilities become (n - i) / D, for the i-th worst of the n tiers with credits and D =
n (n - 1) / 2: the worse a tier, the likelier, and the best one never.

When no tier has credits left, all may be chosen again.
"""

from collections.abc import Sequence

import numpy as np

from fedfmd.config.sections.selection import SelectionConfig
from fedfmd.selection.drawing import Drawing
from fedfmd.selection.history import SelectionHistory, TierHistory


def draw_of_a_tier(draw: Drawing, wanted: int, history: SelectionHistory) -> None:
    """Draw clients never asked, or else ``wanted`` ones of one tier."""
    known = history.clients
    draw.taken |= history.silent
    new = draw.config.partition.clients - len(draw.taken | known.keys())
    if new > 0:
        measured = set(known) - draw.taken
        draw.taken |= measured
        draw.fill(min(wanted, new))
        draw.taken -= measured
        return
    tiers = latency_tiers(draw.config.selection, history)
    if not tiers:
        return
    chances = tier_chances(draw.config.selection, history.tiers, len(tiers))
    tier = int(draw.rng.choice(len(tiers), p=chances))
    draw.tier = tier, len(tiers)
    for client in draw.rng.permutation(tiers[tier]).tolist():
        if len(draw.chosen) < wanted:
            draw.offer(client)


def latency_tiers(config: SelectionConfig, history: SelectionHistory) -> list[list[int]]:
    """Return the tiers of all clients that were measured, the fastest first; none is empty."""
    by_latency = sorted((k.device_seconds or 0.0, client) for client, k in history.clients.items())
    split = np.array_split([client for _, client in by_latency], config.tiers)
    return [tier.tolist() for tier in split if len(tier)]


def tier_chances(config: SelectionConfig, history: TierHistory, tiers: int) -> list[float]:
    """Return the probability of each of so many ``tiers``: 0 for those without credits, while some have."""
    chances = history.probabilities if len(history.probabilities) == tiers else [1 / tiers] * tiers
    left = credits_left(config, history, tiers)
    allowed = [chance if has else 0.0 for chance, has in zip(chances, left, strict=True)]
    if not sum(allowed):  # what is allowed has no chance of its own
        allowed = [float(has) for has in left]
    return [chance / sum(allowed) for chance in allowed]


def credits_left(config: SelectionConfig, history: TierHistory, tiers: int) -> list[bool]:
    """Say of each of so many ``tiers`` whether it may be chosen; all may when none has credits left."""
    uses = history.uses + [0] * (tiers - len(history.uses))
    left = [config.tier_credits is None or used < config.tier_credits for used in uses[:tiers]]
    return left if any(left) else [True] * tiers


def adapt(config: SelectionConfig, history: TierHistory, accuracies: Sequence[float]) -> None:
    """Learn the tiers' ``accuracies``, and change the probabilities where the last tier stands still."""
    before, tier = history.accuracies, history.last
    if tier is not None and len(before) == len(accuracies) and accuracies[tier] <= before[tier]:
        history.probabilities = changed_chances(accuracies, credits_left(config, history, len(accuracies)))
    history.accuracies = list(accuracies)


def changed_chances(accuracies: Sequence[float], left: Sequence[bool]) -> list[float]:
    """Return (n - i) / D for the i-th worst of the n tiers with credits ``left``, and 0 for the others."""
    worst_first = sorted((a, tier) for tier, a in enumerate(accuracies) if left[tier])
    n = len(worst_first)
    chances = [0.0] * len(accuracies)
    for place, (_, tier) in enumerate(worst_first, start=1):
        chances[tier] = (n - place) / (n * (n - 1) / 2) if n > 1 else 1.0
    return chances
