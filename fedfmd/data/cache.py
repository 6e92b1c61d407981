"""Prepared datasets: one file each, memory-mapped, so that every worker starts at once and shares the pages.

The file is safetensors: tensors as they are, with names, classes and statistics as JSON in its header.
Opening one needs neither torchvision nor a decoder, and reads nothing until a picture is used.
"""

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedfmd.data import embedded, images
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import DataRequest, read_dataset, source_files
from fedfmd.data.folders import Progress
from fedfmd.errors import UserError
from fedfmd.files import sync_folder

_FORMAT = "fedfmd-dataset-2"
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


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
    )
    path = cache_folder() / f"{name}-{_key(request)}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not _is_sound(path):
                save_dataset(read_dataset(request, progress), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}; set FEDFMD_CACHE to another folder") from None
    return path


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset to one file, atomically, with the checksum of its content."""
    tensors = {name: getattr(dataset, name).contiguous() for name in _TENSORS}
    about = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "input_shape": dataset.input_shape,
        "note": dataset.note,
        "crc32": _checksum(tensors),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # safetensors writes from the tensors' own memory; a copy as bytes would double the need.
        save_file(tensors, temporary, {"format": _FORMAT, "about": json.dumps(about)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def open_prepared(path: Path) -> Dataset:
    """Memory-map a file that ``prepare`` or ``write_client_file`` wrote; nothing is copied.

    Structure and length are checked, the content is not (``prepare`` does). Raises ``UserError``.
    """
    tensors, about = _read(path)
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        input_shape=tuple(about["input_shape"]),
        note=about["note"],
        resized_crop=False,
        **tensors,
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise UserError(f"{path}: not a prepared dataset of this version of fedfmd")
            return {name: file.get_tensor(name) for name in _TENSORS}, json.loads(header["about"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such prepared dataset") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged prepared dataset: {error}") from None


def _is_sound(path: Path) -> bool:
    try:
        tensors, about = _read(path)
    except UserError:
        return False
    return bool(_checksum(tensors) == about["crc32"])


def _checksum(tensors: dict[str, torch.Tensor]) -> int:
    value = 0
    for name in _TENSORS:
        value = zlib.crc32(tensors[name].numpy().reshape(-1).view(np.uint8).data, value)
    return value


def _key(request: DataRequest) -> str:
    """Hash what the content depends on: the arguments, the sources' names, sizes and times."""
    arguments = {key: value for key, value in asdict(request).items() if key != "root"}
    digest = hashlib.sha256(
        f"{_FORMAT} {embedded.VERSION} {images.VERSION} {sorted(arguments.items())}".encode()
    )
    for path in source_files(request):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
