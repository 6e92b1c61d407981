"""What a config describes, built: networks with their weights and cards, and schedules of temperatures."""

from pathlib import Path

import torch
from torch import nn

from fedfmd.config.annealing import unfinished
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.fingerprint import config_sha256
from fedfmd.config.sections.model import ModelConfig, TemperatureConfig
from fedfmd.data.dataset import Dataset
from fedfmd.errors import UserError
from fedfmd.nn import Temperatures, TemperatureSchedule
from fedfmd.nn.model_file import ModelCard, Network
from fedfmd.nn.starting import load_initial
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.seeds import derive

InputShape = tuple[int, int, int]
"""C, H, W of one image as the network sees it."""
SMALL_COLOUR: InputShape = (3, 32, 32)


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


def outline(
    model: ModelConfig, *, num_classes: int, input_shape: InputShape = SMALL_COLOUR, share: Share = WHOLE
) -> nn.Module:
    """Build a network, or a share of it, for its structure alone; see ``Network.outline``."""
    return described(model, num_classes=num_classes, input_shape=input_shape, share=share).outline()


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
    """Return the schedule over ``rounds`` federated rounds or centralised epochs."""
    return TemperatureSchedule(rounds=rounds, **temperature.model_dump())


def cut_off(config: ExperimentConfig) -> str:
    """Say that a federated run ends before its temperatures do; empty where they come to their end."""
    last = temperature_schedule(config.temperature, config.server.horizon_rounds)(config.server.rounds - 1)
    return unfinished(applied(config), last.kernel, last.channel, last.tau)


def training_cut_off(config: ExperimentConfig, steps_per_epoch: int) -> str:
    """Say that centralised training ends before its temperatures do; empty where they come to their end."""
    recipe = config.recipe
    moves = recipe.temperature_every == "step"
    trained = recipe.epochs - 1 + ((steps_per_epoch - 1) / steps_per_epoch if moves else 0)
    last = temperature_schedule(config.temperature, recipe.epochs)(trained)
    return unfinished(applied(config), last.kernel, last.channel, last.tau, unit="epoch")
