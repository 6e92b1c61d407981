"""From stored images to network input: crop, flip, pad, normalise, a batch at a time.

Everything random comes from the generator that is handed in: same generator, same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedfmd.data.resized import Box, central_boxes, random_boxes, resize_boxes
from fedfmd.nn import kernels


class Moves(NamedTuple):
    """Which box of each image of a batch is seen, in pixels, and whether it is mirrored; all (B, 1)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirror: Tensor

    def part(self, start: int, stop: int) -> "Moves":
        """Return the moves of the images from ``start`` to before ``stop``."""
        return Moves(*(move[start:stop] for move in self))


class Seen(Protocol):
    """What says how images are seen: a dataset, or the card of a trained network."""

    @property
    def mean(self) -> Sequence[float]:
        """Per stored channel, 0..1."""

    @property
    def std(self) -> Sequence[float]:
        """Per stored channel, 0..1."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W of the network's input."""

    @property
    def resized_crop(self) -> bool:
        """Whether the input is a resized crop, and not the padded image."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Turns uint8 (B, c, h, w) into normalised float32 (B, C, H, W) of ``input_shape``.

    Training: black padding, a crop at a random place and a mirror image half of the time, as usual for
    CIFAR (He et al. 2016, section 4.2). Evaluation: the centre. A stored image that is smaller than the
    input is padded, a single channel is repeated. With `resized`: a random box, or the central one, as usual
    for ImageNet; see `fedfmd.data.resized`.
    """

    mean: Sequence[float]
    """Per stored channel, 0..1."""
    std: Sequence[float]
    """Per stored channel, 0..1."""
    input_shape: tuple[int, int, int] = (3, 32, 32)
    """C, H, W."""
    resized: bool = False
    """See a box of each image, resized, instead of the padded image: ImageNet's way, not CIFAR's."""
    crop_padding: int = 4
    """Largest shift of the crop, in pixels; 0 crops nothing, or the centre of `resized` images."""
    flip: bool = True
    """Mirror half of the training images left to right."""
    _scale: Tensor = field(init=False, repr=False, compare=False)
    _shift: Tensor = field(init=False, repr=False, compare=False)
    _table: Tensor = field(init=False, repr=False, compare=False)
    """What each byte becomes in each channel, float32 (C, 256)."""
    _placed: dict[torch.device, tuple[Tensor, Tensor]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        shape = (self.input_shape[0], 1, 1)
        object.__setattr__(self, "_scale", (1 / (255 * std))[:, None, None].expand(shape).contiguous())
        object.__setattr__(self, "_shift", (-mean / std)[:, None, None].expand(shape).contiguous())
        levels = torch.arange(256, dtype=torch.uint8).expand(shape[0], 1, 256)
        object.__setattr__(self, "_table", self._normalised(levels)[:, 0].contiguous())

    @classmethod
    def for_dataset(cls, dataset: Seen, *, enabled: bool = True) -> "Augment":
        """Return what a dataset, or a model's card, asks for; ``enabled`` = False neither crops nor flips."""
        return cls(
            mean=dataset.mean,
            std=dataset.std,
            input_shape=dataset.input_shape,
            resized=dataset.resized_crop,
            crop_padding=4 if enabled else 0,
            flip=enabled,
        )

    def train_batch(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, flip and normalise uint8 (B, c, h, w) by the generator's next numbers."""
        return self.moved(images, self.draw(len(images), images.shape[2:], generator))

    def draw(self, batch: int, stored: Sequence[int], generator: torch.Generator) -> Moves:
        """Draw the moves of images stored as (h, w), on the CPU: the same for any split of the batch."""
        if self.resized and self.crop_padding:
            box = random_boxes(batch, stored, generator)
        elif self.resized:
            box = central_boxes(batch, stored)
        else:
            box = self._shifts(batch, generator)
        mirror = torch.rand(batch, 1, generator=generator) < (0.5 if self.flip else 0.0)
        return Moves(*box, mirror)

    def _shifts(self, batch: int, generator: torch.Generator) -> Box:
        shifts = 2 * self.crop_padding + 1
        top, left = torch.randint(0, shifts, (2, batch, 1), generator=generator)
        height, width = (torch.full_like(top, side) for side in self.input_shape[1:])
        return top, left, height, width

    def moved(self, images: Tensor, moves: Moves) -> Tensor:
        """Crop, flip and normalise uint8 (B, c, h, w) by given moves, where the images are."""
        batch, (_, height, width), device = len(images), self.input_shape, images.device
        if self.resized:
            return self._resized(images, moves[:4], moves.mirror, within_box=self.crop_padding > 0)
        if device.type == "cpu" and kernels.built():
            return self._moved_at_once(images, moves)
        top, left, _, _, mirror = (move.to(device, non_blocking=True) for move in moves)
        padded = self._padded(images, self.crop_padding)
        # Crop and mirror are one gather: of rows top, top + 1, ... and columns from left or backwards.
        across = torch.arange(width, device=device)
        columns = left + torch.where(mirror, width - 1 - across, across)
        rows = (top + torch.arange(height, device=device)) * padded.shape[3]
        places = (rows[:, :, None] + columns[:, None, :]).view(batch, 1, -1)
        pixels = padded.flatten(2).gather(2, places.expand(-1, padded.shape[1], -1))
        return self._normalised(pixels.view(batch, -1, height, width))

    def _moved_at_once(self, images: Tensor, moves: Moves) -> Tensor:
        """Do what ``moved`` does, by one compiled pass with the same bits."""
        above, before = (
            (seen - stored) // 2 + self.crop_padding
            for seen, stored in zip(self.input_shape[1:], images.shape[2:], strict=True)
        )
        windows = (moves.top - above).flatten(), (moves.left - before).flatten(), moves.mirror.flatten()
        seen: Tensor = torch.ops.fedfmd.seen_images(
            images.contiguous(), *windows, self._table, *self.input_shape[1:]
        )
        return seen

    def eval_batch(self, images: Tensor) -> Tensor:
        """Pad to the input size, where needed, and normalise uint8 (B, c, h, w)."""
        if self.resized:
            mirror = torch.zeros(len(images), 1, dtype=torch.bool)
            return self._resized(
                images, central_boxes(len(images), images.shape[2:]), mirror, within_box=False
            )
        return self._normalised(self._padded(images, 0))

    def _resized(self, images: Tensor, box: Box, mirror: Tensor, *, within_box: bool) -> Tensor:
        _, height, width = self.input_shape
        pixels = resize_boxes(images, box, mirror, (height, width), within_box=within_box)
        return self._normalised(pixels)

    def _padded(self, images: Tensor, extra: int) -> Tensor:
        _, height, width = self.input_shape
        above, left = (height - images.shape[2]) // 2, (width - images.shape[3]) // 2
        below, right = height - images.shape[2] - above, width - images.shape[3] - left
        amounts = (left + extra, right + extra, above + extra, below + extra)
        return pad(images, amounts) if any(amounts) else images

    def _normalised(self, images: Tensor) -> Tensor:
        shift, scale = self._on(images.device)
        return torch.addcmul(shift, images.float(), scale)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return shift and scale on a device; they are copied there once, which no captured step could."""
        if device not in self._placed:
            self._placed[device] = (self._shift.to(device), self._scale.to(device))
        return self._placed[device]


def epoch_batches(
    num_samples: int, batch_size: int, generator: torch.Generator, *, merge_single_tail: bool = False
) -> list[Tensor]:
    """Deal ``num_samples`` indices, shuffled, into batches of ``batch_size``; the last may be smaller.

    With ``merge_single_tail`` a last batch of one joins the one before it, because BatchNorm cannot
    normalise a single sample; a client with one sample in all still gets its batch of one.
    """
    if not num_samples:
        return []
    batches = list(torch.split(torch.randperm(num_samples, generator=generator), batch_size))
    return merged_tail(batches, 2) if merge_single_tail else batches


def merged_tail(batches: list[Tensor] | tuple[Tensor, ...], least: int) -> list[Tensor]:
    """Return the batches, of which a last one of fewer than ``least`` samples joins the one before it."""
    if len(batches) < 2 or len(batches[-1]) >= least:
        return list(batches)
    return [*batches[:-2], torch.cat(batches[-2:])]
