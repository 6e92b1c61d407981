"""What the server makes of the updates and does with that, and an algorithm of clients and server."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedfmd.algorithms import Algorithm, ClientSide, Finished, Section, Visit


def geometric_median(updates: Sequence[Tensor], examples: Sequence[int], iterations: int = 4) -> Tensor:
    """Return the update that is nearest to all, by Weiszfeld's method (Pillutla et al. 2022, RFA).

    ``updates`` are float64 (elements,), one for each client of the round, and weigh their ``examples``.
    """
    points = torch.stack(list(updates))
    weights = torch.tensor(examples, dtype=torch.float64)
    middle = weights / weights.sum() @ points
    for _ in range(iterations):
        pull = weights / (points - middle).norm(dim=1).clamp_min(1e-6)
        middle = pull / pull.sum() @ points
    return middle


class SignMomentum:
    """Step by the sign of a momentum of the mean updates (Bernstein et al. 2018, Signum)."""

    step_size = 0.001
    """Learning rate where ``server.learning_rate`` gives none."""

    def __init__(self, learning_rate: float, momentum: float):
        self.learning_rate, self.momentum = learning_rate, momentum
        self.state: dict[str, Tensor] = {}

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Return the next state, float32 (elements,)."""
        before = self.state.get("velocity", torch.zeros_like(mean_update))
        velocity = before.mul(self.momentum).add_(mean_update, alpha=1 - self.momentum)
        self.state["velocity"] = velocity
        return weights.double().add_(velocity.sign(), alpha=self.learning_rate).float()


class BoundedOptions(Section):
    """The table ``[algorithms.bounded]``."""

    norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of an update's parameters."""


class Bounded(Algorithm):
    """Scale long updates down (McMahan et al. 2018, section 2)."""

    name = "bounded"
    Options = BoundedOptions

    def client(self, visit: Visit) -> ClientSide:
        """Return what happens while one client trains."""
        return BoundedClient(visit.layout.parameters, self.options.norm)


class BoundedClient(ClientSide):
    """A client whose update is no longer than ``norm``."""

    def __init__(self, parameters: int, norm: float):
        self.parameters, self.norm = parameters, norm

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Return what is sent; the buffers behind the parameters stay as they are."""
        del steps
        moved = update[: self.parameters]
        moved *= min(1.0, self.norm / max(float(moved.norm()), 1e-30))
        return Finished(update=update)
