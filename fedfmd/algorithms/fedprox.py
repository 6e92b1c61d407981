"""FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2).

A client minimises F_i(w) + mu/2 ||w - w_t||^2, so each gradient gets mu (w - w_t). Partial work is accepted,
as for every algorithm here. Switched on by ``client.proximal_mu`` > 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Visit
from fedfmd.config.experiment import ExperimentConfig


class FedProx(Algorithm):
    """Pull clients towards the model that they were sent."""

    name = "fedprox"
    switch = "client.proximal_mu = 0.01"
    private = True

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether there is a proximal term."""
        return config.client.proximal_mu > 0

    def client(self, visit: Visit) -> ClientSide:
        """Remember where the client begins."""
        return Proximal(visit.parameters, self.config.client.proximal_mu)


class Proximal(ClientSide):
    """The proximal term around the ``parameters`` of now."""

    alike = True

    def __init__(self, parameters: Sequence[Tensor], mu: float):
        self.anchor = [p.detach().clone() for p in parameters]
        self.mu = mu

    @torch.no_grad()
    def gradient(self, parameters: Sequence[Tensor]) -> None:
        """Add mu (w - w_t)."""
        for parameter, origin in zip(parameters, self.anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=self.mu)
