"""The published results that a centralised run can be read beside, and how far it can be compared with them.

FMDConv: Zhang et al. 2025 (arXiv 2503.17530; Knowledge-Based Systems 317:113393), tables, and, for the number
of kernels, the notes published with the authors' code. All seconds are theirs, on one RTX-class GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedfmd.config import ExperimentConfig
from fedfmd.metrics import NO_VALIDATION, chance_remark
from fedfmd.records.schema import Json
from fedfmd.sections import TrainConfig

PUBLISHED_EPOCHS = 100
HEADINGS = ("dataset", "network", "top-1 %", "top-5 %", "s/epoch", "differs in")
NO_RECIPE = {"device", "threads", "evaluate_every", "checkpoint_every", "tensorboard", "channels_last"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published result; accuracies in percent, as printed there."""

    dataset: str
    network: str | None
    """Null where the source leaves it open."""
    conv: str
    kernels: int = 4
    top1: str | None = None
    top5: str | None = None
    seconds_per_epoch: str | None = None


def _cifar100_notes() -> Iterator[Published]:
    figures = {1: ("76.94", "125"), 2: ("76.72", "130"), 4: ("76.01-76.76", "126-130")}
    figures |= {8: ("75.66-76.71", "140"), 16: ("77.28", "144")}
    for kernels, (top1, seconds) in figures.items():
        yield Published(
            dataset="cifar100-like",
            network=None,
            conv="fmdconv",
            kernels=kernels,
            top1=top1,
            seconds_per_epoch=seconds,
        )
    yield Published(
        dataset="cifar100-like",
        network=None,
        conv="odconv",
        top1="76.04",
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


def comparison_table(config: ExperimentConfig, summary: Json) -> Table:
    """Put a finished run beside the published results, each labelled with what differs from the run."""
    title = "This run beside published results"
    table = Table(title=title, caption=caption(config, summary), box=SIMPLE_HEAD)
    *described, last = HEADINGS
    for heading in described:
        right = heading.endswith(("%", "epoch"))
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    table.add_column(last)
    own, *published = comparison_rows(config, summary)
    table.add_row(*own, style="bold")
    table.add_section()
    for row in published:
        table.add_row(*row)
    return table


def comparison_rows(config: ExperimentConfig, summary: Json) -> Iterator[tuple[str, ...]]:
    """Give the cells under ``HEADINGS``: first of a finished run, then of the published results."""
    yield (*_own_row(config, summary), "this run")
    for result in PUBLISHED:
        network = _network(result.network or "resnet", result.conv, result.kernels)
        figures = (result.top1, result.top5, result.seconds_per_epoch)
        differs = ", ".join(differences(config, result))
        yield (result.dataset, network, *(figure or "-" for figure in figures), differs)


def differences(config: ExperimentConfig, result: Published) -> list[str]:
    """Name what keeps a published result from being compared with the run, beside hardware and recipe."""
    data, model = config.data, config.model
    checks = {
        "DATASET": data.name != result.dataset,
        "PART OF DATA": data.name == result.dataset and (data.train_samples or data.test_samples),
        "depth": result.network not in (None, model.name),
        "width": model.width != 1,
        "conv": model.conv != result.conv,
        "K": model.conv == result.conv and model.kernels != result.kernels,
    }
    return [name for name, differs in checks.items() if differs]


def _own_row(config: ExperimentConfig, summary: Json) -> tuple[str, ...]:
    model = config.model
    return (
        config.data.name,
        _network(model.name, model.conv, model.kernels),
        f"{100 * summary['final_top1']:.2f}",
        f"{100 * summary['final_top5']:.2f}",
        f"{summary['seconds_per_epoch']:.2f}",
    )


def _network(name: str, conv: str, kernels: int) -> str:
    return f"{name.replace('resnet', 'R')} {conv}" + (f" K={kernels}" if conv != "static" else "")


def caption(config: ExperimentConfig, summary: Json) -> str:
    """Say how far the comparison holds."""
    paper = _is_published_recipe(config.train or TrainConfig())
    recipe = "the published recipe" if paper else "another recipe than the published one"
    machine = f"{summary['processes']} x {summary['device']}, {summary['threads']} threads"
    samples = f"{summary['train_samples']:,} training and {summary['test_samples']:,} test pictures"
    return (
        f"This run: {samples}; {summary['epochs']} epochs, {recipe}; {machine}. Published: one RTX-class "
        f"GPU, {PUBLISHED_EPOCHS} epochs; cifar100-like is from the notes beside the authors' code; R alone: "
        "depth not stated. Seconds on different hardware cannot be compared, nor accuracies on different "
        "datasets."
    )


def _is_published_recipe(train: TrainConfig) -> bool:
    """Say so whatever the machine and the bookkeeping."""
    own, published = (recipe.model_dump(exclude=NO_RECIPE) for recipe in (train, TrainConfig()))
    return own == published


def result_table(summary: Json) -> Table:
    """Lay out the end of a run."""
    table = Table(title=f"{summary['name']}: {summary['epochs']} epochs", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    best = (
        f"{100 * summary['best_top1']:.2f} % (epoch {summary['best_epoch']}, chosen by validation)"
        if summary["best_top1"] is not None
        else f"- ({NO_VALIDATION})"
    )
    remark = chance_remark(summary["final_top1"], summary["num_classes"], summary["test_samples"])
    rows = (
        ("final top-1 / top-5", f"{100 * summary['final_top1']:.2f} / {100 * summary['final_top5']:.2f} %"),
        *([("the final top-1 is", remark)] if remark else []),
        ("best top-1", best),
        ("training, an epoch / in all", _pair(summary, "seconds_per_epoch", "train_seconds", "s")),
        ("IES, an epoch / in all", _pair(summary, "ies_epoch_seconds", "ies_total_seconds", "s")),
        ("inference on the test set", f"{summary['inference_seconds']:.3g} s"),
        ("RCS, correct answers a second", _number(summary["rcs"])),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _pair(summary: Json, first: str, second: str, unit: str) -> str:
    return f"{_number(summary[first])} / {_number(summary[second])} {unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
