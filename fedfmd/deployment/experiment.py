"""An experiment seen from one side: the server knows counts of examples, a client its own pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedfmd.data import Partition
from fedfmd.data.partition import IntArray
from fedfmd.devices.participant import Host, Participant
from fedfmd.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class DeclaredPartition(Partition):
    """Who says to have how much; the pictures of at most one client are here."""

    declared: Tensor
    """Examples of each client, int64 (clients,); 0 where unknown."""
    here: int | None = None
    """The client whose pictures are the training set of this process."""

    @property
    def sizes(self) -> IntArray:
        """Examples of each client."""
        return self.declared.numpy().astype(np.int64)

    def indices(self, client: int) -> Tensor:
        """Give all of the training set, to the client that it belongs to; else raises ``IndexError``."""
        if client != self.here:
            raise IndexError(f"the pictures of client {client} are not here")
        return torch.arange(self.size(client))

    def _tensors(self) -> dict[str, Tensor]:
        return {"sizes": self.declared}


def declared_partition(
    clients: int, sizes: Mapping[int, int], here: int | None = None, validation: int = 0
) -> DeclaredPartition:
    """Return a partition of ``clients`` that have ``sizes`` examples.

    The training set of the server's own process is its ``validation`` examples.
    """
    declared = torch.tensor([sizes.get(client, 0) for client in range(clients)])
    about = {"scheme": "declared", "clients": clients, "samples": int(declared.sum())}
    return DeclaredPartition(about=about, declared=declared, here=here, validation=torch.arange(validation))


@dataclass(frozen=True)
class DeployedExperiment(Experiment):
    """An experiment whose training pictures are with their owners."""

    shares: DeclaredPartition
    """Who has how much."""
    hosts: Mapping[int, Host]
    """What the clients' machines are, as far as known."""

    @property
    def shares_disk(self) -> bool:
        """The clients keep their states themselves."""
        return False

    def participant(self, client: int) -> Participant:
        """Say what plans have to know of a client, its machine included."""
        return replace(super().participant(client), host=self.hosts.get(client))

    @cached_property
    def partition(self) -> Partition:
        """Who has how much."""
        return self.shares
