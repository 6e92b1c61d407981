"""Which images may be asked for, and of which files they are made; ``fedfmd.data.datasets`` reads them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfmd.data import idx
from fedfmd.data.folders import list_folders
from fedfmd.errors import UserError, pasted
from fedfmd.registry import check_name, origin

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

FIXED_SIDE = 32
FIXED_SIZE = {"embedded": (32,), "cifar10": (32,), "cifar100": (32,), "fashion-mnist": (32, idx.SIDE)}
"""How many pixels a side the images of some sets may have, as the network sees them; first what is usual."""
EMBEDDED_SAMPLES = (10_000, 2_000)
"""Training and test images that the embedded set draws unless told otherwise."""
EMBEDDED_VERSION = 1
"""Part of the cache's key: change it whenever the same seed gives other images."""
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Which images are wanted; raises ``UserError`` for impossible values."""

    name: str
    root: Path
    """Folder with the files."""
    image_size: int | None = None
    """Side in pixels, where the set does not fix it."""
    train_samples: int | None = None
    """How many to choose by the seed; null for all."""
    test_samples: int | None = None
    seed: int = 0
    """It also draws the embedded set."""
    classes: int = 10
    """Of the embedded set."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of a set of one's own: the config's table ``[options.data]``."""
    natural: bool = False
    """Whether the images come with clients: ``imagefolder``'s training folders, or what a set says itself."""

    def __post_init__(self) -> None:
        try:
            check_name("data", self.name)
        except UserError as error:
            raise UserError(f"data.name = {self.name!r}: {error}") from None
        if self.name == "packs":
            raise UserError(
                'data.name = "packs": real clients bring these images (fedfmd data pack, fedfmd deploy); to '
                "simulate, name another set"
            )
        for key in ("train_samples", "test_samples"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"data.{key} = {value}: must be at least 1")
        if self.name == "embedded" and self.classes not in (10, 100):
            raise UserError(f"data.classes = {self.classes}: the embedded set has 10 or 100 classes")
        if self.name == "imagefolder" and (self.image_size is None or self.image_size < 8):
            raise UserError(
                f"data.image_size = {self.image_size}: imagefolder needs a side of 8 pixels or more, as 64"
            )
        allowed = FIXED_SIZE.get(self.name, ())
        if allowed and self.image_size not in (None, *allowed):
            sides = " or ".join(map(str, allowed))
            raise UserError(f"data.image_size = {self.image_size}: {self.name} allows only {sides}")


def fixed_shape(name: str, image_size: int | None) -> tuple[int, int, int]:
    """Return the input of networks, C, H, W, by a set of ``FIXED_SIZE``; as it is stored in one channel."""
    stored = name == "fashion-mnist" and image_size == idx.SIDE
    return (1, idx.SIDE, idx.SIDE) if stored else (3, FIXED_SIDE, FIXED_SIDE)


def source_files(request: DataRequest) -> list[Path]:
    """List the files a dataset is read from; raises ``UserError`` when they are missing."""
    if request.name == "embedded":
        return []
    if request.name == "fashion-mnist":
        return [path for pair in idx.find_fashion_mnist(request.root) for path in pair]
    if request.name == "imagefolder":
        train, test, _ = list_folders(request.root, natural=request.natural)
        return [*train.files, *test.files]
    if request.name not in FIXED_SIZE:
        return foreign_files(request)
    # By folder, not by torchvision's list: importing it takes longer than all else that a cached run needs.
    files = sorted(path for path in (request.root / CIFAR_FOLDERS[request.name]).glob("*") if path.is_file())
    return files or [path for path, _ in cifar_files(request.root, cifar_class(request.name))]


def foreign_files(request: DataRequest) -> list[Path]:
    """List what a set of one's own may be read from: its module, and the files below the data's folders."""
    part = origin("data", request.name)
    module = getattr(sys.modules.get(part.module), "__file__", None) if part else None
    source = request.options.get("source")
    folders = [request.root, *([Path(source)] if isinstance(source, str) else [])]
    found = {path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()}
    return [*sorted(found), Path(module)] if module else sorted(found)


def cifar_class(name: str) -> "type[CIFAR10]":
    """Return torchvision's class for "cifar10" or "cifar100"."""
    from torchvision.datasets import CIFAR10, CIFAR100

    source: type[CIFAR10] = CIFAR100 if name == "cifar100" else CIFAR10
    return source


def cifar_files(root: Path, source: "type[CIFAR10]") -> list[tuple[Path, str]]:
    """List CIFAR's files with their MD5, which is torchvision's; raises ``UserError`` if one is missing."""
    folder = root / source.base_folder
    pairs = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    files = [(folder / name, md5) for name, md5 in pairs]
    missing = next((path for path, _ in files if not path.is_file()), None)
    if missing:
        name = next(name for name, place in CIFAR_FOLDERS.items() if place == source.base_folder)
        raise UserError(
            f"{name}: not found (looked for {missing}); run: fedfmd data fetch {name} --root {pasted(root)}"
        )
    return files
