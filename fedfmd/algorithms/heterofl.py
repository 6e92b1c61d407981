"""HeteroFL (Diao et al. 2021, "Computation and Communication Efficient Federated Learning").

Clients hold the first ceil(r C) channels of every layer (``policy.kind = "width"``; which elements these are
is ``fedfmd.nn.submodel``'s), and each element's mean is over its holders, of the classifier's rows over those
that have the label (``fedfmd.algorithms.label_rows``). Rates are those that a client's budget allows or, with
``policy.rates = "drawn"``, drawn anew for each client and round. Two switches of its own: ``client.scaler``
divides the output of every convolution by r in training, and ``client.masked_loss`` sets the logits of
classes that a client lacks to 0.
"""

import torch
from torch import Tensor, nn

from fedfmd.algorithms.base import Algorithm, ClientSide, PartSource, Trained, Visit
from fedfmd.algorithms.fjord import FjORD
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.submodel import Share


class HeteroFL(Algorithm):
    """Scale narrow networks, and mask the classes that a client lacks."""

    name = "heterofl"
    switch = "client.masked_loss = true"
    private = True
    same_cost = True

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether one of its two switches does anything."""
        return config.client.masked_loss or (config.parts and _scales(config))

    def network(self, network: Trained, share: Share, parts: PartSource) -> Trained:
        """Scale the activations of a narrow network."""
        del parts
        if share.width < 1 and _scales(self.config):
            scale_activations(network.model, share.width)
        return network

    def client(self, visit: Visit) -> ClientSide:
        """Mask what the client lacks."""
        return Masked(visit) if self.config.client.masked_loss else ClientSide()


class Masked(ClientSide):
    """A client whose loss sees only the classes that it has."""

    def __init__(self, visit: Visit):
        self.present = visit.labels.unique().to(visit.vector.device)

    def logits(self, logits: Tensor) -> Tensor:
        """Set the logits of the absent classes to 0."""
        return masked(logits, self.present)


def masked(logits: Tensor, present: Tensor) -> Tensor:
    """Return ``logits`` (..., classes), 0 for classes that are not ``present``, int64."""
    absent = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    absent[present] = False
    return logits.masked_fill(absent, 0.0)


def scale_activations(model: nn.Module, width: float) -> None:
    """Divide the output of every convolution by ``width`` in training.

    Trained so, the network fits the same activations when it is run as a part of the wide one, unscaled.
    """
    for name, module in model.named_modules():
        if hasattr(module, "kernel_size") and hasattr(module, "stride") and "pool" not in name:
            module.register_forward_hook(lambda m, _, out: out / width if m.training else out)


def _scales(config: ExperimentConfig) -> bool:
    return config.client.scaler and not FjORD.active(config)
