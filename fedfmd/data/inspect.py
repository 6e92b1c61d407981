"""Who has what, as tables for a terminal and as a picture."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from fedfmd.data.dataset import Dataset
from fedfmd.data.holdout import IntArray
from fedfmd.data.partition import Partition
from fedfmd.errors import UserError
from fedfmd.files import write_atomic

_ROWS = 20
_BUBBLES = 60
_PICTURES = 20
_NAMED = 10
_HEADED = 40
"""Characters that all names of classes may have together, to head columns."""
_COUNTED = ("clients", "samples")
FIGURE_FORMATS = (".png", ".svg", ".pdf")


Beside = Callable[[int], Mapping[str, str]]
"""What else to say of a client, by heading: the same headings for all."""


def inspect_text(dataset: Dataset, partition: Partition, beside: Beside = lambda _: {}) -> Group:
    """Give two tables for rich's ``print``: the facts, and the samples by client and label.

    At most 20 clients are listed, spread evenly over the population; ``beside`` says more of each.
    """
    return Group(_facts(dataset, partition), _clients(dataset, partition, beside))


def check_format(option: str, path: Path) -> None:
    """Raise ``UserError`` for a file that an option names whose ending is none of a figure."""
    if path.suffix not in FIGURE_FORMATS:
        raise UserError(f"{option} {path}: cannot draw that format; allowed are {', '.join(FIGURE_FORMATS)}")


def draw_partition(dataset: Dataset, partition: Partition, path: Path) -> None:
    """Draw samples by client and label, a histogram of the clients' sizes, and one picture of each class.

    ``path`` ends in .png, .svg or .pdf. At most 60 clients are drawn, spread evenly over the population.
    """
    from matplotlib import rc_context

    content = BytesIO()
    with rc_context({"text.parse_math": False}):  # a class may be called $5 or $10
        _figure(dataset, partition).savefig(content, format=path.suffix[1:], dpi=120)
    write_atomic(path, content.getvalue())


def _figure(dataset: Dataset, partition: Partition) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2), width_ratios=(1, 2))
    _draw_bubbles(figure.add_subfigure(grid[0, :]).subplots(), dataset, partition)
    left, right = figure.add_subfigure(grid[1, 0]), figure.add_subfigure(grid[1, 1])
    _draw_sizes(left.subplots(), partition)
    _draw_pictures(right, dataset)
    return figure


def _spread(partition: Partition, most: int) -> list[int]:
    """Choose at most so many clients, evenly over the population."""
    count = min(partition.num_clients, most)
    return [int(c) for c in np.linspace(0, partition.num_clients - 1, count).round()]


def _counts(dataset: Dataset, partition: Partition, clients: list[int]) -> IntArray:
    return partition.label_counts(dataset.train_labels, dataset.num_classes, clients)


def _facts(dataset: Dataset, partition: Partition) -> Table:
    about = partition.manifest()
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    stored = "x".join(str(n) for n in dataset.train_images.shape[1:])
    seen = "x".join(str(n) for n in dataset.input_shape)
    scheme = ", ".join(f"{key} {value}" for key, value in partition.about.items() if key not in _COUNTED)
    sizes = f"{about['smallest']:,} to {about['largest']:,} samples (median {about['median']:,g})"
    rows = {
        "dataset": f"{dataset.name}: {train:,} training, {test:,} test",
        "pictures": f"{stored} stored, {seen} seen by the network",
        "labels": ", ".join(f"{i} {name}" for i, name in enumerate(dataset.classes[:_NAMED]))
        + (f", ... {dataset.num_classes} in all" if dataset.num_classes > _NAMED else ""),
        **({"read": dataset.note} if dataset.note else {}),
        "partition": scheme,
        "clients": f"{about['clients']:,} with {sizes}",
        "sha256": about["sha256"],
    }
    table = Table(show_header=False, box=None)
    for row in rows.items():
        table.add_row(*row)
    return table


def _clients(dataset: Dataset, partition: Partition, beside: Beside) -> Table:
    chosen = _spread(partition, _ROWS)
    counts = _counts(dataset, partition, chosen)
    by_label = dataset.num_classes <= _NAMED
    names = dict(enumerate(f"{n} {name}" for n, name in enumerate(dataset.owner_names)))
    kept = ["held out"] if partition.holdout_share else []
    headings = [
        "client",
        "samples",
        *kept,
        "labels",
        *(_headed(dataset.classes) if by_label else ()),
    ]
    table = Table(box=SIMPLE_HEAD, padding=0, title=f"{len(chosen):,} of {partition.num_clients:,} clients")
    for heading in headings:
        table.add_column(heading, justify="right", min_width=4, no_wrap=True)
    if not by_label:
        table.add_column("most frequent labels")
    for heading in beside(0):
        table.add_column(heading, no_wrap=True)
    for client, row in zip(chosen, counts, strict=True):
        tested = [f"{partition.holdout_size(client):,}"] if kept else []
        held = [str(n) if n else "·" for n in row] if by_label else [_frequent(dataset, row)]
        said = beside(client).values()
        table.add_row(
            names.get(client, str(client)), f"{row.sum():,}", *tested, str((row > 0).sum()), *held, *said
        )
    return table


def _headed(classes: Sequence[str]) -> Sequence[str]:
    """Head columns by the classes' names where these are short enough for a table; else by number."""
    return classes if sum(map(len, classes)) <= _HEADED else list(map(str, range(len(classes))))


def _frequent(dataset: Dataset, row: IntArray) -> str:
    top = [label for label in np.argsort(-row, kind="stable")[:4] if row[label]]
    return ", ".join(f"{dataset.classes[label]} {row[label]}" for label in top)


def _draw_bubbles(axes: Any, dataset: Dataset, partition: Partition) -> None:
    chosen = _spread(partition, _BUBBLES)
    counts = _counts(dataset, partition, chosen)
    columns, labels = counts.nonzero()
    held = counts[columns, labels]
    axes.scatter(columns, labels, s=180 * held / held.max(), c=labels, cmap="tab10", alpha=0.8, linewidths=0)
    step = max(1, len(chosen) // 20)
    axes.set_xticks(range(0, len(chosen), step), [str(c) for c in chosen[::step]])
    if dataset.num_classes <= 20:
        axes.set_yticks(range(dataset.num_classes), dataset.classes)
    clients = f"client ({len(chosen):,} of {partition.num_clients:,})"
    axes.set_xlabel(f"{clients}; the largest bubble is {held.max():,} samples")
    axes.set_ylabel("label")
    about = partition.about
    alpha = f", alpha {about['alpha']:g}" if "alpha" in about else ""
    axes.set_title(f"{dataset.name}, {about['scheme']}{alpha}, seed {about['seed']}")
    axes.margins(x=0.02)


def _draw_sizes(axes: Any, partition: Partition) -> None:
    axes.hist(partition.sizes, bins=min(30, max(5, partition.num_clients // 3)), color="tab:blue")
    axes.set_xlabel("samples of a client")
    axes.set_ylabel("clients")


def _draw_pictures(figure: Any, dataset: Dataset) -> None:
    shown = range(min(dataset.num_classes, _PICTURES))
    axes = np.asarray(figure.subplots(max(1, -(-len(shown) // 5)), 5)).ravel()
    for label, place in enumerate(axes):
        place.set_axis_off()
        found = (dataset.train_labels == label).nonzero() if label < len(shown) else torch.empty(0)
        if len(found):
            picture = dataset.train_images[int(found[0])].permute(1, 2, 0)
            place.imshow(picture.expand(-1, -1, 3).numpy())
            place.set_title(dataset.classes[label], fontsize=8)
