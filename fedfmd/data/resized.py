"""Resized boxes of images, the usual treatment of ImageNet's (Szegedy et al. 2015, section 6).

Resizing is bilinear, with the triangle filter widened where images shrink, as Pillow and torchvision do it
("antialias"). Deviation: pixels are not rounded to whole numbers afterwards. Cutting a box and resizing it is
one linear map along each side, so a batch of different boxes is two batched matrix products.

A box is four tensors (B, 1), in pixels of the stored image: top, left, height, width.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

Box = tuple[Tensor, Tensor, Tensor, Tensor]

AREA = (0.08, 1.0)
"""Share of the image that a random box covers."""
RATIO = (3 / 4, 4 / 3)
"""Width over height of a random box."""
ATTEMPTS = 10
"""Boxes drawn until one lies inside the image; else it is the largest central one of an allowed ratio."""
CENTRE = 224 / 256
"""Share of the shorter side that the central box covers."""


def random_boxes(batch: int, stored: Sequence[int], generator: torch.Generator) -> Box:
    """Draw a box for each of ``batch`` images of size ``stored`` (h, w), as RandomResizedCrop does."""
    high, wide = stored
    area = torch.empty(ATTEMPTS, batch).uniform_(*AREA, generator=generator) * high * wide
    ratio = torch.empty(ATTEMPTS, batch).uniform_(log(RATIO[0]), log(RATIO[1]), generator=generator).exp()
    place = torch.rand(2, batch, generator=generator)
    heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (heights >= 1) & (heights <= high) & (widths >= 1) & (widths <= wide)
    first = fits.int().argmax(0, keepdim=True)  # of equal values the first
    height, width = (sides.gather(0, first)[0] for sides in (heights, widths))
    inside = fits.any(0)
    height = torch.where(inside, height, float(min(high, round(wide / RATIO[0]))))
    width = torch.where(inside, width, float(min(wide, round(high * RATIO[1]))))
    top, left = (place * torch.stack([high - height + 1, wide - width + 1])).floor()
    top = torch.where(inside, top, ((high - height) / 2).floor())
    left = torch.where(inside, left, ((wide - width) / 2).floor())
    return top[:, None], left[:, None], height[:, None], width[:, None]


def central_boxes(batch: int, stored: Sequence[int]) -> Box:
    """Return the box of Resize(256), CenterCrop(224), or in proportion, of ``batch`` images (h, w)."""
    side = CENTRE * min(stored)
    length = torch.full((batch, 1), side)
    return (stored[0] - length) / 2, (stored[1] - length) / 2, length, length


def resize_boxes(
    images: Tensor, box: Box, mirror: Tensor, size: tuple[int, int], *, within_box: bool
) -> Tensor:
    """Resize a box of each image (B, c, h, w) to ``size`` (H, W): float32 (B, c, H, W).

    ``mirror`` bool (B, 1) flips left and right. ``within_box`` cuts before it resizes: pixels beyond the
    box's edge then have no part in those inside.
    """
    top, left, height, width, mirror = (side.to(images.device) for side in (*box, mirror))
    rows = _interpolation(top, height, images.shape[2], size[0], within_box=within_box)
    columns = _interpolation(left, width, images.shape[3], size[1], within_box=within_box)
    columns = torch.where(mirror[:, :, None], columns.flip(1), columns)
    return rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)


def _interpolation(start: Tensor, length: Tensor, stored: int, size: int, *, within_box: bool) -> Tensor:
    """Return the weights (B, size, stored) of stored pixels in the resized ones; each row sums to 1."""
    scale = length / size
    centres = start + (torch.arange(size, device=start.device) + 0.5) * scale
    pixels = torch.arange(stored, device=start.device) + 0.5
    distance = (pixels - centres[:, :, None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    if within_box:
        inside = (pixels > start) & (pixels < start + length)
        weights = weights * inside[:, None]
    return weights / weights.sum(2, keepdim=True)
