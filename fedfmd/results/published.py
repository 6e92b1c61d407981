"""The published results that a centralised run can be read beside, and how far it can be compared with them.

FMDConv: Zhang et al. 2025 (arXiv 2503.17530; Knowledge-Based Systems 317:113393), tables, and, for the number
of kernels and the first temperature, the notes in the history of the authors' code, which name no dataset.
All seconds are theirs, on one RTX-class GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.central import TrainConfig
from fedfmd.config.sections.data import DataConfig
from fedfmd.config.sections.model import ModelConfig, TemperatureConfig
from fedfmd.records.documents import TrainSummary
from fedfmd.records.schema import Number
from fedfmd.units import ABSENT, counted

HEADINGS = ("dataset", "network", "top-1 %", "top-5 %", "s/epoch", "differs in")


@cache
def authors() -> ExperimentConfig:
    """Return the recipe of the authors' published code, by which every published result is compared.

    A config's parts are looked up by name, which brings PyTorch: no page of a federated run waits for that.
    """
    return ExperimentConfig(
        data=DataConfig(name="cifar10", resized_crop=224),
        model=ModelConfig(
            name="resnet18", kernels=4, norm="bn", attention_norm="bn", stem="imagenet", outputs=1000
        ),
        temperature=TemperatureConfig(mode="sigmoid_only", curve="linear", start=30.0, anneal_rounds=10),
        train=TrainConfig(temperature_every="step"),
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published result; accuracies in percent, as printed there."""

    dataset: str
    network: str | None
    """Null where the source leaves it open."""
    conv: str
    kernels: int = 4
    start: float | None = None
    """First temperature, in an ablation of it; null for the recipe's own."""
    top1: str | None = None
    top5: str | None = None
    seconds_per_epoch: str | None = None


def _cifar100_notes() -> Iterator[Published]:
    """Return the rows of the notes; a span where there are several runs of the same setting."""
    by_kernels = {
        1: ("76.94", "94.16", "125"),
        2: ("76.57-76.72", "94.10-94.19", "125-130"),
        4: ("76.01-76.10", "93.74-94.07", "126-130"),
        6: ("76.31", "93.80", "139"),
        8: ("75.66-76.71", "93.61-94.16", "136-142"),
        16: ("77.28", "94.08", "144"),
    }
    by_start = {
        40.0: ("76.35", "93.89", "128"),
        52.0: ("76.51", "94.30", "127"),
        61.0: ("76.76", "94.17", "129"),
        100.0: ("76.34", "94.21", "138"),
    }
    settings: list[tuple[int, float | None, tuple[str, str, str]]] = [
        *((kernels, None, figures) for kernels, figures in by_kernels.items()),
        *((4, start, figures) for start, figures in by_start.items()),
    ]
    for kernels, start, (top1, top5, seconds) in settings:
        yield Published(
            dataset="cifar100-like",
            network=None,
            conv="fmdconv",
            kernels=kernels,
            start=start,
            top1=top1,
            top5=top5,
            seconds_per_epoch=seconds,
        )
    yield Published(
        dataset="cifar100-like",
        network=None,
        conv="odconv",
        top1="76.04",
        top5="93.71",
        seconds_per_epoch="248",
    )


PUBLISHED: tuple[Published, ...] = (
    Published(dataset="cifar10", network=None, conv="fmdconv", top1="94.21", top5="99.85"),
    Published(
        dataset="cifar100",
        network=None,
        conv="fmdconv",
        top1="74.99",
        top5="93.61",
        seconds_per_epoch="115.16",
    ),
    Published(
        dataset="imagenet",
        network="resnet18",
        conv="fmdconv",
        top1="73.21",
        top5="90.88",
        seconds_per_epoch="620.34",
    ),
    Published(dataset="imagenet", network="resnet18", conv="odconv", seconds_per_epoch="1235.98"),
    Published(dataset="imagenet", network="resnet50", conv="fmdconv", top1="78.34", top5="93.57"),
    *_cifar100_notes(),
)


def comparison_rows(config: ExperimentConfig, summary: TrainSummary) -> Iterator[tuple[str, ...]]:
    """Yield the cells under ``HEADINGS``: first of a finished run, then of the published results."""
    yield (*_own_row(config, summary), "this run")
    for result in PUBLISHED:
        network = _network(result.network or "resnet", result.conv, result.kernels)
        start = f" T={result.start:g}" if result.start else ""
        figures = (result.top1, result.top5, result.seconds_per_epoch)
        differs = ", ".join(differences(config, result))
        yield (result.dataset, network + start, *(figure or ABSENT for figure in figures), differs)


def differences(config: ExperimentConfig, result: Published) -> list[str]:
    """Name what the run's config has otherwise than the published result, as far as that is known.

    A result whose source leaves the depth open is compared in everything else. What the source does not say
    at all (seeds, normalisation, hardware) is in the caption.
    """
    model = result.network or config.model.name
    published = authors()
    their_recipe = published.recipe
    theirs = published.model.model_copy(
        update={"name": model, "conv": result.conv, "kernels": result.kernels}
    )
    own, recipe = config.model, config.recipe
    data = config.data
    start = result.start or published.temperature.start
    temperature = published.temperature.model_copy(update={"start": start})
    anneals = config.temperature != temperature or recipe.temperature_every != their_recipe.temperature_every
    checks = {
        "DATASET": data.name != result.dataset,
        "PART OF DATA": data.train_samples is not None or data.test_samples is not None,
        "depth": own.name != model,
        "width": own.width != theirs.width,
        "conv": own.conv != theirs.conv,
        "K": own.dynamic and own.kernels != theirs.kernels,
        "norm": own.norm != theirs.norm,
        "attention norm": own.conv in ("fmdconv", "odconv") and own.attention_norm != theirs.attention_norm,
        "temperature": own.tempered and anneals,
        "stem": own.stem != theirs.stem,
        "outputs": own.outputs != theirs.outputs and result.dataset != "imagenet",
        "exits": own.exits,
        "pixels": data.resized_crop != published.data.resized_crop,
        "augmentation": not recipe.augment or data.resized_crop is None,
        **{name: _part(recipe, keys) != _part(their_recipe, keys) for name, keys in RECIPE_PARTS.items()},
    }
    return [name for name, differs in checks.items() if differs]


RECIPE_PARTS = {
    "epochs": ("epochs",),
    "batch size": ("batch_size",),
    "learning rate": ("learning_rate", "schedule", "milestones", "decay", "warmup_epochs"),
    "optimiser": ("momentum", "nesterov", "weight_decay", "ema"),
    "label smoothing": ("label_smoothing",),
    "precision": ("precision",),
}
"""Keys of `[train]` that make a recipe; the others are about the machine and the bookkeeping."""


def _part(recipe: TrainConfig, keys: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(getattr(recipe, key) for key in keys)


def _own_row(config: ExperimentConfig, summary: TrainSummary) -> tuple[str, ...]:
    model = config.model
    return (
        config.data.name,
        _network(model.name, model.conv, model.kernels),
        _decimals(summary.final_top1, 100),
        _decimals(summary.final_top5, 100),
        _decimals(summary.seconds_per_epoch),
    )


def _decimals(value: Number, factor: int = 1) -> str:
    return ABSENT if value is None else f"{factor * value:.2f}"


def _network(name: str, conv: str, kernels: int) -> str:
    return f"{name.replace('resnet', 'R')} {conv}" + (f" K={kernels}" if conv != "static" else "")


def _count(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"


def caption(summary: TrainSummary) -> str:
    """Say how far the comparison holds."""
    machine = f"{summary.processes} x {summary.device}, {summary.threads} threads"
    samples = f"{_count(summary.train_samples)} training and {_count(summary.test_samples)} test images"
    return (
        f"This run: {samples}; {counted(summary.epochs or 0, 'epoch')}; {machine}. Published: one RTX-class "
        "GPU. Compared with the recipe of the authors' code (configs/train-authors.toml); which of its "
        "scripts and temperatures made the paper's figures is not stated, nor seeds, nor how pixels were "
        "normalised. "
        "cifar100-like: the notes beside that code, which name no dataset. R alone: depth not stated. T: "
        "first temperature. Seconds on different hardware cannot be compared, nor accuracies on different "
        "datasets."
    )
