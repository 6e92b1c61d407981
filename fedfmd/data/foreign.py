"""Sets that other code reads: any ``torch.utils.data.Dataset``, and any set of Hugging Face's.

A part of the kind ``data`` is called once for training and once for testing, with those of ``root`` (the
config's ``data.root``), ``train``, ``split`` ("train" or "test") and of ``[options.data]`` that it takes, as
torchvision's sets are: ``data.name = "torchvision.datasets:MNIST"``. What it returns has a length and gives
(image, label) by index; it may have ``classes``, the labels' names, and ``clients``, whose each item is.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fedfmd.errors import FAULTS, UserError, told
from fedfmd.registry import chosen


def open_part(
    part: Callable[..., Any], name: str, root: Path, options: Mapping[str, Any], *, train: bool
) -> Any:
    """Return the training or the test set of a part; raises ``UserError`` when it cannot be opened."""
    given = {"root": str(root), "train": train, "split": "train" if train else "test", **options}
    try:
        opened = part(**chosen(part, given))
        len(opened)
    except UserError:
        raise
    except FAULTS as error:  # whatever another's code does
        raise UserError(f"data.name = {name!r}: cannot be opened: {told(error)}") from error
    return opened


def read_items(dataset: Any, places: Sequence[int], side: int | None, name: str) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, c, h, w) and labels int64 (N,) of some places of a set.

    With a ``side`` images are resized to squares; raises ``UserError`` for what is no labelled image, and for
    images of several sizes without one.
    """
    images, labels = list[Tensor](), list[int]()
    for place in places:
        try:
            image, label = dataset[place]
            images.append(_resized(_eight_bits(image), side))
            labels.append(_whole(label))
        except FAULTS as error:  # whatever another's code does
            what = f"data.name = {name!r}: item {place}: is no (image, label)"
            raise UserError(f"{what}: {told(error)}") from error
    if len({image.shape for image in images}) > 1:
        raise UserError(f"data.name = {name!r}: its images differ in size: set data.image_size, as 32")
    if min(labels, default=0) < 0:
        raise UserError(f"data.name = {name!r}: has the label {min(labels)}: labels must be 0, 1, 2, ...")
    return torch.stack(images), torch.tensor(labels)


def read_owners(dataset: Any, places: Sequence[int], name: str) -> Tensor:
    """Return whose some items of a set are, int64 (N,): numbers in the order of all clients' names.

    Raises ``UserError`` for a set that does not say it.
    """
    whose = getattr(dataset, "clients", None)
    if whose is None or len(whose) != len(dataset):
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
    return torch.tensor([numbers[names[place]] for place in places])


def class_names(dataset: Any, labels: Tensor, name: str) -> tuple[str, ...]:
    """Return the names of the classes, which are numbers where the set names none.

    Raises ``UserError`` for names that are not one for each label.
    """
    count = int(labels.max()) + 1
    given = getattr(dataset, "classes", None)
    named = tuple(map(str, given if given is not None else range(count)))
    what = f"data.name = {name!r}: classes"
    if len(named) < count:
        raise UserError(f"{what}: names {len(named)}, and there is the label {count - 1}; name one per label")
    if twice := next((one for one in named if named.count(one) > 1), None):
        raise UserError(f"{what}: names {twice!r} twice: each class needs a name of its own")
    return named


def _whole(label: Any) -> int:
    """Return a label as an integer; raises ``ValueError`` for one with a fraction."""
    if int(label) != label:
        raise ValueError(f"label {label!r}: labels must be 0, 1, 2, ...")
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


def _eight_bits(image: Any) -> Tensor:
    """Return an image of PIL, NumPy or PyTorch as uint8 (c, h, w)."""
    if hasattr(image, "convert"):  # PIL
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    else:
        pixels = torch.as_tensor(image)
        if pixels.dim() == 2:
            pixels = pixels[None]
        elif pixels.dim() == 3 and pixels.shape[0] not in (1, 3) and pixels.shape[2] in (1, 3):
            pixels = pixels.permute(2, 0, 1)
    if pixels.dim() != 3:
        raise ValueError(f"an image has two or three dimensions, not {pixels.dim()}")
    if pixels.dtype == torch.uint8:
        return pixels
    top = 1.0 if pixels.is_floating_point() else 255
    if not 0 <= float(pixels.min()) <= float(pixels.max()) <= top:
        raise ValueError(f"pixels must be 0 to {top:g}")
    return (pixels * (255 / top)).round().to(torch.uint8)


def _resized(pixels: Tensor, side: int | None) -> Tensor:
    if side is None or pixels.shape[1:] == (side, side):
        return pixels
    return interpolate(pixels[None], (side, side), mode="bilinear", antialias=True)[0]
