"""Faults put into clients on purpose, so that anybody can see what a run makes of them.

Which client is faulty in which round follows from the config and the seed alone, like everything random.
"""

import os
import signal
import time
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.faults import FaultKind
from fedfmd.errors import first_few
from fedfmd.seeds import numpy_rng

ABSURD_EXAMPLES = 10**15
NAMED = 20
"""Clients that a message names at most."""


class InjectedFaultError(RuntimeError):
    """The error that a client with the fault ``raise`` raises."""


def fault_of(config: ExperimentConfig, round: int, client: int) -> FaultKind | None:
    """Return a client's fault in a round, or null: from ``faults.at``, else by ``faults.probability``."""
    faults = config.faults
    for place in faults.at:
        if (place.round, place.client) == (round, client):
            return place.kind
    if not faults.probability:
        return None
    rng = numpy_rng(config.seed, "faults", round, client)
    return faults.kinds[rng.integers(len(faults.kinds))] if rng.random() < faults.probability else None


def missed(config: ExperimentConfig, round: int, asked: Collection[int]) -> list[str]:
    """Say which of ``faults.at`` came to nothing in a round, as its client was not ``asked``."""
    there = first_few(sorted(asked), NAMED)
    return [
        f"faults.at: client {place.client} is not among those of round {round}: nothing went wrong; "
        f"there are {there}"
        for place in config.faults.at
        if place.round == round and place.client not in asked
    ]


def strike_before_training(fault: FaultKind | None, hang_seconds: float) -> None:
    """Raise, end this process, or hang, if that is the fault."""
    if fault == "raise":
        raise InjectedFaultError("injected fault")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(hang_seconds)


def distort(fault: FaultKind | None, update: Tensor, examples: int) -> tuple[Tensor, int]:
    """Return the update (elements,) and example count that a client with this fault reports."""
    if fault == "nan":
        update[len(update) // 2] = torch.nan
    if fault == "shape":
        update = update[:-1]
    return update, {"zero": 0, "absurd": ABSURD_EXAMPLES}.get(fault or "", examples)


def answering(config: ExperimentConfig, round: int, clients: Sequence[int]) -> list[int]:
    """List the clients in the order of their answers; one with the fault ``duplicate`` answers twice."""
    twice = {c for c in clients if fault_of(config, round, c) == "duplicate"}
    return [c for client in clients for c in ([client, client] if client in twice else [client])]
