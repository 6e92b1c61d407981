"""Sets that other code reads: any ``torch.utils.data.Dataset``, and any set of Hugging Face's.

A part of the kind ``data`` is called once for training and once for testing, with those of ``root`` (the
config's ``data.root``), ``train``, ``split`` ("train" or "test") and of ``[options.data]`` that it takes, as
torchvision's sets are: ``data.name = "torchvision.datasets:MNIST"``. What it returns has a length and gives
(image, label) by index; it may have ``classes``, the labels' names or how many there are, and ``clients``,
whose each item is.

Images of PIL become 8-bit RGB, or grey, by the rules for files (`fedfmd.images.reading`). Arrays and tensors
are uint8, uint16 of 0 to 65535, or floats of 0 to 1; of three dimensions the channels are the first or the
last one: that of 1 or 3, or else the shorter.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fedfmd.data.agreement import MOST_CLASSES
from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.data.folders import readable
from fedfmd.errors import FAULTS, UserError, told
from fedfmd.images.reading import DEEP, eight_bits
from fedfmd.registry import chosen

COLOURS = 3
"""Channels of an image that is not grey."""


class Items(NamedTuple):
    """Images uint8 (N, c, h, w), labels int64 (N,), and what was done to the images, counted."""

    images: Bytes
    labels: IntArray
    remarks: Counter[str]


def open_part(
    part: Callable[..., Any], name: str, root: Path, options: Mapping[str, Any], *, train: bool
) -> Any:
    """Return the training or the test set of a part; raises ``UserError`` when it cannot be opened."""
    given = {"root": str(root), "train": train, "split": "train" if train else "test", **options}
    try:
        opened = part(**chosen(part, given))
        images = len(opened)
    except UserError:
        raise
    except FAULTS as error:  # whatever another's code does
        raise UserError(f"data.name = {name!r}: cannot be opened: {told(error)}") from error
    if not images:
        raise UserError(f"data.name = {name!r}: has no {'training' if train else 'test'} images")
    return opened


def read_items(dataset: Any, places: Sequence[int], side: int | None, name: str) -> Items:
    """Return the images and labels of some places of a set.

    With a ``side`` images are resized to squares; where some are grey and others are not, grey ones have
    their channel repeated. Raises ``UserError`` for what is no labelled image, and for images of several
    sizes without a side.
    """
    images, labels, remarks = list[Tensor](), list[int](), Counter[str]()
    for place in places:
        try:
            image, label = dataset[place]
            pixels, changes = _eight_bits(image)
            images.append(_resized(pixels, side))
            labels.append(_whole(label))
            remarks.update(changes)
        except FAULTS as error:  # whatever another's code does
            what = f"data.name = {name!r}: item {place}: is no (image, label)"
            raise UserError(f"{what}: {told(error)}") from error
    channels = max((len(image) for image in images), default=1)
    coloured = [in_colours(image.numpy(), channels) for image in images]
    if len({len(image) for image in coloured}) > 1:
        raise UserError(f"data.name = {name!r}: its images differ in their number of channels")
    if len({image.shape for image in coloured}) > 1:
        raise UserError(f"data.name = {name!r}: its images differ in size: set data.image_size, as 32")
    return Items(np.stack(coloured), np.array(labels, dtype=np.int64), remarks)


def in_colours(images: Bytes, channels: int) -> Bytes:
    """Return uint8 (..., c, h, w) with the channel repeated where it is grey and ``channels`` are three."""
    grey = images.shape[-3] == 1 and channels == COLOURS
    return np.repeat(images, COLOURS, axis=-3) if grey else images


def read_owners(dataset: Any, places: Sequence[int], name: str) -> IntArray:
    """Return whose some items of a set are, int64 (N,): numbers in the order of all clients' names.

    Raises ``UserError`` for a set that does not say it.
    """
    try:
        said = getattr(dataset, "clients", None)
        whose = [] if said is None else list(said)
    except FAULTS as error:  # whatever another's code does
        raise UserError(f"data.name = {name!r}: clients: no names: {told(error)}") from error
    if len(whose) != len(dataset):
        how = (
            "options.data.client = 'COLUMN'"
            if name == "huggingface"
            else "an attribute `clients` with a name"
        )
        raise UserError(
            f'data.name = {name!r}: partition.scheme = "natural" needs to know whose each image is: {how}'
        )
    names = [str(one) for one in whose]
    numbers = {one: i for i, one in enumerate(sorted(set(names), key=lambda one: (len(one), one)))}
    return np.array([numbers[names[place]] for place in places], dtype=np.int64)


def class_names(dataset: Any, labels: IntArray, name: str) -> tuple[str, ...]:
    """Return the names of the classes, which are numbers where the set names none.

    Raises ``UserError`` for names that are not one for each label.
    """
    count = int(labels.max()) + 1
    what = f"data.name = {name!r}: classes"
    try:
        given = getattr(dataset, "classes", None)
        given = count if given is None else given
        if isinstance(given, int | np.integer) and not 0 < given <= MOST_CLASSES:
            raise ValueError(f"{given} is not from 1 to {MOST_CLASSES:,}")
        names = range(given) if isinstance(given, int | np.integer) else given
        named = tuple(readable(str(one)) for one in names)
    except FAULTS as error:  # whatever another's code does
        raise UserError(f"{what}: neither names nor how many: {told(error)}") from error
    if len(named) < count:
        raise UserError(f"{what}: names {len(named)}, and there is the label {count - 1}; name one per label")
    if twice := next((one for one in named if named.count(one) > 1), None):
        raise UserError(f"{what}: names {twice!r} twice: each class needs a name of its own")
    return named


def _whole(label: Any) -> int:
    """Return a label as an integer; raises ``ValueError`` for one that is none from 0 on."""
    if int(label) != label or not 0 <= label < MOST_CLASSES:
        raise ValueError(f"label {label!r}: labels must be 0, 1, 2, ... below {MOST_CLASSES:,}")
    return int(label)


class HuggingFaceSet:
    """One split of any image set that flwr-datasets loads: a name on the hub, or a folder.

    ``source`` is what ``datasets.load_dataset`` takes, ``subset`` its configuration; ``image`` and ``label``
    name the columns where the set has several of a kind, ``client`` that of an image's owner (for
    ``partition.scheme = "natural"``), and ``test`` the split that is tested on.
    """

    def __init__(
        self,
        train: bool,
        source: str,
        subset: str | None = None,
        image: str | None = None,
        label: str | None = None,
        client: str | None = None,
        test: str = "test",
    ):
        from flwr_datasets import FederatedDataset  # takes seconds to import

        loader = FederatedDataset(dataset=source, subset=subset or "default", partitioners={}, shuffle=False)
        self.table = loader.load_split("train" if train else test)
        features = self.table.features
        self.image = _column(features, "Image", "image", image)
        self.label = _column(features, "ClassLabel", "label", label)
        self.classes = getattr(features[self.label], "names", None)
        self.clients = list(self.table[_column(features, "", "client", client)]) if client and train else None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        row = self.table[place]
        return row[self.image], row[self.label]


def _column(features: Mapping[str, Any], kind: str, option: str, named: str | None) -> str:
    """Return the column that an option names, or else the only one of a kind."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if named is None and len(found) == 1:
        return found[0]
    if named in features:
        return str(named)
    columns = ", ".join(map(repr, features))
    raise UserError(f"options.data.{option} = {named!r}: must name one of the columns {columns}")


def _eight_bits(image: Any) -> tuple[Tensor, list[str]]:
    """Return an image of PIL, NumPy or PyTorch as uint8 (c, h, w), and what was done to it."""
    if hasattr(image, "convert"):  # PIL
        picture, remarks = eight_bits(image)
        pixels = torch.from_numpy(np.array(picture))
        return (pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)), remarks
    pixels = _channels_first(torch.as_tensor(image))
    if pixels.dtype == torch.uint8:
        return pixels, []
    deep = pixels.dtype == torch.uint16
    pixels = pixels.to(torch.int32) if deep else pixels
    top = 1.0 if pixels.is_floating_point() else 65535 if deep else 255
    if not 0 <= float(pixels.min()) <= float(pixels.max()) <= top:
        raise ValueError(f"pixels must be 0 to {top:g}")
    return (pixels * (255 / top)).round().to(torch.uint8), [DEEP] if deep else []


def _channels_first(pixels: Tensor) -> Tensor:
    """Return pixels (h, w), (c, h, w) or (h, w, c) as (c, h, w)."""
    if pixels.dim() not in (2, 3):
        raise ValueError(f"an image has two or three dimensions, not {pixels.dim()}")
    if pixels.dim() == 2:
        return pixels[None]
    first, _, last = pixels.shape
    usual = (1, COLOURS)
    is_last = first not in usual and (last in usual or last < first)
    return pixels.permute(2, 0, 1) if is_last else pixels


def _resized(pixels: Tensor, side: int | None) -> Tensor:
    if side is None or pixels.shape[1:] == (side, side):
        return pixels
    return interpolate(pixels[None], (side, side), mode="bilinear", antialias=True)[0]
