"""A dataset as one file, memory-mapped, so that every worker starts at once and shares the pages.

The file is safetensors: arrays as they are, with names, classes and statistics as JSON in its header.
Opening one needs neither PyTorch nor a decoder, and reads nothing until an image is used.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfmd.data.dataset import FORMAT, Dataset
from fedfmd.data.partition import Partition
from fedfmd.errors import UserError
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_OWNERS = "owners"
"""Only in files of images that come with clients of their own."""


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset to one file, atomically, with the checksum of its content."""
    arrays = {name: np.asarray(getattr(dataset, name)) for name in _ARRAYS}
    if dataset.owners is not None:
        arrays[_OWNERS] = np.asarray(dataset.owners)
    about = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "input_shape": dataset.input_shape,
        "note": dataset.note,
        **({"origin": dict(dataset.origin)} if dataset.origin else {}),
        **({"owner_names": dataset.owner_names} if dataset.owner_names else {}),
    }
    write_sealed(path, arrays, about, FORMAT)


def open_prepared(path: Path, *, check: bool = False) -> Dataset:
    """Memory-map a file that ``prepare`` or ``write_client_file`` wrote; nothing is copied.

    Structure and length are checked, the content where ``check`` asks for it (``prepare`` has done it).
    Raises ``UserError``.
    """
    arrays, about = _read(path, check=check)
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        input_shape=tuple(about["input_shape"]),
        note=about["note"],
        resized_crop=False,
        origin=about.get("origin", {}),
        owner_names=tuple(about.get("owner_names", ())),
        **arrays,
    )


def is_sound(path: Path) -> bool:
    """Whether the file is there and whole; its content is read."""
    try:
        _read(path, check=True)
    except UserError:
        return False
    return True


def _read(path: Path, *, check: bool) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    try:
        arrays, about = read_sealed(path, FORMAT, check=check)
        owners = {_OWNERS: arrays[_OWNERS]} if _OWNERS in arrays else {}
        return {name: arrays[name] for name in _ARRAYS} | owners, about
    except FileNotFoundError:
        raise UserError(f"{path}: no such prepared dataset") from None
    except (DamagedFileError, KeyError) as error:
        raise UserError(
            f"{path}: no prepared dataset, or a damaged one: {error}; prepare or pack it anew"
        ) from None


def write_client_file(dataset: Dataset, partition: Partition, client: int, path: Path) -> None:
    """Write one client's own training images as a file for ``open_prepared``; its holdout is the test part.

    It holds nothing of the other clients but the whole training set's mean and standard deviation, which
    every client needs to see its images as the others do.
    """
    kept = partition.holdout(client)
    own = dataset.subset(partition.indices(client))
    images, labels = dataset.train_images[kept], dataset.train_labels[kept]
    save_dataset(replace(own, test_images=images, test_labels=labels, owner_names=()), path)
