"""A labelled set of images in memory."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedfmd.data.arrays import Bytes, IntArray

FORMAT = "fedfmd-dataset-2"
"""Of the files that hold a dataset."""
FINGERPRINT_IMAGES = 64
"""Test images, about, that a fingerprint looks at."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test images as they are stored, and what a network gets to see of them.

    Images are uint8 (N, c, h, w), labels int64 (N,). ``input_shape`` (C, H, W) is what ``Augment`` makes
    of a stored image: Fashion-MNIST is stored as (1, 28, 28) and usually seen as (3, 32, 32), padded with
    black and with its channel repeated, so that memory holds a quarter of what the network sees.
    """

    name: str
    train_images: Bytes
    train_labels: IntArray
    test_images: Bytes
    test_labels: IntArray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per stored channel: mean of the training images as stored (no padding), scaled to 0..1.

    Empty, as ``std``, in a client's own images while the clients have not agreed on it."""
    std: tuple[float, ...]
    """Per stored channel: standard deviation over all training pixels, scaled to 0..1; 1 for a constant."""
    input_shape: tuple[int, int, int]
    note: str = ""
    """One line on what was changed or left out while the files were read; empty if nothing was."""
    owners: IntArray | None = None
    """Whose each training image is, int64 (N,), where the images come with clients of their own."""
    owner_names: tuple[str, ...] = ()
    """What the owners are called, by number; empty where they have no names."""
    resized_crop: bool = False
    """Whether the input is a crop resized to ``input_shape``, and not the image padded to it."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What a client's own images say of themselves: where they are from, how many of each class, a hash."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what tells one set from another at little cost: classes, labels, the mean and deviation
        of all training pixels, and test images spread over the set."""
        shapes = [f"torch.Size({list(part.shape)})" for part in (self.train_images, self.test_images)]
        told = ", ".join([repr(self.classes), repr(self.mean), repr(self.std), *shapes])
        digest = hashlib.sha256(f"({told})".encode())  # spelt as by the version that first kept it
        some = self.test_images[:: max(1, len(self.test_images) // FINGERPRINT_IMAGES)]
        for array in (self.train_labels, self.test_labels, some):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def repeated_tests(self) -> int:
        """Count the test images that are training images, too, byte for byte."""
        middle = self.train_images.shape[2] // 2  # a row tells nearly all apart: few images are read whole
        tested, trained = (
            [row.tobytes() for row in images[:, :, middle]]
            for images in (self.test_images, self.train_images)
        )
        shared = set(tested) & set(trained)
        alike = {_digest(self.train_images[i]) for i, row in enumerate(trained) if row in shared}
        return sum(_digest(self.test_images[i]) in alike for i, row in enumerate(tested) if row in shared)

    @property
    def test_set(self) -> dict[str, Any]:
        """What accuracy is measured on, by the names that run directories have for it."""
        count = len(self.test_labels)
        return {
            "test_samples": count,
            "num_classes": self.num_classes,
            "largest_class_share": int(np.bincount(self.test_labels).max()) / count if count else None,
        }

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        return self.input_shape[0]

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.input_shape[1:]

    def seen_at(self, side: int | None) -> "Dataset":
        """Return the same images, seen as resized crops of ``side`` pixels; null leaves them as they are."""
        if side is None:
            return self
        return replace(self, input_shape=(self.in_channels, side, side), resized_crop=True)

    def subset(self, indices: IntArray) -> "Dataset":
        """Keep these training images, int64 (n,), and everything else: the statistics, the test set."""
        owners = None if self.owners is None else self.owners[indices]
        images, labels = self.train_images[indices], self.train_labels[indices]
        return replace(self, train_images=images, train_labels=labels, owners=owners)


def _digest(image: Bytes) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
