"""Which models to profile: from options, a list of models, or an experiment."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfmd.config.documents import read_toml
from fedfmd.config.experiment import ExperimentConfig, config_in, parse_config
from fedfmd.config.sections.model import ModelConfig
from fedfmd.data.configured import open_data
from fedfmd.data.requests import FIXED_SIZE, fixed_shape
from fedfmd.errors import UserError
from fedfmd.registry import beside


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the networks see and say."""

    input_shape: tuple[int, int, int] = (3, 32, 32)
    """One picture, without the batch."""
    num_classes: int = 10


def label(model: ModelConfig) -> str:
    """Name a model in a few words: what it is, without what all models share."""
    kernels = f" K={model.kernels}" if model.dynamic else ""
    width = f" x{model.width:g}" if model.width != 1 else ""
    return f"{model.name} {model.conv}{kernels}{width}"


def baseline(model: ModelConfig) -> ModelConfig:
    """Return the static network of the same depth, width and norm, which ratios refer to."""
    return model.model_copy(update={"conv": "static", "kernels": 1, "attention_norm": "ln"})


def grid(
    names: Sequence[str],
    convs: Sequence[str],
    widths: Sequence[float],
    kernels: Sequence[int],
    **shared: Any,
) -> list[ModelConfig]:
    """Cross depths, convolutions, widths and numbers of kernels; a static network appears once for all K."""
    return [
        _model(
            {"name": name, "conv": conv, "width": width, "kernels": k, **shared},
            "fedfmd profile",
            varied=("model.conv", "model.name"),  # which may have no use for a number of kernels
        )
        for name, width, conv, k in itertools.product(names, widths, convs, kernels)
    ]


def read_models(path: Path) -> tuple[list[ModelConfig], Task | None]:
    """Read a TOML file: ``[[models]]``, each with the keys of [model], or an experiment with its data.

    The task is null for a list of models. Raises ``UserError`` for anything else.
    """
    document = read_toml(path, "config file")
    if "models" not in document:
        config = config_in(path, document)
        return [config.model], task_of(config)
    models = document["models"]
    if set(document) != {"models"} or not isinstance(models, list) or not models:
        raise UserError(f"{path}: a list of models holds [[models]] sections and nothing else")
    with beside(path):
        return [_model(model, f"{path}: models[{i}]") for i, model in enumerate(models)], None


def task_of(config: ExperimentConfig) -> Task:
    """Return an experiment's input and classes, opening its data only where it must be looked at."""
    data = config.data
    classes = data.known_classes
    if classes is None or data.name not in FIXED_SIZE:
        dataset = open_data(config)
        return Task(input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    channels, side, _ = fixed_shape(data.name, data.image_size)
    side = data.resized_crop or side
    return Task(input_shape=(channels, side, side), num_classes=classes)


def with_baselines(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    """Put each model's static network before it, and drop what is there twice."""
    ordered: dict[ModelConfig, None] = {}
    for model in models:
        ordered.setdefault(baseline(model))
        ordered.setdefault(baseline(model) if model.layer == "static" else model)
    return list(ordered)


def _model(document: Any, source: str, varied: Sequence[str] = ()) -> ModelConfig:
    return parse_config({"model": document}, source=source, overridden=varied).model
