"""What a process needs to take part in an experiment: its config, its data, and how to build its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedfmd.algorithms import Algorithms
from fedfmd.config.annealing import unfinished
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.config.fingerprint import config_sha256
from fedfmd.config.parts import origins
from fedfmd.config.sections.central import TrainConfig
from fedfmd.config.sections.model import ModelConfig, TemperatureConfig
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.data.augment import Augment
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared
from fedfmd.devices import device_of, presence_of
from fedfmd.devices.participant import Participant
from fedfmd.errors import UserError
from fedfmd.nn import (
    Temperatures,
    TemperatureSchedule,
    kernel_state_names,
)
from fedfmd.nn.model_file import ModelCard, Network
from fedfmd.nn.norm import needs_pairs
from fedfmd.nn.part_norm import keep_groups
from fedfmd.nn.starting import load_initial
from fedfmd.nn.submodel import WHOLE, Share, share_index
from fedfmd.nn.vector import Layout
from fedfmd.privacy.discrete_gaussian import Words, seeded_words
from fedfmd.records.store import ClientStore
from fedfmd.registry import Origin, bring
from fedfmd.secure import Blocks, blocks_of
from fedfmd.seeds import derive, numpy_rng
from fedfmd.wire.compression import Compressor, compressor
from fedfmd.wire.evaluation import Batch

CACHED_INDICES = 8
"""Index vectors kept by a process: as long as the parts they describe, and of 8 bytes an element."""


InputShape = tuple[int, int, int]
"""C, H, W of one image as the network sees it."""
SMALL_COLOUR: InputShape = (3, 32, 32)


@dataclass(frozen=True)
class Part:
    """A part of the global network: what it costs for one image, and what its state looks like."""

    cost: ModelCost
    layout: Layout
    needs_pairs: bool
    """Whether a single last sample joins the batch before it: BatchNorm makes nothing of one."""


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
        return (self.dataset.train_images[kept], self.dataset.train_labels[kept]) if len(kept) else None

    def server_images(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Images and labels that report, ``test``, or that choose, ``validation``; null without any."""
        data = self.dataset
        return (data.test_images, data.test_labels) if name == "test" else self.validation

    def batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch of the server's, which must be there."""
        size, kept = self.config.evaluation.batch_size, self.server_images(batch.images)
        assert kept is not None
        own = slice(batch.number * size, (batch.number + 1) * size)
        return kept[0][own], kept[1][own]

    def trained_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images uint8 (n, C, H, W) and labels int64 (n,) that a client trains on."""
        own = self.partition.indices(client)
        return self.dataset.train_images[own], self.dataset.train_labels[own]

    def tested_on(self, client: int) -> tuple[Tensor, Tensor]:
        """Images and labels that a client measures on: its holdout, or without any what it trains on."""
        if not self.config.partition.holdout:
            return self.trained_on(client)
        kept = self.partition.holdout(client)
        return self.dataset.train_images[kept], self.dataset.train_labels[kept]

    def tested_size(self, client: int) -> int:
        """Count the images that a client measures models on."""
        if not self.config.partition.holdout:
            return self.partition.size(client)
        return self.partition.holdout_size(client)

    def label_count(self, client: int) -> int | None:
        """Count the different labels of all that a client has; null where it does not tell."""
        labels = [self.trained_on(client)[1], self.tested_on(client)[1]]
        return len(torch.cat(labels).unique())

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

    @property
    def model_cost(self) -> ModelCost:
        """Analytic cost of the whole network for one image."""
        return self.part(WHOLE).cost

    def part(self, share: Share) -> Part:
        """Describe a part of the network; computed once for each shape."""
        shape = (share.width, len(share.kernels), share.depth)
        if shape not in self._parts:
            with torch.device("meta"):
                model = self.build_part(share)
            stated = self.config.model.norm_needs_pairs or self.config.model.attention_needs_pairs
            cost, layout = model_cost(model, self.dataset.input_shape), Layout.of(model)
            self._parts[shape] = Part(cost, layout, stated or needs_pairs(model))
        return self._parts[shape]

    def index(self, share: Share) -> Tensor | None:
        """Give the places of a part's elements, and then of what goes along with them, int64.

        They are places in the vector that the server sends; null for the whole of it.
        """
        if share.whole:
            return None
        if share.key not in self._indices:
            if len(self._indices) >= CACHED_INDICES:
                self._indices.pop(next(iter(self._indices)))
            whole, part = self.part(WHOLE).layout, self.part(share).layout
            index = share_index(whole, part, share, self._kernel_entries)
            self._indices[share.key] = self.algorithms.places(index, part, whole)
        return self._indices[share.key]

    @cached_property
    def _parts(self) -> dict[tuple[float, int, int], Part]:
        return {}

    @cached_property
    def _indices(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _kernel_entries(self) -> frozenset[str]:
        return kernel_state_names(self._whole)

    @cached_property
    def _whole(self) -> nn.Module:
        """The structure of the whole network, without weights."""
        with torch.device("meta"):
            return self.bare_part(WHOLE)

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

    def blocks(self, parts: Mapping[int, str]) -> Blocks:
        """Return the blocks of what is exchanged, for clients that hold these ``parts``."""
        if parts != self._last_blocks.get("parts"):
            whole = self.part(WHOLE).layout
            elements = whole.elements + self.algorithms.extra_elements(whole)
            found = blocks_of(
                parts,
                elements,
                lambda part: self.index(Share.from_key(part)),
                self.config.privacy.min_holders,
            )
            self._last_blocks.update(parts=dict(parts), blocks=found)
        blocks: Blocks = self._last_blocks["blocks"]
        return blocks

    @cached_property
    def _last_blocks(self) -> dict[str, Any]:
        return {}

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
    def exchanged_elements(self) -> int:
        """Elements that a client receives, and sends back: without what stays there, with what goes along."""
        model = self.build_model()
        layout = Layout.of(model)
        local = self.algorithms.local_places(model)
        return layout.elements - len(local) + self.algorithms.extra_elements(layout)

    @cached_property
    def augment(self) -> Augment:
        """How images become batches."""
        return Augment.for_dataset(self.dataset, enabled=self.config.client.augment)

    def temperatures(self, round: int) -> Temperatures:
        """Give the temperatures of a round; the first round of training is 1, and 0 is like it."""
        return self._schedule(max(round, 1) - 1)

    @cached_property
    def _schedule(self) -> TemperatureSchedule:
        return temperature_schedule(self.config.temperature, self.config.server.horizon_rounds)

    def build_model(self) -> nn.Module:
        """Build the network with the initial weights of the experiment's seed."""
        model = initial_network(self.config, self.dataset)
        self.algorithms.structure(model, WHOLE, self)
        return model

    def build_part(self, share: Share) -> nn.Module:
        """Build the network of a share, with weights from torch's global generator."""
        part = self.bare_part(share)
        self.algorithms.structure(part, share, self)
        return part

    def bare_part(self, share: Share) -> nn.Module:
        """Build the network of a share, before algorithms changed its structure."""
        data = self.dataset
        part = network(
            self.config.model, num_classes=data.num_classes, input_shape=data.input_shape, share=share
        )
        if share.width < 1:
            keep_groups(part, self._whole)
        return part

    def to_json(self) -> dict[str, Any]:
        """Give the experiment as plain data, for another process on this machine."""
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


def initial_network(config: ExperimentConfig, dataset: Dataset) -> nn.Module:
    """Build the network for a dataset, with the initial weights of the experiment's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "initial-weights"))
        return network(config.model, num_classes=dataset.num_classes, input_shape=dataset.input_shape)


def check_initial(config: ExperimentConfig, dataset: Dataset) -> str:
    """Try ``model.init`` on the network; says what does not fit. Raises ``UserError`` when nothing does."""
    if config.model.init is None:
        return ""
    return load_initial(initial_network(config, dataset), Path(config.model.init))


def network(
    model: ModelConfig, *, num_classes: int, input_shape: InputShape = SMALL_COLOUR, share: Share = WHOLE
) -> nn.Module:
    """Build a network, or a share of it, as its config says, with weights from torch's global generator."""
    return described(model, num_classes=num_classes, input_shape=input_shape, share=share).build()


def described(
    model: ModelConfig, *, num_classes: int, input_shape: InputShape = SMALL_COLOUR, share: Share = WHOLE
) -> Network:
    """Return the description of a network, or of a share of it, as its config says."""
    outputs = model.outputs or num_classes
    if outputs < num_classes:
        raise UserError(f"model.outputs = {outputs}: at least one for each of the {num_classes} classes")
    return Network(
        name=model.name,
        conv=model.layer,
        num_classes=outputs,
        in_channels=input_shape[0],
        image_size=input_shape[1],
        width=model.width * share.width,
        kernels=len(share.kernels) or model.kernels,
        norm=model.norm,
        attention_norm=model.attention_norm,
        cell_num_ratio=model.cell_num_ratio,
        cell_inplane_ratio=model.cell_inplane_ratio,
        cell_outplane_ratio=model.cell_outplane_ratio,
        stem=model.stem,
        exits=model.exits,
        stages=share.depth or None,
    )


def model_card(config: ExperimentConfig, dataset: Dataset, temperatures: Temperatures) -> ModelCard:
    """Return what a file of the trained network says beside its weights."""
    return ModelCard(
        network=described(config.model, num_classes=dataset.num_classes, input_shape=dataset.input_shape),
        temperatures=temperatures,
        input_shape=dataset.input_shape,
        mean=dataset.mean,
        std=dataset.std,
        resized_crop=dataset.resized_crop,
        classes=dataset.classes,
        config_sha256=config_sha256(config),
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
        anneal_rounds=temperature.anneal_rounds,
        anneal_fraction=temperature.anneal_fraction,
        held=temperature.held,
    )


def cut_off(config: ExperimentConfig) -> str:
    """Say that a federated run ends before its temperatures do; empty where they come to their end."""
    last = temperature_schedule(config.temperature, config.server.horizon_rounds)(config.server.rounds - 1)
    return unfinished(applied(config), last.kernel, last.channel, last.tau)


def training_cut_off(config: ExperimentConfig, steps_per_epoch: int) -> str:
    """Say that centralised training ends before its temperatures do; empty where they come to their end."""
    recipe = config.train or TrainConfig()
    moves = recipe.temperature_every == "step"
    trained = recipe.epochs - 1 + ((steps_per_epoch - 1) / steps_per_epoch if moves else 0)
    last = temperature_schedule(config.temperature, recipe.epochs)(trained)
    return unfinished(applied(config), last.kernel, last.channel, last.tau, unit="epoch")
