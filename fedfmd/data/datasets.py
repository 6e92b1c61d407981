"""The datasets by name: embedded, CIFAR-10, CIFAR-100, Fashion-MNIST, and folders of images.

Nothing is downloaded here: ``fedfmd.data.fetching`` does that. torchvision is imported where it is needed.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedfmd.contracts import make
from fedfmd.data import embedded, idx
from fedfmd.data.dataset import Dataset, channel_statistics
from fedfmd.data.folders import Listing, list_folders, read_with_remarks, reading_note
from fedfmd.data.foreign import class_names, open_part, read_items, read_owners
from fedfmd.errors import UserError
from fedfmd.images.decoding import Progress
from fedfmd.registry import find, origin, parameters, register
from fedfmd.seeds import generator

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

Labelled = tuple[Tensor, Tensor]
"""Images uint8 (N, c, h, w) and labels int64 (N,)."""
FIXED_SIDE = 32
FIXED_SIZE = {"embedded": (32,), "cifar10": (32,), "cifar100": (32,), "fashion-mnist": (32, idx.SIDE)}
"""How many pixels a side the images of some sets may have, as the network sees them; first what is usual."""
EMBEDDED_SAMPLES = (10_000, 2_000)
"""Training and test images that the embedded set draws unless told otherwise."""
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


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
    """Do what ``load_dataset`` says, for a request in one piece."""
    part = find("data", request.name)
    if "request" not in parameters(part):
        return _foreign(request, part)
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


def check_published(name: str, files: Iterable[tuple[Path, str]]) -> None:
    """Raise ``UserError`` for the first of a set's files whose MD5 is not the published one beside it."""
    from torchvision.datasets.utils import check_integrity

    for path, md5 in files:
        if not check_integrity(path, md5):
            raise UserError(f"{path}: damaged (MD5 is not {md5}); remove it and fetch {name} again")


def read_cifar(request: DataRequest, source: "type[CIFAR10]") -> Dataset:
    """Read CIFAR by a torchvision class, after checking each file's MD5 so that the damaged one is named."""
    check_published(request.name, cifar_files(request.root, source))
    parts = [source(request.root, train=train) for train in (True, False)]
    train, test = ((torch.from_numpy(p.data).permute(0, 3, 1, 2), torch.tensor(p.targets)) for p in parts)
    train, test = _chosen(request, train, "train"), _chosen(request, test, "test")
    return _assembled(request, train, test, classes=tuple(parts[0].classes), input_shape=(3, 32, 32))


def _read_cifar(request: DataRequest) -> Dataset:
    return read_cifar(request, cifar_class(request.name))


@register("data", "packs")
def _packs(request: DataRequest) -> Dataset:
    """Stand for what each real client has packed; no request for it gets so far."""
    raise UserError(f"data.name = {request.name!r}: the images are with the clients")


register("data", "cifar10")(_read_cifar)
register("data", "cifar100")(_read_cifar)


def _foreign(request: DataRequest, part: Callable[..., Any]) -> Dataset:
    """Read a set by a part of one's own; see ``fedfmd.data.foreign``."""
    pairs = list[Labelled]()
    classes, owners = tuple[str, ...](), None
    for key in ("train", "test"):
        opened = open_part(part, request.name, request.root, request.options, train=key == "train")
        read_items(opened, [0], request.image_size, request.name)  # tells what is no set of images
        taken = _choice(request, len(opened), key)
        places = range(len(opened)) if taken is None else taken.tolist()
        pairs.append(read_items(opened, places, request.image_size, request.name))
        classes = max(classes, class_names(opened, pairs[-1][1]), key=len)
        if request.natural and key == "train":
            owners = read_owners(opened, places, request.name)
    shape = pairs[0][0].shape[1:]
    if pairs[1][0].shape[1:] != shape:
        raise UserError(f"data.name = {request.name!r}: test images differ in size: set data.image_size")
    dataset = _assembled(request, *pairs, classes=classes, input_shape=(shape[0], shape[1], shape[2]))
    return replace(dataset, owners=owners)


@register("data", "embedded")
def _embedded(request: DataRequest) -> Dataset:
    counts = (request.train_samples or EMBEDDED_SAMPLES[0], request.test_samples or EMBEDDED_SAMPLES[1])
    train, test = (
        embedded.make_embedded(samples=n, classes=request.classes, seed=request.seed, stream=stream)
        for n, stream in zip(counts, ("train", "test"), strict=True)
    )
    return _assembled(
        request, train, test, classes=embedded.class_names(request.classes), input_shape=(3, 32, 32)
    )


@register("data", "fashion-mnist")
def _fashion_mnist(request: DataRequest) -> Dataset:
    files = idx.find_fashion_mnist(request.root)
    train, test = (idx.read_labelled(*pair, 10) for pair in files)
    train, test = _chosen(request, train, "train"), _chosen(request, test, "test")
    shape = fixed_shape(request.name, request.image_size)
    return _assembled(request, train, test, classes=FASHION_CLASSES, input_shape=shape)


@register("data", "imagefolder")
def _imagefolder(request: DataRequest, progress: Progress | None) -> Dataset:
    side = request.image_size or 0
    *listed, classes = list_folders(request.root, natural=request.natural)
    # Choose before decoding: a thousand images of ImageNet must not cost a million decodings.
    train, test = (
        _chosen_files(request, part, key) for part, key in zip(listed, ("train", "test"), strict=True)
    )
    total = len(train.files) + len(test.files)
    later = (lambda done, _: progress(len(train.files) + done, total)) if progress else None
    first = (lambda done, _: progress(done, total)) if progress else None
    train_images, changes = read_with_remarks(train.files, side, first)
    test_images, more = read_with_remarks(test.files, side, later)
    pairs = (train_images, train.labels), (test_images, test.labels)
    note = reading_note(request.root, (train, test), changes + more, classes)
    dataset = _assembled(request, *pairs, classes=classes, input_shape=(3, side, side), note=note)
    return replace(dataset, owners=train.owners)


def _chosen_files(request: DataRequest, part: Listing, key: str) -> Listing:
    chosen = _choice(request, len(part.files), key)
    return part if chosen is None else part.chosen(chosen)


def _chosen(request: DataRequest, part: Labelled, key: str) -> Labelled:
    chosen = _choice(request, len(part[1]), key)
    return part if chosen is None else (part[0][chosen], part[1][chosen])


def _choice(request: DataRequest, available: int, key: str) -> Tensor | None:
    """Choose ``train_samples`` or ``test_samples`` of what is there by the seed; None is all."""
    wanted = request.train_samples if key == "train" else request.test_samples
    if wanted is None or wanted == available:
        return None
    if wanted > available:
        raise UserError(f"data.{key}_samples = {wanted}: {request.name} has {available}")
    rng = generator(request.seed, f"choice-{key}")
    return torch.randperm(available, generator=rng)[:wanted].sort().values


def _assembled(
    request: DataRequest,
    train: Labelled,
    test: Labelled,
    *,
    classes: tuple[str, ...],
    input_shape: tuple[int, int, int],
    note: str = "",
) -> Dataset:
    mean, std = channel_statistics(train[0])
    return Dataset(
        name=request.name,
        train_images=train[0].contiguous(),
        train_labels=train[1],
        test_images=test[0].contiguous(),
        test_labels=test[1],
        classes=classes,
        mean=mean,
        std=std,
        input_shape=input_shape,
        note=note,
    )
