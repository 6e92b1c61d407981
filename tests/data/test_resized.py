"""Resized crops against torchvision's, and the laws of their boxes."""

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from fedfmd.data.augment import Augment
from fedfmd.data.resized import AREA, RATIO, central_boxes, random_boxes, resize_boxes

IDENTITY: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
NOT_MIRRORED = torch.zeros(1, 1, dtype=torch.bool)


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=_rng(), dtype=torch.uint8)


@pytest.mark.parametrize("stored", [(32, 32), (256, 256), (300, 600), (128, 64)])
def test_evaluation_is_resize_256_and_centre_crop_224(stored: tuple[int, int]) -> None:
    images = _images(2, *stored)
    seen = Augment(**IDENTITY, input_shape=(3, 224, 224), resized=True).eval_batch(images)
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(images.float())
    torch.testing.assert_close(seen, theirs, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("size", [8, 24, 224])
def test_a_box_is_cut_before_it_is_resized(size: int) -> None:
    images = _images(3, 40, 50)
    boxes = [(0, 0, 40, 50), (3, 7, 20, 15), (10, 31, 30, 19)]
    sides = torch.tensor(boxes, dtype=torch.float32).T[:, :, None]
    box = (sides[0], sides[1], sides[2], sides[3])
    ours = resize_boxes(images, box, NOT_MIRRORED.expand(3, 1), (size, size), within_box=True)
    for image, (top, left, height, width), result in zip(images, boxes, ours, strict=True):
        theirs = v2.functional.resized_crop(
            image.float(), top, left, height, width, [size, size], antialias=True
        )
        torch.testing.assert_close(result, theirs, atol=1e-2, rtol=1e-4)


def test_mirrored_boxes_are_mirror_images() -> None:
    images, box = _images(1, 32, 32), random_boxes(1, (32, 32), _rng(1))
    straight = resize_boxes(images, box, NOT_MIRRORED, (24, 24), within_box=True)
    mirrored = resize_boxes(images, box, ~NOT_MIRRORED, (24, 24), within_box=True)
    torch.testing.assert_close(mirrored, straight.flip(3))


@pytest.mark.parametrize("stored", [(32, 32), (300, 400), (20, 200)])
def test_random_boxes_lie_inside_and_have_the_stated_areas_and_ratios(stored: tuple[int, int]) -> None:
    top, left, height, width = (side[:, 0] for side in random_boxes(4000, stored, _rng()))
    assert bool((top >= 0).all() & (left >= 0).all())
    assert bool((top + height <= stored[0]).all() & (left + width <= stored[1]).all())
    share, ratio = height * width / (stored[0] * stored[1]), width / height
    slack = 1.5 / float(height.min())  # sides are whole pixels
    assert AREA[0] * (1 - 2 * slack) <= float(share.min())
    assert RATIO[0] * (1 - slack) <= float(ratio.min())
    assert float(ratio.max()) <= RATIO[1] * (1 + slack)


def test_areas_of_square_images_are_uniform_where_every_box_fits() -> None:
    """A box of at most 3/4 of the area always fits, so these are drawn equally often."""
    _, _, height, width = random_boxes(20_000, (1000, 1000), _rng())
    share = (height * width)[:, 0] / 1_000_000
    counts = [int(((share >= low) & (share < low + 0.1)).sum()) for low in (0.1, 0.3, 0.6)]
    assert max(counts) < 1.1 * min(counts)


def test_the_central_box_is_seven_eighths_of_the_shorter_side() -> None:
    assert [float(side[0]) for side in central_boxes(1, (256, 512))] == [16, 144, 224, 224]


def test_same_generator_same_crops_and_any_split_sees_the_same() -> None:
    images = _images(6, 32, 32)
    augment = Augment(**IDENTITY, input_shape=(3, 48, 48), resized=True)
    whole = augment.train_batch(images, _rng(5))
    assert torch.equal(whole, augment.train_batch(images, _rng(5)))
    moves = augment.draw(6, (32, 32), _rng(5))
    parts = [augment.moved(images[a:b], moves.part(a, b)) for a, b in ((0, 2), (2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-3, rtol=1e-5)


def test_without_augmentation_training_sees_the_central_box() -> None:
    images = _images(2, 32, 32)
    plain = Augment(**IDENTITY, input_shape=(3, 48, 48), resized=True, crop_padding=0, flip=False)
    assert torch.equal(plain.train_batch(images, _rng()), plain.eval_batch(images))
