"""An experiment seen from one side: the server knows counts of examples, a client its own pictures."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fedfmd.data import Partition
from fedfmd.data.holdout import IntArray
from fedfmd.devices.participant import Host, Participant
from fedfmd.experiment import Experiment
from fedfmd.privacy.discrete_gaussian import Words, system_words


@dataclass(frozen=True, kw_only=True)
class DeclaredPartition(Partition):
    """Who says to have how much; the images of at most one client are here."""

    declared: Tensor
    """Examples that each client trains on, int64 (clients,); 0 where unknown."""
    declared_held: Tensor
    """Examples that each keeps for testing, likewise."""
    here: int | None = None
    """The client whose images are here."""
    own: tuple[Tensor, Tensor] | None = None
    """What that client trains on and keeps for testing, as places in this process's training set."""

    @property
    def sizes(self) -> IntArray:
        """Examples of each client."""
        return self.declared.numpy().astype(np.int64)

    def indices(self, client: int) -> Tensor:
        """Give what the client trains on, if it is the one that is here; else raises ``IndexError``."""
        self._check_here(client)
        return self.own[0] if self.own else torch.arange(self.size(client))

    def holdout(self, client: int) -> Tensor:
        """Give what the client keeps of the training set for testing; raises as ``indices`` does."""
        self._check_here(client)
        return self.own[1] if self.own else torch.zeros(0, dtype=torch.int64)

    def holdout_size(self, client: int) -> int:
        """Count what a client says to keep for testing."""
        return int(self.declared_held[client])

    def _check_here(self, client: int) -> None:
        if client != self.here:
            raise IndexError(f"the pictures of client {client} are not here")

    def _tensors(self) -> dict[str, Tensor]:
        held = {"held": self.declared_held} if self.declared_held.any() else {}
        return {"sizes": self.declared, **held}


def declared_partition(
    clients: int,
    sizes: Mapping[int, int],
    here: int | None = None,
    validation: int = 0,
    *,
    held: Mapping[int, int] = MappingProxyType({}),
    own: tuple[Tensor, Tensor] | None = None,
) -> DeclaredPartition:
    """Return a partition of ``clients`` that train on ``sizes`` examples and keep ``held`` ones for testing.

    ``own`` are the places of both at the client that is here, whose training set may hold no more than the
    first; the training set of the server's own process is its ``validation`` examples.
    """
    declared, kept = (
        torch.tensor([counts.get(client, 0) for client in range(clients)]) for counts in (sizes, held)
    )
    about = {"scheme": "declared", "clients": clients, "samples": int(declared.sum())}
    return DeclaredPartition(
        about=about,
        declared=declared,
        declared_held=kept,
        here=here,
        own=own,
        validation=torch.arange(validation),
    )


@dataclass(frozen=True)
class DeployedExperiment(Experiment):
    """An experiment whose training pictures are with their owners."""

    shares: DeclaredPartition
    """Who has how much."""
    hosts: Mapping[int, Host]
    """What the clients' machines are, as far as known."""

    def tested_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images and labels that the client measures on: the test part of its file, where it has one."""
        if self.config.partition.holdout and client == self.shares.here and len(self.dataset.test_labels):
            return self.dataset.test_images, self.dataset.test_labels
        return super().tested_on(client)

    def label_count(self, client: int) -> int | None:
        """Return null: a real client does not tell which labels it has."""
        del client
        return None

    @property
    def measures_together(self) -> bool:
        """Each client measures by itself."""
        return False

    @property
    def shares_disk(self) -> bool:
        """The clients keep their states themselves."""
        return False

    def noise_words(self, round: int) -> Words:
        """Return random bits of the operating system: nobody can draw this noise again, and take it off."""
        del round
        return system_words

    @cached_property
    def cohort_seed(self) -> int:
        """The config's, which clients know; a secret one where privacy stands on who was drawn."""
        return self.config.seed if self.config.privacy.dp == "none" else secrets.randbits(62)

    def participant(self, client: int) -> Participant:
        """Say what plans have to know of a client, its machine included."""
        return replace(super().participant(client), host=self.hosts.get(client))

    @cached_property
    def partition(self) -> Partition:
        """Who has how much."""
        return self.shares
