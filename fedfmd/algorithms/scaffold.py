"""SCAFFOLD (Karimireddy et al. 2020, "Stochastic Controlled Averaging", algorithm 1, option II).

Each step follows g_i(y) - c_i + c. After K steps c_i+ = c_i - c + (x - y_i) / (K lr), and the server moves
c by |S|/N of the mean change of the c_i (line 17). Clients weigh the same. The correction comes after
clipping. Switched on by ``client.scaffold``; it needs plain SGD and clients that hold the whole model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.vector import Layout

CONTROL = "control"


class Scaffold(Algorithm):
    """Correct every step by the difference of the server's and the client's control variate."""

    name = "scaffold"
    keeps = (CONTROL,)

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether there are control variates."""
        return config.client.scaffold

    def extra_elements(self, layout: Layout) -> int:
        """Count the control's elements, one per parameter."""
        return layout.parameters

    def weight(self, weight: int, staleness: int) -> int:
        """Let all clients weigh the same."""
        del staleness
        return min(weight, 1)

    def client(self, visit: Visit) -> ClientSide:
        """Correct this client's steps."""
        return Controlled(visit)

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        """Move the server's control: c += |S|/N mean(c_i+ - c_i)."""
        share = len(collected.rows) / collected.population
        return (extra.double() + share * mean_extra).float()


class Controlled(ClientSide):
    """A client with a control variate, zero before its first round."""

    def __init__(self, visit: Visit):
        self.control, self.learning_rate = visit.extra, visit.learning_rate
        self.own = visit.kept.get(CONTROL, torch.zeros_like(self.control))
        self.corrections = visit.by_parameter(self.control - self.own)

    def direction(self, parameters: Sequence[Tensor]) -> None:
        """Add c - c_i."""
        for parameter, correction in zip(parameters, self.corrections, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(correction)

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Keep the next control variate, and send its change."""
        moved = update[: len(self.control)]
        new = next_control(self.own, self.control, moved, steps, self.learning_rate)
        return Finished(update=update, extra=new - self.own, kept={CONTROL: new})


def next_control(own: Tensor, control: Tensor, moved: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Return c_i - c + (x - y_i) / (K lr), all (parameters,), for ``moved`` = y_i - x after K ``steps``."""
    return own - control - moved / (max(steps, 1) * learning_rate)
