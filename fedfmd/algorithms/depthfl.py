"""DepthFL (Kim et al. 2023, "Depthwise Federated Learning for Heterogeneous Clients", eq. 4).

Clients hold the first stages of a network whose every stage has a classifier (``model.exits``), and the
exits learn from one another: the sum of their cross entropies plus w / (E - 1) times the sum of all KL
divergences. The weight w ramps up to ``client.distillation``: exp(-5 (1 - t / T)^2) of it in round t, where T
is ``client.distillation_rampup`` of ``server.horizon``, as in the authors' code. The global model is measured
as the ensemble of its exits: the mean of their logits (``fedfmd.nn.resnet``).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from fedfmd.algorithms.base import Algorithm, ClientSide, Visit
from fedfmd.config.experiment import ExperimentConfig

STEEPNESS = 5.0
"""Of the ramp, which begins at exp(-5)."""


class DepthFL(Algorithm):
    """Let the exits of a network teach one another."""

    name = "depthfl"
    switch = "model.exits = true"
    private = True

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether there are exits that learn from one another."""
        return config.model.exits and config.client.distillation > 0

    def client(self, visit: Visit) -> ClientSide:
        """Add the distillation to the client's loss."""
        return Distilled(self.distillation(visit.round))

    def distillation(self, round: int) -> float:
        """Return the weight of the distillation in a round."""
        client = self.config.client
        length = client.distillation_rampup * self.config.server.horizon_rounds
        left = max(0.0, 1 - round / length) if length else 0.0
        return client.distillation * math.exp(-STEEPNESS * left**2)


class Distilled(ClientSide):
    """A client whose exits learn from one another with that weight."""

    def __init__(self, weight: float):
        self.weight = weight

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Add the divergences of two or more exits, ``logits`` (E, B, classes)."""
        del labels
        return loss + self.weight * mutual_divergence(logits) if len(logits) > 1 else loss


def mutual_divergence(logits: Tensor) -> Tensor:
    """Sum over ordered pairs of exits of KL(p_other || p_exit), by E-1; the other one is held fixed.

    ``logits`` (E, B, classes), E at least 2, give a scalar in nats, the mean over the batch.
    """
    logs = log_softmax(logits, 2)
    pairs = [
        kl_div(logs[exit], logs[other].detach(), reduction="batchmean", log_target=True)
        for exit in range(len(logs))
        for other in range(len(logs))
        if exit != other
    ]
    return torch.stack(pairs).sum() / (len(logs) - 1)
