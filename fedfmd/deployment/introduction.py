"""What a client says of itself and of its images: counts, limits, versions and sums, never an image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import Annotated

import numpy as np
from pydantic import Field, StringConstraints

import fedfmd
from fedfmd.data.agreement import MOST_CLASSES
from fedfmd.data.arrays import IntArray
from fedfmd.data.dataset import Dataset
from fedfmd.data.statistics import channel_sums, statistics_of
from fedfmd.devices.participant import Host
from fedfmd.records.schema import Amount, Count, Json, Record, Text

MOST_EXAMPLES = 10**8
"""That a client may say to have: beside so many, one with a single example still keeps 25 bits in the sum."""
PACK_ANEW = "pack its images anew by this federation's classes.txt (fedfmd data pack)"
Examples = Annotated[int, Field(ge=0, le=MOST_EXAMPLES)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")]
Sums = Annotated[tuple[Count, ...], Field(max_length=4)]


@dataclass(frozen=True, kw_only=True)
class Introduction(Record):
    """What a client says of itself when it comes: nothing of single images, nor how many of which label."""

    client: Count
    examples: Examples
    """That it trains on."""
    held: Examples = 0
    """That it keeps for testing."""
    classes: Count
    named: Hash
    """Hash of the classes' names in the order of their labels."""
    input_shape: Sums
    pack: Hash | None = None
    """Hash of its images and labels, where they are a pack: tells whether they have changed."""
    memory_limit_bytes: Count | None
    processors: Amount | None
    host: Host
    versions: Annotated[dict[Text, Text], Field(max_length=10)] = field(default_factory=dict)
    """Of fedfmd, Flower and PyTorch."""


@dataclass(frozen=True, kw_only=True)
class ImageSums(Record):
    """Sums over the images that a client trains on: those of all clients together give the normalisation."""

    client: Count
    images: Examples
    pixels: Count
    """Of one channel."""
    sums: Sums
    """Per channel, of pixels 0 to 255."""
    squares: Sums
    """Per channel, of their squares."""
    labels: Annotated[tuple[Examples, ...], Field(max_length=MOST_CLASSES)]
    """Images of each class."""
    named: Hash
    """As in an introduction."""

    @classmethod
    def of(cls, client: int, data: Dataset, places: IntArray) -> "ImageSums":
        """Sum a client's images at some ``places`` of its training set, int64 (n,)."""
        images, labels = data.train_images[places], data.train_labels[places]
        sums, squares = channel_sums(images)
        return cls(
            client=client,
            images=len(labels),
            pixels=images.size // images.shape[1],
            sums=tuple(sums),
            squares=tuple(squares),
            labels=tuple(np.bincount(labels, minlength=data.num_classes).tolist()),
            named=names_hash(data.classes),
        )

    def misfit(self, data: Dataset) -> str | None:
        """Say why these cannot be sums over images such as those of ``data``; null where they can."""
        channels, *sides = data.train_images.shape[1:]
        if self.named != names_hash(data.classes) or len(self.labels) != data.num_classes:
            return f"client {self.client}: has other classes, or another order of them: {PACK_ANEW}"
        counted = self.pixels == self.images * prod(sides) and sum(self.labels) == self.images
        bounded = len(self.sums) == len(self.squares) == channels and all(
            total <= 255 * self.pixels
            and total <= square <= 255 * total
            and total * total <= self.pixels * square
            for total, square in zip(self.sums, self.squares, strict=True)
        )
        if not self.images or not counted or not bounded:
            return f"client {self.client}: its sums are of no images"
        return None


def together(totals: Sequence[ImageSums], classes: Sequence[str]) -> Json:
    """Add the clients' sums, exactly, and return what follows from them for all."""
    pixels = sum(t.pixels for t in totals)
    sums, squares, labels = (
        [sum(column) for column in zip(*(getattr(t, name) for t in totals), strict=True)]
        for name in ("sums", "squares", "labels")
    )
    mean, std = statistics_of(pixels, sums, squares)
    return {
        "mean": mean,
        "std": std,
        "clients": sorted(t.client for t in totals),
        "images": sum(t.images for t in totals),
        "pixels": pixels,
        "sums": sums,
        "squares": squares,
        "labels": dict(zip(classes, labels, strict=True)),
    }


def misfit(said: Introduction, data: Dataset) -> str | None:
    """Say why a client does not fit to the server's ``data``, and the cure; null where it does."""
    if not said.examples:
        return f"client {said.client}: has no images to train on"
    if tuple(said.input_shape) != data.input_shape or said.classes != data.num_classes:
        return (
            f"client {said.client} has {said.classes} classes of images {tuple(said.input_shape)}, "
            f"the server {data.num_classes} of {data.input_shape}: {PACK_ANEW}"
        )
    if said.named != names_hash(data.classes):
        return f"client {said.client}: its classes have other names, or another order: {PACK_ANEW}"
    return None


def names_hash(classes: Sequence[str]) -> str:
    """Return what tells lists of class names apart."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()[:16]


def own_versions() -> dict[str, str]:
    """Return the versions on this machine that a federation depends on."""
    found = {"fedfmd": fedfmd.__version__}
    for name in ("flwr", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
