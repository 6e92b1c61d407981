"""The datasets by name: embedded, CIFAR-10, CIFAR-100, Fashion-MNIST, folders of images, and one's own.

Nothing is downloaded here: ``fedfmd.data.fetching`` does that. torchvision is imported where it is needed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedfmd.contracts import make
from fedfmd.data import embedded, foreign, idx
from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.data.dataset import Dataset
from fedfmd.data.folders import Listing, list_folders, reading_note, remarks_on
from fedfmd.data.foreign import Items, class_names, in_colours, open_part, read_items, read_owners
from fedfmd.data.requests import EMBEDDED_SAMPLES, DataRequest, cifar_class, cifar_files, fixed_shape
from fedfmd.data.statistics import channel_statistics
from fedfmd.errors import UserError
from fedfmd.images.decoding import Progress, decode
from fedfmd.registry import find, parameters, register
from fedfmd.seeds import generator

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

Labelled = tuple[Bytes, IntArray]
"""Images uint8 (N, c, h, w) and labels int64 (N,)."""
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


def load_dataset(name: str, *, root: Path, **wanted: Any) -> Dataset:
    """Read, or draw, a dataset into memory, by the fields of ``DataRequest``; see ``read_dataset``."""
    return read_dataset(DataRequest(name=name, root=root, **wanted))


def read_dataset(request: DataRequest, progress: Progress | None = None) -> Dataset:
    """Read, or draw, the dataset of a request; ``progress(done, total)`` follows the decoding of images.

    Raises ``UserError`` for missing files (with the command to run) and damaged ones.
    """
    part = find("data", request.name)
    if "request" not in parameters(part):
        return _foreign(request, part)
    dataset = make("data", request.name, request=request, progress=progress)
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"data.name = {request.name!r}: makes a {type(dataset).__name__}, where what takes a request "
            "makes a fedfmd.data.dataset.Dataset"
        )
    return dataset


@register("data", "packs")
def _packs(request: DataRequest) -> Dataset:
    """Stand for what each real client has packed; no request for it gets so far."""
    raise UserError(f"data.name = {request.name!r}: the images are with the clients")


register("data", "huggingface")(foreign.HuggingFaceSet)


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
    train, test = ((p.data.transpose(0, 3, 1, 2), np.array(p.targets)) for p in parts)
    train, test = _chosen(request, train, "train"), _chosen(request, test, "test")
    return _assembled(request, train, test, classes=tuple(parts[0].classes), input_shape=(3, 32, 32))


@register("data", "cifar10", classes=10)
@register("data", "cifar100", classes=100)
def _cifar(request: DataRequest) -> Dataset:
    return read_cifar(request, cifar_class(request.name))


def _foreign(request: DataRequest, part: Callable[..., Any]) -> Dataset:
    """Read a set by a part of one's own; see ``fedfmd.data.foreign``."""
    parts = list[Items]()
    classes, owners = tuple[str, ...](), None
    for key in ("train", "test"):
        opened = open_part(part, request.name, request.root, request.options, train=key == "train")
        read_items(opened, [0], request.image_size, request.name)  # tells what is no set of images
        taken = _choice(request, len(opened), key)
        places = range(len(opened)) if taken is None else taken.tolist()
        parts.append(read_items(opened, places, request.image_size, request.name))
        classes = max(classes, class_names(opened, parts[-1].labels, request.name), key=len)
        if request.natural and key == "train":
            owners = read_owners(opened, places, request.name)
    if len(classes) < 2:
        raise UserError(f"data.name = {request.name!r}: has {len(classes)} class; there is nothing to learn")
    channels = max(part.images.shape[1] for part in parts)
    images = [in_colours(part.images, channels) for part in parts]
    shape = images[0].shape[1:]
    if images[1].shape[1:] != shape:
        raise UserError(f"data.name = {request.name!r}: test images differ in size: set data.image_size")
    pairs = ((pixels, part.labels) for pixels, part in zip(images, parts, strict=True))
    done = sum((part.remarks for part in parts), Counter[str]())
    note = "; ".join(remarks_on(done, {}))
    dataset = _assembled(
        request,
        *pairs,
        classes=classes,
        input_shape=(shape[0], shape[1], shape[2]),
        note=f"{request.name}: {note}" if note else "",
    )
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


@register("data", "fashion-mnist", classes=10)
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
    train_images, changes = decode(train.files, side, first)
    test_images, more = decode(test.files, side, later)
    pairs = (train_images, train.labels), (test_images, test.labels)
    note = reading_note(request.root, (train, test), changes + more, classes)
    dataset = _assembled(request, *pairs, classes=classes, input_shape=(3, side, side), note=note)
    return replace(dataset, owners=train.owners, owner_names=train.clients)


def _chosen_files(request: DataRequest, part: Listing, key: str) -> Listing:
    chosen = _choice(request, len(part.files), key)
    return part if chosen is None else part.chosen(chosen)


def _chosen(request: DataRequest, part: Labelled, key: str) -> Labelled:
    chosen = _choice(request, len(part[1]), key)
    return part if chosen is None else (part[0][chosen], part[1][chosen])


def _choice(request: DataRequest, available: int, key: str) -> IntArray | None:
    """Choose ``train_samples`` or ``test_samples`` of what is there by the seed; None is all."""
    wanted = request.train_samples if key == "train" else request.test_samples
    if wanted is None or wanted == available:
        return None
    if wanted > available:
        raise UserError(f"data.{key}_samples = {wanted}: {request.name} has {available}")
    rng = generator(request.seed, f"choice-{key}")
    order: IntArray = torch.randperm(available, generator=rng).numpy()
    return np.sort(order[:wanted])


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
        train_images=np.ascontiguousarray(train[0]),
        train_labels=train[1],
        test_images=np.ascontiguousarray(test[0]),
        test_labels=test[1],
        classes=classes,
        mean=mean,
        std=std,
        input_shape=input_shape,
        note=note,
    )
