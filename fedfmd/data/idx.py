"""Fashion-MNIST's file format (IDX), plain or gzipped, from where torchvision or Debian puts it."""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.errors import UserError, pasted, unseen

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE = 28
"""Pixels a side of every image."""
MOST_BYTES = 100_000_000
"""No file holds more, unpacked: twice the largest of the published ones."""
LabelledFiles = tuple[Path, Path]
"""A file of images and its file of labels."""
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_fashion_mnist(
    root: Path, system_folder: Path = DEBIAN_FOLDER
) -> tuple[LabelledFiles, LabelledFiles]:
    """Find training and test files where torchvision puts them, in ``root`` itself, or in Debian's folder.

    Raises ``UserError``, with the command that fetches them, where none of these has all four.
    """
    folders = (root / "FashionMNIST" / "raw", root, system_folder)
    for folder in folders:
        files = [p for name in FILES for p in (folder / name, folder / f"{name}.gz")]
        found = {p.stem if p.suffix == ".gz" else p.name: p for p in reversed(files) if p.is_file()}
        if len(found) == len(FILES):
            train, test = ((found[FILES[i]], found[FILES[i + 1]]) for i in (0, 2))
            return train, test
    looked = ", ".join(str(folder) for folder in folders)
    raise UserError(
        f"fashion-mnist: not found (looked in {looked}); run: fedfmd data fetch fashion-mnist --root "
        f"{pasted(root)} (or install Debian's package dataset-fashion-mnist)"
    )


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read an IDX file of bytes as uint8 with that many dimensions.

    Its header must fit its length, and gzip's own checksum the content; no more is unpacked than the header
    declares, and that is at most ``MOST_BYTES``. Otherwise ``UserError``, and ``OSError`` where the system
    does not let it be read.
    """
    header_bytes = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(header_bytes)
            shape = tuple(int.from_bytes(header[4 + 4 * d : 8 + 4 * d]) for d in range(dimensions))
            declared = prod(shape)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < header_bytes:
                raise damaged(path, f"not an IDX file of bytes with {dimensions} dimensions")
            if not 0 < declared <= MOST_BYTES:
                raise damaged(path, f"declares {declared:,} values, allowed are 1 to {MOST_BYTES:,}")
            content = file.read(declared + 1)
    except (OSError, EOFError, zlib.error) as error:
        if unseen(error):
            raise
        raise damaged(path, str(error)) from None
    if len(content) != declared:
        holds = "more" if len(content) > declared else f"{len(content):,}"
        raise damaged(path, f"declares {declared:,} values and holds {holds}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape).copy()


def damaged(path: Path, reason: str) -> UserError:
    """Return the refusal of a file that is not as it was published."""
    return UserError(f"{path}: damaged: {reason}; remove it and fetch it again")


def read_labelled(images: Path, labels: Path, classes: int) -> tuple[Bytes, IntArray]:
    """Read uint8 (N, 1, 28, 28) and int64 (N,) in 0..classes-1 from a pair of files.

    Raises ``UserError`` for a file that is damaged, or that does not fit the other.
    """
    pictures, targets = read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64)
    height, width = pictures.shape[2:]
    if (height, width) != (SIDE, SIDE):
        raise damaged(images, f"images of {height} x {width}, allowed is {SIDE} x {SIDE}")
    if len(pictures) != len(targets):
        raise damaged(labels, f"{len(targets)} labels for {len(pictures)} images")
    if int(targets.max()) >= classes:
        raise damaged(labels, f"label {int(targets.max())}, allowed are 0 to {classes - 1}")
    return pictures, targets
