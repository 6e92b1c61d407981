"""FedBN (Li et al. 2021, "Federated Learning on Non-IID Features via Local Batch Normalization").

BatchNorm layers, with their scale, shift and statistics, stay on their client: they are neither sent nor
averaged. The global model keeps the initial ones, so it is no model to test. Switched on by
``model.norm = "fedbn"``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedfmd.algorithms.base import Algorithm, ClientSide, Finished, Trained, Visit
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn import local_state_names

NORMS = "norms"


class FedBN(Algorithm):
    """Keep the norms on the clients."""

    name = "fedbn"
    switch = 'model.norm = "fedbn"'
    keeps = (NORMS,)

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether the backbone's norms are local."""
        return config.model.keeps_norms

    def local_names(self, model: nn.Module) -> frozenset[str]:
        """Name the norms' entries."""
        return local_state_names(model)

    @property
    def untested(self) -> str | None:
        """Say why the global model is none to test."""
        return (
            f"model.norm = {self.config.model.norm!r} keeps the norms on the clients, so there is no global "
            "model to test; evaluation.clients measures on the clients"
        )

    def personalise(self, network: Trained, vector: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Put the client's own norms in."""
        if NORMS in kept:
            vector[network.local.to(vector.device)] = kept[NORMS].to(vector.device)

    def client(self, visit: Visit) -> ClientSide:
        """Keep this client's norms."""
        return LocalNorms(visit)


class LocalNorms(ClientSide):
    """A client whose norms leave its update."""

    def __init__(self, visit: Visit):
        self.vector, self.own = visit.vector, visit.network.local
        self.norms = torch.empty(0)

    def trained(self) -> None:
        """Take the norms as they are after training."""
        self.norms = self.vector[self.own.to(self.vector.device)].cpu()

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Send no change of the norms."""
        del steps
        update[self.own] = 0
        return Finished(update=update, kept={NORMS: self.norms})
