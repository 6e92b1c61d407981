"""ImageNet-style folders: ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg``."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedfmd.errors import UserError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp"})
Progress = Callable[[int, int], None]


class Listing(NamedTuple):
    """The pictures of one part, by class and name."""

    files: list[Path]
    labels: Tensor


def list_folders(root: Path) -> tuple[Listing, Listing, tuple[str, ...]]:
    """List training and validation pictures and the class names (the training folders, sorted)."""
    classes = _class_folders(root / "train")
    unknown = sorted(set(_class_folders(root / "val")) - set(classes))
    if unknown:
        raise UserError(f"{root / 'val' / unknown[0]}: {root / 'train'} has no such class")
    return _list(root / "train", classes), _list(root / "val", classes), tuple(classes)


def read_pictures(files: Sequence[Path], side: int, progress: Progress | None = None) -> Tensor:
    """Decode to uint8 (N, 3, side, side): the shorter edge resized to ``side``, then the centre cropped.

    Threads, not processes: Pillow lets go of the interpreter while it decodes and resizes.
    ``progress(done, total)`` is called after each picture.
    """
    pictures = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, picture in enumerate(pool.map(lambda path: _decode(path, side), files)):
            pictures[done] = picture
            if progress:
                progress(done + 1, len(files))
    return pictures


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(
            f"imagefolder: {folder} is missing; expected {folder}/CLASS/*.jpg (data.root is {folder.parent})"
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise UserError(f"imagefolder: {folder} holds no class folders; expected {folder}/CLASS/*.jpg")
    return names


def _list(folder: Path, classes: Sequence[str]) -> Listing:
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in EXTENSIONS)
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"imagefolder: {folder} holds no pictures ({', '.join(sorted(EXTENSIONS))})")
    return Listing(files, torch.tensor(labels))


def _decode(path: Path, side: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            # JPEG decodes straight to a half, quarter or eighth, never below twice what is needed.
            image.draft("RGB", (2 * side, 2 * side))
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: damaged picture: {error}") from None
    scale = side / min(picture.size)
    width, height = (max(side, round(edge * scale)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    cropped = picture.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)
