"""Fashion-MNIST's file format (IDX), plain or gzipped, from where torchvision or Debian puts it."""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedfmd.errors import UserError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
Pair = tuple[Path, Path]
"""A file of images and its file of labels."""
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_fashion_mnist(root: Path, system_folder: Path = DEBIAN_FOLDER) -> tuple[Pair, Pair]:
    """Find training and test files where torchvision puts them, in ``root`` itself, or in Debian's folder."""
    folders = (root / "FashionMNIST" / "raw", root, system_folder)
    for folder in folders:
        files = [p for name in FILES for p in (folder / name, folder / f"{name}.gz")]
        found = {p.stem if p.suffix == ".gz" else p.name: p for p in reversed(files) if p.is_file()}
        if len(found) == len(FILES):
            train, test = ((found[FILES[i]], found[FILES[i + 1]]) for i in (0, 2))
            return train, test
    looked = ", ".join(str(folder) for folder in folders)
    raise UserError(
        f"fashion-mnist: not found (looked in {looked}); run: fedfmd data fetch fashion-mnist --root {root}"
        " (or install Debian's package dataset-fashion-mnist)"
    )


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of bytes as uint8 with that many dimensions.

    The header must fit the length, and gzip's own checksum the content; otherwise ``UserError``.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged or unreadable: {error}; remove it and fetch it again") from None
    shape = tuple(int.from_bytes(content[4 + 4 * d : 8 + 4 * d]) for d in range(dimensions))
    header = bytes([0, 0, 8, dimensions])
    if content[:4] != header or len(content) != 4 + 4 * dimensions + prod(shape):
        raise UserError(f"{path}: damaged: not an IDX file of bytes with {dimensions} dimensions")
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def read_labelled(images: Path, labels: Path, classes: int) -> tuple[Tensor, Tensor]:
    """Read uint8 (N, 1, h, w) and int64 (N,) in 0..classes-1 from a pair of files."""
    pictures, targets = read_idx(images, 3)[:, None], read_idx(labels, 1).long()
    if len(pictures) != len(targets):
        raise UserError(f"{labels}: damaged: {len(targets)} labels for {len(pictures)} images")
    if len(targets) and int(targets.max()) >= classes:
        raise UserError(f"{labels}: damaged: label {int(targets.max())}, allowed are 0 to {classes - 1}")
    return pictures, targets
