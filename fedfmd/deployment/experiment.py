"""An experiment seen from one side: the server knows counts of examples, a client its own images."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
from torch import Tensor

from fedfmd.data.agreement import Normalisation
from fedfmd.data.arrays import IntArray
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared
from fedfmd.devices.participant import Host, Participant
from fedfmd.experiment import Experiment
from fedfmd.privacy.discrete_gaussian import Words, system_words
from fedfmd.records.documents import DECLARED


@dataclass(frozen=True, kw_only=True)
class DeclaredPartition(Partition):
    """Who says to have how much; the images of at most one client are here."""

    declared: IntArray
    """Examples that each client trains on, int64 (clients,); 0 where unknown."""
    declared_held: IntArray
    """Examples that each keeps for testing, likewise."""
    here: int | None = None
    """The client whose images are here."""
    own: tuple[IntArray, IntArray] | None = None
    """What that client trains on and keeps for testing, as places in this process's training set."""

    @property
    def sizes(self) -> IntArray:
        """Examples of each client."""
        return self.declared

    def indices(self, client: int) -> IntArray:
        """Give what the client trains on, if it is the one that is here; else raises ``IndexError``."""
        self._check_here(client)
        return self.own[0] if self.own else np.arange(self.size(client))

    def holdout(self, client: int) -> IntArray:
        """Give what the client keeps of the training set for testing; raises as ``indices`` does."""
        self._check_here(client)
        return self.own[1] if self.own else np.zeros(0, dtype=np.int64)

    def holdout_size(self, client: int) -> int:
        """Count what a client says to keep for testing."""
        return int(self.declared_held[client])

    def _check_here(self, client: int) -> None:
        if client != self.here:
            raise IndexError(f"the images of client {client} are not here")

    def _arrays(self) -> dict[str, IntArray]:
        held = {"held": self.declared_held} if self.declared_held.any() else {}
        return {"sizes": self.declared, **held}


def declared_partition(
    clients: int,
    sizes: Mapping[int, int],
    here: int | None = None,
    validation: int = 0,
    *,
    held: Mapping[int, int] = MappingProxyType({}),
    own: tuple[IntArray, IntArray] | None = None,
) -> DeclaredPartition:
    """Return a partition of ``clients`` that train on ``sizes`` examples and keep ``held`` ones for testing.

    ``own`` are the places of both at the client that is here, whose training set may hold no more than the
    first; the training set of the server's own process is its ``validation`` examples.
    """
    declared, kept = (
        np.array([counts.get(client, 0) for client in range(clients)], dtype=np.int64)
        for counts in (sizes, held)
    )
    about = {"scheme": DECLARED, "clients": clients, "samples": int(declared.sum())}
    return DeclaredPartition(
        about=about,
        declared=declared,
        declared_held=kept,
        here=here,
        own=own,
        validation=np.arange(validation),
    )


class Roll:
    """The clients as one side knows them: how much each has, what its machine is, who is there."""

    def __init__(self, shares: DeclaredPartition, hosts: Mapping[int, Host] = MappingProxyType({})):
        self.shares = shares
        self.hosts = hosts

    def absent(self, round: int, needed: int) -> frozenset[int] | None:
        """Return who is not there as a round begins; null where nobody keeps count.

        Waits a while for ``needed`` others.
        """
        del round, needed
        return None


@dataclass(frozen=True)
class DeployedExperiment(Experiment):
    """An experiment whose training images are with their owners."""

    roll: Roll
    """The clients."""
    normalisation: Normalisation | None = None
    """By which all see their images; null where it is that of the file."""

    @cached_property
    def packed(self) -> Dataset:
        """The images as their file has them."""
        return open_prepared(self.dataset_file).seen_at(self.config.data.resized_crop)

    @cached_property
    def dataset(self) -> Dataset:
        """The images as all see them."""
        agreed = self.normalisation
        return replace(self.packed, mean=agreed.mean, std=agreed.std) if agreed else self.packed

    def tested_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images and labels that the client measures on: the test part of its file, where it has one."""
        if (
            self.config.partition.holdout
            and client == self.roll.shares.here
            and len(self.dataset.test_labels)
        ):
            return self.test
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
        return replace(super().participant(client), host=self.roll.hosts.get(client))

    @property
    def untested(self) -> str | None:
        """Why there is no global model to test: the server may have no images at all."""
        here = self.roll.shares.here is not None or len(self.dataset.test_labels)
        return super().untested or (None if here else "the server has no test images")

    def absent(self, round: int, needed: int) -> frozenset[int] | None:
        """Return the clients who are not there as a round begins; waits a while for ``needed`` others.

        Where privacy is accounted for, nobody: the chance to be drawn must not depend on who is there, so
        one who is drawn and has left fails.
        """
        absent = self.roll.absent(round, needed)
        return absent if absent is None or self.config.privacy.dp == "none" else frozenset()

    @property
    def partition(self) -> Partition:
        """Who has how much; more, once other clients have come."""
        return self.roll.shares
