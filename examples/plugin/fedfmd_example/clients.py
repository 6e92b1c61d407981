"""Who has which images, who is asked, and how much a client does."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedfmd.planning.policy import PlanRequest
from fedfmd.selection.drawing import Drawing
from fedfmd.wire.plan import ClientPlan


def few_classes(
    labels: NDArray[np.int64], clients: int, rng: np.random.Generator, classes: int = 2
) -> list[NDArray[np.int64]]:
    """Return the indices of each client's images, which are of ``classes`` classes.

    Client c has the classes c, c + 1, ... and shares them evenly with the others who have them.
    """
    present = np.unique(labels)
    held: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
    for place, label in enumerate(present):
        holders = [c for c in range(clients) if (place - c) % len(present) < classes]
        shares = np.array_split(rng.permutation(np.flatnonzero(labels == label)), max(1, len(holders)))
        for client, share in zip(holders, shares, strict=False):
            held[client].append(share)
    return [np.concatenate(shares) for shares in held]


def short_start(request: PlanRequest, rounds: int = 1, steps: int = 1) -> ClientPlan:
    """Return a plan of ``steps`` steps in the first ``rounds`` rounds, and the full one after."""
    return replace(request.full, steps=steps) if request.round <= rounds else request.full


short_start.axes = ("steps",)  # type: ignore[attr-defined]


def in_turn(draw: Drawing, wanted: int) -> None:
    """Ask the clients in turn, as many as are ``wanted`` each round; a pure function of the round."""
    population = draw.config.partition.clients
    first = (draw.round - 1) * wanted
    for client in range(first, first + population):
        if len(draw.chosen) == wanted:
            return
        draw.offer(client % population)
