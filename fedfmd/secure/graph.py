"""Who masks with whom (Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead").

With few clients every pair shares a mask. With many a client has ``degree`` neighbours in a Harary graph over
a random order: those next to it on a ring. What remains of the ring when colluders and drop-outs are taken
away must hang together, for else the sums of its pieces could be told; it does unless half a degree of them
stand in a row somewhere, which has a chance of at most clients * (share of them)^(degree / 2).

Deviation: where clients hold parts of the model every pair shares a mask, so that the holders of each block
of elements hang together by themselves.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, log2

import numpy as np

LOST_SHARE = 0.3
"""Colluders and drop-outs, of all clients, up to which the graph hangs together."""
SECURITY_BITS = 40
"""It falls apart with a chance of at most 2**-SECURITY_BITS, in one round."""


def degree_for(clients: int, *, parts: bool) -> int:
    """Return how many neighbours each of so many clients has."""
    everybody = clients - 1
    if parts or everybody < 2:
        return everybody
    half = ceil((SECURITY_BITS + log2(clients)) / log2(1 / LOST_SHARE))
    return min(everybody, 2 * half)


def neighbours(client: int, clients: Sequence[int], degree: int, seed: int) -> tuple[int, ...]:
    """Return the neighbours of one of the ``clients``, ascending; a relation that goes both ways.

    ``degree`` is even, or one less than the clients; ``seed`` draws the order.
    """
    order = sorted(clients)
    if degree >= len(order) - 1:
        return tuple(other for other in order if other != client)
    ring, places = _ring(tuple(order), seed)
    place, half = places[client], degree // 2
    near = [*range(-half, 0), *range(1, half + 1)]
    return tuple(sorted(ring[(place + step) % len(ring)] for step in near))


@lru_cache(maxsize=4)
def _ring(clients: tuple[int, ...], seed: int) -> tuple[list[int], dict[int, int]]:
    """Draw the order in which clients stand in a circle, and where each stands."""
    ring: list[int] = np.random.default_rng(seed).permutation(clients).tolist()
    return ring, {client: place for place, client in enumerate(ring)}


def needed_shares(degree: int, threshold: float) -> int:
    """Return how many of a secret's holders, ``degree`` neighbours and its owner, give it back."""
    return ceil(threshold * (degree + 1) - 1e-9)
