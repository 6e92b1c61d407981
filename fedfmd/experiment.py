"""What a process needs to take part in an experiment: its config, its data, and how to build its network."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedfmd.config import ExperimentConfig, parse_config
from fedfmd.cost import ModelCost, model_cost
from fedfmd.data import Augment, Dataset, Partition, open_prepared
from fedfmd.nn import ResNet, Temperatures, TemperatureSchedule, build_model, local_state_names
from fedfmd.seeds import derive
from fedfmd.store import ClientStore
from fedfmd.vector import Layout


@dataclass(frozen=True)
class Experiment:
    """A config and where its prepared pictures and partition lie; both are opened on first use."""

    config: ExperimentConfig
    dataset_file: Path
    partition_file: Path
    state_folder: Path
    """Where clients keep what lasts between rounds."""

    @cached_property
    def dataset(self) -> Dataset:
        """The pictures, memory-mapped."""
        return open_prepared(self.dataset_file)

    @cached_property
    def partition(self) -> Partition:
        """Who has which pictures."""
        return Partition.load(self.partition_file)

    @cached_property
    def model_cost(self) -> ModelCost:
        """Analytic cost of the full model for one picture."""
        return model_cost(self.build_model(), self.dataset.input_shape)

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return self.config.client.scaffold or self.config.model.norm == "fedbn"

    @property
    def store(self) -> ClientStore:
        """What the clients have kept."""
        return ClientStore(self.state_folder)

    @cached_property
    def exchanged_elements(self) -> int:
        """Elements that a client receives, and sends back: not FedBN's norms, and SCAFFOLD's control."""
        model = self.build_model()
        layout = Layout.of(model)
        local = layout.mask(local_state_names(model))
        control = layout.parameters if self.config.client.scaffold else 0
        return layout.elements - int(local.sum()) + control

    @cached_property
    def augment(self) -> Augment:
        """How pictures become batches."""
        return Augment.for_dataset(self.dataset, enabled=self.config.client.augment)

    def temperatures(self, round: int) -> Temperatures:
        """Give the temperatures of a round; the first round of training is 1, and 0 is like it."""
        return self._schedule(max(round, 1) - 1)

    @cached_property
    def _schedule(self) -> TemperatureSchedule:
        t = self.config.temperature
        return TemperatureSchedule(
            rounds=self.config.server.rounds,
            mode=t.mode,
            curve=t.curve,
            start=t.start,
            end=t.end,
            step=t.step,
            anneal_fraction=t.anneal_fraction,
            held=t.held,
        )

    def build_model(self) -> ResNet:
        """Build the network with the initial weights of the experiment's seed."""
        m = self.config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.config.seed, "initial-weights"))
            return build_model(
                m.name,
                conv=m.conv,
                num_classes=self.dataset.num_classes,
                in_channels=self.dataset.in_channels,
                width=m.width,
                kernels=m.kernels,
                norm=m.norm,
                attention_norm=m.attention_norm,
                stem=m.stem,
            )

    def to_json(self) -> dict[str, Any]:
        """Give the experiment as plain data, for another process on this machine."""
        return {
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "dataset_file": str(self.dataset_file),
            "partition_file": str(self.partition_file),
            "state_folder": str(self.state_folder),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Experiment":
        """Read an experiment back."""
        return cls(
            parse_config(document["config"], source="work order"),
            Path(document["dataset_file"]),
            Path(document["partition_file"]),
            Path(document["state_folder"]),
        )
