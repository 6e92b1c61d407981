"""The images where the network is: on the GPU as a whole if they fit well, else a batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.data.augment import Augment
from fedfmd.data.dataset import Dataset

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that the training images, or the test images, may fill."""


@dataclass(frozen=True)
class Pictures:
    """Stored images uint8 (N, c, h, w) and labels int64 (N,), and how they become input for ``device``."""

    images: Tensor
    labels: Tensor
    augment: Augment
    device: torch.device

    @classmethod
    def of(
        cls, dataset: Dataset, device: torch.device, *, augment: bool = True
    ) -> tuple["Pictures", "Pictures"]:
        """Return the training and the test images."""
        how = Augment.for_dataset(dataset, enabled=augment)
        train = cls(*_placed(dataset.train_images, dataset.train_labels, device), how, device)
        test = cls(*_placed(dataset.test_images, dataset.test_labels, device), how, device)
        return train, test

    @classmethod
    def kept(cls, dataset: Dataset, indices: IntArray, device: torch.device) -> "Pictures | None":
        """Return the training images at ``indices`` int64 (v,), to choose an epoch by; null for none."""
        if not len(indices):
            return None
        images, labels = dataset.train_images[indices], dataset.train_labels[indices]
        return cls(*_placed(images, labels, device), Augment.for_dataset(dataset, enabled=False), device)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def batch(
        self, indices: Tensor, generator: torch.Generator, part: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the ``part`` (start, stop) of the batch with ``indices`` int64 (B,), augmented.

        The generator's numbers are drawn for the whole batch, so that any split of it sees the same images.
        """
        moves = self.augment.draw(len(indices), self.images.shape[2:], generator).part(*part)
        mine = indices[slice(*part)].to(self.images.device)
        inputs = self.augment.moved(self.images[mine], moves)
        return inputs.to(self.device), self.labels[mine].to(self.device)


def _placed(stored: Bytes, targets: IntArray, device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = torch.from_numpy(stored), torch.from_numpy(targets)
    fits = device.type == "cuda" and images.numel() < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return (images.to(device), labels.to(device)) if fits else (images, labels)
