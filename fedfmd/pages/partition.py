"""Who has what, as a picture."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.errors import UserError
from fedfmd.files import write_atomic

_BUBBLES = 60
_PICTURES = 20
_ROW = 5
_TITLE = 8
"""Pixels above a picture of 32 pixels."""
FIGURE_FORMATS = (".png", ".svg", ".pdf")


def check_format(option: str, path: Path) -> None:
    """Raise ``UserError`` for a file that an option names whose ending is none of a figure."""
    if path.suffix not in FIGURE_FORMATS:
        raise UserError(f"{option} {path}: cannot draw that format; allowed are {', '.join(FIGURE_FORMATS)}")


def draw_partition(dataset: Dataset, partition: Partition, path: Path) -> None:
    """Draw images by client and label, a histogram of the clients' sizes, and one picture of each class.

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
    _draw_pictures(right.subplots(), dataset)
    return figure


def _draw_bubbles(axes: Any, dataset: Dataset, partition: Partition) -> None:
    chosen = partition.spread(_BUBBLES)
    counts = partition.label_counts(dataset.train_labels, dataset.num_classes, chosen)
    columns, labels = counts.nonzero()
    held = counts[columns, labels]
    axes.scatter(columns, labels, s=180 * held / held.max(), c=labels, cmap="tab10", alpha=0.8, linewidths=0)
    step = max(1, len(chosen) // 20)
    axes.set_xticks(range(0, len(chosen), step), [str(c) for c in chosen[::step]])
    if dataset.num_classes <= 20:
        axes.set_yticks(range(dataset.num_classes), dataset.classes)
    clients = f"client ({len(chosen):,} of {partition.num_clients:,})"
    axes.set_xlabel(f"{clients}; the largest bubble is {held.max():,} images")
    axes.set_ylabel("label")
    about = partition.about
    alpha = f", alpha {about['alpha']:g}" if "alpha" in about else ""
    axes.set_title(f"{dataset.name}, {about['scheme']}{alpha}, seed {about['seed']}")
    axes.margins(x=0.02)


def _draw_sizes(axes: Any, partition: Partition) -> None:
    axes.hist(partition.sizes, bins=min(30, max(5, partition.num_clients // 3)), color="tab:blue")
    axes.set_xlabel("images of a client")
    axes.set_ylabel("clients")


def _draw_pictures(axes: Any, dataset: Dataset) -> None:
    """One image for all: an axes for each picture would take longer than everything else in the figure."""
    labels = range(min(dataset.num_classes, _PICTURES))
    first = [np.flatnonzero(dataset.train_labels == label)[:1] for label in labels]
    shown = [(label, int(found[0])) for label, found in enumerate(first) if len(found)]
    height, width = dataset.train_images.shape[2:]
    tall, wide = height + _TITLE * height // 32, width + width // 8
    sheet = np.full((tall * max(1, -(-len(shown) // _ROW)), wide * _ROW, 3), 255, np.uint8)
    for place, (label, index) in enumerate(shown):
        top, left = place // _ROW * tall, place % _ROW * wide
        channels = dataset.train_images[index]
        colours = channels[:3] if len(channels) >= 3 else channels[:1]
        sheet[top + tall - height : top + tall, left : left + width] = colours.transpose(1, 2, 0)
        axes.text(
            left + width / 2, top + tall - height * 1.04, dataset.classes[label], fontsize=8, ha="center"
        )
    axes.imshow(sheet)
    axes.set_axis_off()
