"""Prepared datasets: one file each, memory-mapped, so that every worker starts at once and shares the pages.

The file is safetensors: tensors as they are, with names, classes and statistics as JSON in its header.
Opening one needs neither torchvision nor a decoder, and reads nothing until an image is used.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fedfmd.data import embedded, images
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import DataRequest, read_dataset, source_files
from fedfmd.data.folders import Progress
from fedfmd.errors import UserError
from fedfmd.files import locked, remove_leftovers
from fedfmd.sealed import DamagedFileError, read_sealed, write_sealed

_FORMAT = "fedfmd-dataset-2"
_found_sound: set[tuple[str, int, int, int]] = set()
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
_OWNERS = "owners"
"""Only in files of images that come with clients of their own."""


def cache_folder() -> Path:
    """Give ``$FEDFMD_CACHE``, or ``$XDG_CACHE_HOME/fedfmd``, or ``~/.cache/fedfmd``."""
    if folder := os.environ.get("FEDFMD_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedfmd"


def prepare(
    name: str,
    *,
    root: Path,
    image_size: int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    seed: int = 0,
    classes: int = 10,
    natural: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Path:
    """Give the cache file of a dataset, made now if it is missing, outdated or damaged.

    The arguments are those of ``load_dataset``. The file's name is a hash of them and of the size and time
    of every source file. Processes that ask for the same file at the same time wait for the one that
    makes it. The content of a file that is there is checked against its checksum.
    """
    request = DataRequest(
        name=name,
        root=root.expanduser().absolute(),
        image_size=image_size,
        train_samples=train_samples,
        test_samples=test_samples,
        seed=seed,
        classes=classes,
        natural=natural,
        options=dict(options),
    )
    path = cache_folder() / f"{re.sub('[^A-Za-z0-9._-]', '-', name)}-{_key(request)}.safetensors"
    try:
        if _is_sound(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            remove_leftovers(path.parent)
            if not _is_sound(path):
                save_dataset(read_dataset(request, progress), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}; set FEDFMD_CACHE to another folder") from None
    return path


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset to one file, atomically, with the checksum of its content."""
    tensors = {name: getattr(dataset, name).contiguous() for name in _TENSORS}
    if dataset.owners is not None:
        tensors[_OWNERS] = dataset.owners.contiguous()
    about = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "input_shape": dataset.input_shape,
        "note": dataset.note,
        **({"origin": dict(dataset.origin)} if dataset.origin else {}),
    }
    write_sealed(path, tensors, about, _FORMAT)


def open_prepared(path: Path, *, check: bool = False) -> Dataset:
    """Memory-map a file that ``prepare`` or ``write_client_file`` wrote; nothing is copied.

    Structure and length are checked, the content where ``check`` asks for it (``prepare`` has done it).
    Raises ``UserError``.
    """
    tensors, about = _read(path, check=check)
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        input_shape=tuple(about["input_shape"]),
        note=about["note"],
        resized_crop=False,
        origin=about.get("origin", {}),
        **tensors,
    )


def _read(path: Path, *, check: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        tensors, about = read_sealed(path, _FORMAT, check=check)
        owners = {_OWNERS: tensors[_OWNERS]} if _OWNERS in tensors else {}
        return {name: tensors[name] for name in _TENSORS} | owners, about
    except FileNotFoundError:
        raise UserError(f"{path}: no such prepared dataset") from None
    except (DamagedFileError, KeyError) as error:
        raise UserError(f"{path}: damaged prepared dataset: {error}; delete it and prepare it anew") from None


def _is_sound(path: Path) -> bool:
    """Whether the file is there and whole; its content is read once by this process, unless it changes."""
    try:
        status = path.stat()
        version = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if version not in _found_sound:
            _read(path, check=True)
            _found_sound.add(version)
    except (OSError, UserError):
        return False
    return True


def _key(request: DataRequest) -> str:
    """Hash what the content depends on: the arguments, the sources' names, sizes and times."""
    arguments = {key: value for key, value in asdict(request).items() if key != "root"}
    if not request.natural:
        del arguments["natural"]
    digest = hashlib.sha256(
        f"{_FORMAT} {embedded.VERSION} {images.VERSION} {sorted(arguments.items())}".encode()
    )
    for path in source_files(request):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]
