"""The datasets by name: embedded, CIFAR-10, CIFAR-100, Fashion-MNIST, folders of images, and one's own.

Here is what may be asked for, and of which files it is made; ``fedfmd.data.readers`` reads them.
Nothing is downloaded here: ``fedfmd.data.fetching`` does that. torchvision is imported where it is needed.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfmd.contracts import make
from fedfmd.data import foreign, idx
from fedfmd.data.dataset import Dataset
from fedfmd.data.folders import list_folders
from fedfmd.errors import UserError
from fedfmd.images.decoding import Progress
from fedfmd.registry import find, origin, parameters, register

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

FIXED_SIDE = 32
FIXED_SIZE = {"embedded": (32,), "cifar10": (32,), "cifar100": (32,), "fashion-mnist": (32, idx.SIDE)}
"""How many pixels a side the images of some sets may have, as the network sees them; first what is usual."""
EMBEDDED_SAMPLES = (10_000, 2_000)
"""Training and test images that the embedded set draws unless told otherwise."""
EMBEDDED_VERSION = 1
"""Part of the cache's key: change it whenever the same seed gives other images."""
CLASSES = {"cifar10": 10, "cifar100": 100, "fashion-mnist": 10}
"""Of the sets that always have as many; the embedded set has what is asked for."""
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Which images are wanted; see ``load_dataset``."""

    name: str
    root: Path
    image_size: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    seed: int = 0
    classes: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of a set of one's own: the config's table ``[options.data]``."""
    natural: bool = False
    """Whether the images come with clients: ``imagefolder``'s training folders, or what a set says itself."""

    def __post_init__(self) -> None:
        try:
            find("data", self.name)
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


def load_dataset(
    name: str,
    *,
    root: Path,
    image_size: int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    seed: int = 0,
    classes: int = 10,
    natural: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Read, or draw, a dataset into memory.

    ``root`` is the folder with the files, ``image_size`` the side in pixels for ``imagefolder``, ``classes``
    is for ``embedded``, ``natural`` takes the first level of ``imagefolder``'s training folders for clients.
    ``train_samples`` and ``test_samples`` keep a choice made by ``seed``, which also draws the embedded set.
    ``progress(done, total)`` follows the decoding of ``imagefolder``.
    Raises ``UserError`` for impossible values, missing files (with the command to run) and damaged ones.
    """
    request = DataRequest(
        name=name,
        root=root,
        image_size=image_size,
        train_samples=train_samples,
        test_samples=test_samples,
        seed=seed,
        classes=classes,
        natural=natural,
    )
    return read_dataset(request, progress)


def fixed_shape(name: str, image_size: int | None) -> tuple[int, int, int]:
    """Return the input of networks, C, H, W, by a set of ``FIXED_SIZE``; as it is stored in one channel."""
    stored = name == "fashion-mnist" and image_size == idx.SIDE
    return (1, idx.SIDE, idx.SIDE) if stored else (3, FIXED_SIDE, FIXED_SIDE)


def read_dataset(request: DataRequest, progress: Progress | None = None) -> Dataset:
    """Read, or draw, the dataset of a request; raises ``UserError`` as ``load_dataset`` does."""
    part = find("data", request.name)
    if "request" not in parameters(part):
        from fedfmd.data.readers import read_foreign

        return read_foreign(request, part)
    dataset = make("data", request.name, request=request, progress=progress)
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"data.name = {request.name!r}: makes a {type(dataset).__name__}, where what takes a request "
            "makes a fedfmd.data.Dataset"
        )
    return dataset


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
    folders = [request.root, Path(request.options.get("source") or request.root)]
    found = {path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()}
    return [*sorted(found), Path(module)] if module else sorted(found)


def cifar_class(name: str) -> "type[CIFAR10]":
    """Give torchvision's class for "cifar10" or "cifar100"."""
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
            f"{name}: not found (looked for {missing}); run: fedfmd data fetch {name} --root {root}"
        )
    return files


@register("data", "packs")
def _packs(request: DataRequest) -> Dataset:
    """Stand for what each real client has packed; no request for it gets so far."""
    raise UserError(f"data.name = {request.name!r}: the images are with the clients")


def _built_in(request: DataRequest, progress: Progress | None) -> Dataset:
    from fedfmd.data.readers import READERS

    return READERS[request.name](request, progress)


register("data", "huggingface")(foreign.HuggingFaceSet)
for _name in (*FIXED_SIZE, "imagefolder"):
    register("data", _name, classes=CLASSES.get(_name))(_built_in)
