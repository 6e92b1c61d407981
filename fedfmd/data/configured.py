"""The images that a config asks for, and how it spreads them over the clients."""

import warnings
from pathlib import Path
from typing import Any

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.data.arrays import IntArray
from fedfmd.data.cache import prepare
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition, make_partition
from fedfmd.data.prepared import open_prepared
from fedfmd.data.requests import DataRequest
from fedfmd.errors import InputWarning

MOST_COUNTED_CLIENTS = 10_000
"""Up to this population the manifest says who has how many of each class."""
MOST_COUNTED_SAMPLES = 100_000_000


def prepare_data(config: ExperimentConfig) -> Path:
    """Make the images ready to be memory-mapped; raises ``UserError`` when they are not there."""
    asked = config.data.model_dump(exclude={"root", "resized_crop"})
    natural = config.partition.scheme == "natural"
    root, options = Path(config.data.root), config.own("data")
    return prepare(DataRequest(**asked, root=root, natural=natural, options=options, seed=config.seed))


def open_data(config: ExperimentConfig) -> Dataset:
    """Prepare and open the images as the network sees them; raises ``UserError`` when they are not there."""
    return open_prepared(prepare_data(config)).seen_at(config.data.resized_crop)


def open_noted(config: ExperimentConfig) -> Dataset:
    """Open the images at the start of a run, with an ``InputWarning`` on what was changed or left out."""
    dataset = open_data(config)
    if dataset.note:
        warnings.warn(dataset.note, InputWarning, stacklevel=2)
    return dataset


def partition_data(config: ExperimentConfig, labels: IntArray, owners: IntArray | None = None) -> Partition:
    """Spread the training images, by their ``labels`` int64 (N,), over the clients.

    ``owners`` says whose each is, int64 (N,), where they come with clients of their own.
    """
    keys, options = config.partition.model_dump(), config.own("partition")
    return make_partition(labels, seed=config.seed, owners=owners, **keys, **options)


def partition_noted(config: ExperimentConfig, dataset: Dataset) -> Partition:
    """Spread the images at the start of a run, with an ``InputWarning`` on those that several clients get."""
    partition = partition_data(config, dataset.train_labels, dataset.owners)
    if shared := partition.about.get("shared"):
        warnings.warn(
            f"partition.scheme = {config.partition.scheme!r}: gives {shared:,} images to several clients",
            InputWarning,
            stacklevel=2,
        )
    return partition


def manifest_of(partition: Partition, dataset: Dataset) -> dict[str, Any]:
    """Describe who has what of a dataset as JSON, with counts of labels where there are not too many."""
    manifest = partition.manifest()
    if partition.num_clients <= MOST_COUNTED_CLIENTS and partition.sizes.sum() <= MOST_COUNTED_SAMPLES:
        counts = partition.label_counts(dataset.train_labels, dataset.num_classes)
        manifest["label_counts"] = counts.tolist()
        manifest["class_names"] = list(dataset.classes)
    if dataset.owner_names and partition.about.get("scheme") == "natural":
        manifest["client_names"] = list(dataset.owner_names)
    if dataset.note:
        manifest["note"] = dataset.note
    return manifest
