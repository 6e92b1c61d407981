"""What a process needs to take part in an experiment: its config, its data, the network and the clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfmd.algorithms import Algorithms
from fedfmd.building import temperature_schedule
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.config.parts import origins
from fedfmd.data.arrays import IntArray
from fedfmd.data.augment import Augment
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared
from fedfmd.devices import device_of, presence_of
from fedfmd.devices.participant import Participant
from fedfmd.global_network import GlobalNetwork
from fedfmd.nn import Temperatures, TemperatureSchedule
from fedfmd.nn.submodel import Share
from fedfmd.privacy.discrete_gaussian import Words, seeded_words
from fedfmd.records.store import ClientStore
from fedfmd.registry import Origin, bring
from fedfmd.seeds import numpy_rng
from fedfmd.wire.compression import Compressor, compressor
from fedfmd.wire.testing import Batch


@dataclass(frozen=True)
class Experiment:
    """A config and where its prepared images and partition lie; both are opened on first use."""

    config: ExperimentConfig
    dataset_file: Path
    partition_file: Path
    state_folder: Path
    """Where clients keep what lasts between rounds."""

    @cached_property
    def dataset(self) -> Dataset:
        """The images, memory-mapped."""
        return open_prepared(self.dataset_file).seen_at(self.config.data.resized_crop)

    @cached_property
    def partition(self) -> Partition:
        """Who has which images."""
        return Partition.load(self.partition_file)

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor] | None:
        """Images uint8 (v, C, H, W) and labels int64 (v,) that the server chooses by; null without any."""
        kept = self.partition.validation
        return self._of_training(kept) if len(kept) else None

    def server_images(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Images and labels that report, ``test``, or that choose, ``validation``; null without any."""
        return self.test if name == "test" else self.validation

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Images uint8 (t, C, H, W), memory-mapped, and labels int64 (t,) that the server reports by."""
        return torch.from_numpy(self.dataset.test_images), torch.from_numpy(self.dataset.test_labels)

    def batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch of the server's, which must be there."""
        size, kept = self.config.evaluation.batch_size, self.server_images(batch.images)
        assert kept is not None
        own = slice(batch.number * size, (batch.number + 1) * size)
        return kept[0][own], kept[1][own]

    def trained_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images uint8 (n, C, H, W) and labels int64 (n,) that a client trains on."""
        return self._of_training(self.partition.indices(client))

    def _of_training(self, places: IntArray) -> tuple[Tensor, Tensor]:
        """Copy images and labels from the training set."""
        data = self.dataset
        return torch.from_numpy(data.train_images[places]), torch.from_numpy(data.train_labels[places])

    def tested_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images and labels that a client measures on: its holdout, or without any what it trains on."""
        if not self.config.partition.holdout:
            return self.trained_on(client)
        return self._of_training(self.partition.holdout(client))

    def tested_size(self, client: int) -> int:
        """Count the images that a client measures models on."""
        if not self.config.partition.holdout:
            return self.partition.size(client)
        return self.partition.holdout_size(client)

    def label_count(self, client: int) -> int | None:
        """Count the different labels of all that a client has; null where it does not tell."""
        own = self.partition.indices(client)
        if self.config.partition.holdout:
            own = np.concatenate([own, self.partition.holdout(client)])
        return len(np.unique(self.dataset.train_labels[own]))

    def received_elements(self, share: Share) -> int:
        """Count the elements that a client of a share has to receive, with what goes along for algorithms."""
        return self._elements(share) - len(self.network.local_places(share))

    def sent_elements(self, share: Share) -> int:
        """Count the elements that it sends back, were they not compressed.

        A secure sum masks a word for what stays on the client, too.
        """
        return self._elements(share) - (0 if self.secure else len(self.network.local_places(share)))

    def _elements(self, share: Share) -> int:
        layout = self.network.part(share).layout
        return layout.elements + self.algorithms.extra_elements(layout)

    @cached_property
    def compressor(self) -> Compressor:
        """What an update is sent as."""
        return compressor(self.config.compression, self.config.own("compression"))

    @property
    def measures_together(self) -> bool:
        """Whether clients of one model can be measured in one batch: in one place, with the same weights."""
        return not self.algorithms.personal

    def absent(self, round: int, needed: int) -> frozenset[int] | None:
        """Return the clients who cannot be asked as a round begins; null where all always can.

        May wait until ``needed`` can.
        """
        del round, needed
        return None

    def participant(self, client: int) -> Participant:
        """Say what plans have to know of a client."""
        return Participant(
            examples=self.partition.size(client),
            device=device_of(self.config, client),
            presence=presence_of(self.config, client),
        )

    @cached_property
    def network(self) -> GlobalNetwork:
        """The network that is trained, and its parts."""
        return GlobalNetwork(self.config, self.dataset, self.algorithms)

    @cached_property
    def algorithms(self) -> Algorithms:
        """The algorithms that the config asks for."""
        return Algorithms(self.config)

    @property
    def untested(self) -> str | None:
        """Why there is no global model to test; null where there is one."""
        return self.algorithms.untested

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return self.algorithms.keeps_state

    @property
    def secure(self) -> bool:
        """Whether the server sees sums of clients' updates alone."""
        return self.config.privacy.secure != "none"

    def noise_words(self, round: int) -> Words:
        """Return the random bits that a round's noise is made of: seeded, so that a run can be repeated."""
        return seeded_words(numpy_rng(self.config.seed, "privacy-noise", round))

    @property
    def cohort_seed(self) -> int:
        """The seed that the rounds' clients are drawn with."""
        return self.config.seed

    @property
    def shares_disk(self) -> bool:
        """Whether what the clients keep lies where the server can see it."""
        return True

    def lost_states(self, state_rounds: Mapping[int, int]) -> list[int]:
        """Return the clients of ``state_rounds``, client to round of its state, whose state is seen lost."""
        return self.store.lost(state_rounds) if self.shares_disk else []

    @property
    def store(self) -> ClientStore:
        """What the clients have kept."""
        return ClientStore(self.state_folder)

    @cached_property
    def augment(self) -> Augment:
        """How images become batches."""
        return Augment.for_dataset(self.dataset, enabled=self.config.client.augment)

    def temperatures(self, round: int) -> Temperatures:
        """Return the temperatures of a round; the first round of training is 1, and 0 is like it."""
        return self._schedule(max(round, 1) - 1)

    @cached_property
    def _schedule(self) -> TemperatureSchedule:
        return temperature_schedule(self.config.temperature, self.config.server.horizon_rounds)

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as plain data, for another process on this machine."""
        return {
            "config": applied(self.config),
            "dataset_file": str(self.dataset_file),
            "partition_file": str(self.partition_file),
            "state_folder": str(self.state_folder),
            "parts": [part.to_json() for part in origins(self.config)],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Experiment":
        """Read an experiment back; raises ``UserError`` for a part that is missing here."""
        for part in document["parts"]:
            bring(Origin(**part))
        return cls(
            parse_config(document["config"], source="work order"),
            Path(document["dataset_file"]),
            Path(document["partition_file"]),
            Path(document["state_folder"]),
        )
