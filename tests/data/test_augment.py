"""Augmentation and batches: laws that hold for any picture and any generator."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd.data.augment import Augment, epoch_batches
from fedfmd.data.dataset import Dataset
from fedfmd.nn import kernels


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), generator=_rng(seed), dtype=torch.uint8)


IDENTITY: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
"""Normalisation that leaves pixels as they are, 0..255."""


def test_normalisation_gives_zero_mean_and_unit_deviation() -> None:
    images = _pictures(50, (3, 32, 32))
    scaled = images.double() / 255
    augment = Augment(mean=scaled.mean((0, 2, 3)).tolist(), std=scaled.std((0, 2, 3), correction=0).tolist())
    batch = augment.eval_batch(images)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_same_generator_same_batch_other_generator_another() -> None:
    images, augment = _pictures(16, (3, 32, 32)), Augment(**IDENTITY)
    assert torch.equal(augment.train_batch(images, _rng(1)), augment.train_batch(images, _rng(1)))
    assert not torch.equal(augment.train_batch(images, _rng(1)), augment.train_batch(images, _rng(2)))


def test_without_crop_and_flip_training_is_evaluation() -> None:
    images, augment = _pictures(8, (3, 32, 32)), Augment(**IDENTITY, crop_padding=0, flip=False)
    assert torch.equal(augment.train_batch(images, _rng()), images.float())
    assert torch.equal(augment.eval_batch(images), images.float())


def test_a_flip_is_the_mirror_image_and_happens_half_of_the_time() -> None:
    images = _pictures(1, (3, 32, 32)).expand(2000, -1, -1, -1)
    batch = Augment(**IDENTITY, crop_padding=0).train_batch(images, _rng())
    straight = (batch == images.float()).flatten(1).all(1)
    mirrored = (batch.flip(3) == images.float()).flatten(1).all(1)
    assert torch.equal(straight, ~mirrored)
    assert 0.45 < float(mirrored.float().mean()) < 0.55


@pytest.mark.parametrize("padding", [1, 4])
def test_each_crop_is_a_window_of_the_padded_picture_and_every_window_comes(padding: int) -> None:
    image = _pictures(1, (3, 16, 16)).clamp(min=1)
    augment = Augment(**IDENTITY, input_shape=(3, 16, 16), crop_padding=padding, flip=False)
    batch = augment.train_batch(image.expand(3000, -1, -1, -1), _rng())
    padded = torch.nn.functional.pad(image, (padding,) * 4)[0].float()
    shifts = range(2 * padding + 1)
    windows = torch.stack([padded[:, y : y + 16, x : x + 16] for y in shifts for x in shifts])
    matches = torch.cdist(batch.flatten(1).double(), windows.flatten(1).double()).argmin(1)
    assert torch.equal(windows[matches], batch)
    counts = torch.bincount(matches, minlength=len(windows)) / 3000 * len(windows)
    assert counts.min() > 0.2
    assert counts.max() < 2.0


def test_crop_of_a_constant_picture_is_constant_inside_and_black_outside() -> None:
    images = torch.full((200, 3, 32, 32), 77, dtype=torch.uint8)
    batch = Augment(**IDENTITY).train_batch(images, _rng())
    assert set(batch.round().unique().tolist()) == {0.0, 77.0}
    assert (batch[:, :, 4:28, 4:28].round() == 77).all()


def test_small_grey_pictures_are_padded_and_their_channel_repeated() -> None:
    images = _pictures(5, (1, 28, 28))
    augment = Augment(mean=(0.0,), std=(1 / 255,), input_shape=(3, 32, 32))
    batch = augment.eval_batch(images)
    assert batch.shape == (5, 3, 32, 32)
    assert torch.equal(batch[:, 0], batch[:, 1])
    assert torch.equal(batch[:, 2, 2:30, 2:30], images[:, 0].float())
    assert batch[:, :, :2].abs().max() == batch[..., 30:].abs().max() == 0
    assert augment.train_batch(images, _rng()).shape == (5, 3, 32, 32)


@pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")
@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((3, 32, 32), (3, 32, 32)),
        ((1, 28, 28), (3, 32, 32)),
        ((3, 40, 33), (3, 32, 32)),
        ((1, 9, 30), (1, 24, 20)),
    ],
)
@pytest.mark.parametrize("padding", [0, 1, 4, 40])
def test_the_compiled_pass_has_the_bits_of_the_operations(
    stored: tuple[int, int, int], seen: tuple[int, int, int], padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _pictures(30, stored)
    mean, std = torch.rand(stored[0], generator=_rng(1)), torch.rand(stored[0], generator=_rng(2)) + 0.1
    augment = Augment(mean=mean.tolist(), std=std.tolist(), input_shape=seen, crop_padding=padding)
    batches = []
    for compiled in (True, False):
        monkeypatch.setattr("fedfmd.nn.kernels.built", lambda compiled=compiled: compiled)
        batches.append(augment.train_batch(images, _rng(3)))
    assert torch.equal(*batches)


def test_for_dataset_uses_its_statistics_and_shape() -> None:
    images, labels = _pictures(4, (1, 28, 28)), np.zeros(4, dtype=np.int64)
    dataset = Dataset(
        name="x",
        train_images=images.numpy(),
        train_labels=labels,
        test_images=images.numpy(),
        test_labels=labels,
        classes=("a",),
        mean=(0.25,),
        std=(0.5,),
        input_shape=(3, 32, 32),
    )
    plain = Augment.for_dataset(dataset, enabled=False)
    expected = (images.float() / 255 - 0.25) / 0.5
    torch.testing.assert_close(plain.eval_batch(images)[:, 1:2, 2:30, 2:30], expected)
    assert torch.equal(plain.train_batch(images, _rng()), plain.eval_batch(images))
    assert Augment.for_dataset(dataset).flip


@settings(max_examples=60)
@given(samples=st.integers(0, 200), size=st.integers(1, 40), seed=st.integers(0, 9), merge=st.booleans())
def test_an_epoch_deals_every_sample_once(samples: int, size: int, seed: int, merge: bool) -> None:
    batches = epoch_batches(samples, size, _rng(seed), merge_single_tail=merge)
    again = epoch_batches(samples, size, _rng(seed), merge_single_tail=merge)
    assert [b.tolist() for b in batches] == [b.tolist() for b in again]
    assert sorted(i for b in batches for i in b.tolist()) == list(range(samples))
    assert all(len(b) == size for b in batches[:-2])
    assert all(0 < len(b) <= size + merge for b in batches)
    if merge and size > 1 and samples > 1:
        assert all(len(b) > 1 for b in batches)


def test_batches_are_shuffled_by_the_generator() -> None:
    first, second = (torch.cat(epoch_batches(100, 10, _rng(s))).tolist() for s in (0, 1))
    assert first != second
    assert first != list(range(100))
