"""Images in memory, who has them, and how they become batches."""

from fedfmd.data.augment import Augment, epoch_batches
from fedfmd.data.cache import prepare
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import load_dataset
from fedfmd.data.fetching import fetch
from fedfmd.data.folders import list_folders, read_pictures
from fedfmd.data.partition import Partition, make_partition, validation_split
from fedfmd.data.prepared import open_prepared, save_dataset, write_client_file

__all__ = [
    "Augment",
    "Dataset",
    "Partition",
    "epoch_batches",
    "fetch",
    "list_folders",
    "load_dataset",
    "make_partition",
    "open_prepared",
    "prepare",
    "read_pictures",
    "save_dataset",
    "validation_split",
    "write_client_file",
]
