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
from fedfmd.sections import ModelConfig, TemperatureConfig
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
        return temperature_schedule(self.config.temperature, self.config.server.rounds)

    def build_model(self) -> ResNet:
        """Build the network with the initial weights of the experiment's seed."""
        return initial_network(self.config, self.dataset)

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


def initial_network(config: ExperimentConfig, dataset: Dataset) -> ResNet:
    """Build the network for a dataset, with the initial weights of the experiment's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "initial-weights"))
        return network(config.model, num_classes=dataset.num_classes, in_channels=dataset.in_channels)


def network(model: ModelConfig, *, num_classes: int, in_channels: int = 3) -> ResNet:
    """Build a network as its config says, with weights from torch's global generator."""
    return build_model(
        model.name,
        conv=model.conv,
        num_classes=num_classes,
        in_channels=in_channels,
        width=model.width,
        kernels=model.kernels,
        norm=model.norm,
        attention_norm=model.attention_norm,
        stem=model.stem,
    )


def temperature_schedule(temperature: TemperatureConfig, rounds: int) -> TemperatureSchedule:
    """Give the schedule over ``rounds`` federated rounds or centralised epochs."""
    return TemperatureSchedule(
        rounds=rounds,
        mode=temperature.mode,
        curve=temperature.curve,
        start=temperature.start,
        end=temperature.end,
        step=temperature.step,
        anneal_fraction=temperature.anneal_fraction,
        held=temperature.held,
    )
