"""Who has what, and what a pack holds, as tables for a terminal."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from fedfmd.data.arrays import IntArray
from fedfmd.data.dataset import Dataset
from fedfmd.data.packs import PARTS
from fedfmd.data.partition import Partition
from fedfmd.units import number

_ROWS = 20
_NAMED = 10
_HEADED = 40
"""Characters that all names of classes may have together, to head columns."""
_COUNTED = ("clients", "samples")
Beside = Callable[[int], Mapping[str, str]]
"""What else to say of a client, by heading: the same headings for all."""


def partition_tables(dataset: Dataset, partition: Partition, beside: Beside = lambda _: {}) -> Group:
    """Give two tables for rich's ``print``: the facts, and the images by client and label.

    At most 20 clients are listed, spread evenly over the population; ``beside`` says more of each.
    """
    return Group(_facts(dataset, partition), _clients(dataset, partition, beside))


def counts_table(dataset: Dataset) -> Table:
    """Return a pack's images per class, for a terminal."""
    table = Table("class", *PARTS)
    for name in dataset.classes:
        table.add_row(name, *(str(dataset.origin[part].get(name, "·")) for part in PARTS))
    return table


def _facts(dataset: Dataset, partition: Partition) -> Table:
    about = partition.manifest()
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    stored = "x".join(str(n) for n in dataset.train_images.shape[1:])
    seen = "x".join(str(n) for n in dataset.input_shape)
    scheme = ", ".join(f"{key} {value}" for key, value in partition.about.items() if key not in _COUNTED)
    sizes = f"{about['smallest']:,} to {about['largest']:,} images (median {number(about['median'])})"
    repeated = dataset.repeated_tests()
    rows = {
        "dataset": f"{dataset.name}: {train:,} training, {test:,} test",
        "images": f"{stored} stored, {seen} seen by the network",
        "labels": ", ".join(f"{i} {name}" for i, name in enumerate(dataset.classes[:_NAMED]))
        + (f", ... {dataset.num_classes} in all" if dataset.num_classes > _NAMED else ""),
        **({"read": dataset.note} if dataset.note else {}),
        **({"repeated": f"{repeated:,} test images are training images, too"} if repeated else {}),
        "partition": scheme,
        "clients": f"{about['clients']:,} with {sizes}",
        "sha256": about["sha256"],
    }
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows.items():
        table.add_row(*row)
    return table


def _clients(dataset: Dataset, partition: Partition, beside: Beside) -> Table:
    chosen = partition.spread(_ROWS)
    counts = partition.label_counts(dataset.train_labels, dataset.num_classes, chosen)
    by_label = dataset.num_classes <= _NAMED
    names = dict(enumerate(f"{n} {name}" for n, name in enumerate(dataset.owner_names)))
    kept = ["held out"] if partition.holdout_share else []
    headings = [
        "client",
        "images",
        *kept,
        "labels",
        *(_headed(dataset.classes) if by_label else ()),
    ]
    table = Table(box=SIMPLE_HEAD, padding=0, title=f"{len(chosen):,} of {partition.num_clients:,} clients")
    for heading in headings:
        table.add_column(heading, justify="right", min_width=2, no_wrap=True)
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
