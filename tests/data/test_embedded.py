"""The procedural set: reproducible, balanced, hard for a linear model, easy for a small network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.data.augment import Augment, epoch_batches
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import load_dataset
from fedfmd.data.embedded import class_names, make_embedded


@pytest.mark.parametrize("classes", [10, 100])
def test_same_seed_same_pictures_other_seed_or_part_others(classes: int) -> None:
    images, labels = make_embedded(samples=300, classes=classes, seed=3, stream="train")
    again, labels_again = make_embedded(samples=300, classes=classes, seed=3, stream="train")
    assert images.shape == (300, 3, 32, 32)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert np.array_equal(labels, labels_again)
    for seed, stream in ((4, "train"), (3, "test")):
        other, _ = make_embedded(samples=300, classes=classes, seed=seed, stream=stream)
        assert not np.array_equal(images, other)


def test_number_of_threads_does_not_change_a_picture() -> None:
    one, _ = make_embedded(samples=300, classes=10, seed=0, stream="train")
    torch.set_num_threads(2)
    two, _ = make_embedded(samples=300, classes=10, seed=0, stream="train")
    assert np.array_equal(one, two)


@pytest.mark.parametrize("classes", [10, 100])
def test_classes_are_balanced_and_named_apart(classes: int) -> None:
    _, labels = make_embedded(samples=1005, classes=classes, seed=0, stream="train")
    counts = np.bincount(labels, minlength=classes)
    assert len(counts) == classes
    assert counts.max() - counts.min() <= 1
    assert len(set(class_names(classes))) == classes


def test_no_two_pictures_are_equal() -> None:
    images, _ = make_embedded(samples=500, classes=10, seed=0, stream="train")
    assert len(np.unique(images.reshape(500, -1), axis=0)) == 500


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).float().mean())


def _linear_scores(dataset: Dataset, decay: float) -> Tensor:
    """Softmax regression by L-BFGS: weights at the optimum, which is one, as the problem is convex."""
    plain = Augment.for_dataset(dataset, enabled=False)
    inputs, tests = (
        nn.functional.pad(plain.eval_batch(x).flatten(1) / 55, (0, 1), value=1.0)
        for x in map(torch.from_numpy, (dataset.train_images, dataset.test_images))
    )
    labels = torch.from_numpy(dataset.train_labels)
    weights = torch.zeros(inputs.shape[1], dataset.num_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = cross_entropy(inputs @ weights, labels) + decay * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return tests @ weights.detach()


def _small_network() -> nn.Module:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]

    head = [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    stages = [*stage(3, 16), nn.MaxPool2d(2), *stage(16, 32), nn.MaxPool2d(2), *stage(32, 64), *stage(64, 64)]
    return nn.Sequential(*stages, *head)


def _train(model: nn.Module, dataset: Dataset, *, epochs: int, peak: float) -> float:
    """Train centrally with a one-cycle schedule; give the test accuracy."""
    rng = torch.Generator().manual_seed(0)
    augment = Augment.for_dataset(dataset)
    images, labels = torch.from_numpy(dataset.train_images), torch.from_numpy(dataset.train_labels)
    steps = epochs * len(epoch_batches(len(labels), 64, rng))
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps)
    for _ in range(epochs):
        for batch in epoch_batches(len(labels), 64, rng):
            optimiser.zero_grad()
            scores = model(augment.train_batch(images[batch], rng))
            cross_entropy(scores, labels[batch]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        parts = [
            model(augment.eval_batch(x)) for x in torch.split(torch.from_numpy(dataset.test_images), 250)
        ]
    return _accuracy(torch.cat(parts), torch.from_numpy(dataset.test_labels))


@pytest.mark.parametrize("decay", [1e-3, 1e-1])
def test_a_linear_model_stays_under_45_percent(decay: float) -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=4000, test_samples=1000)
    assert _accuracy(_linear_scores(dataset, decay), torch.from_numpy(dataset.test_labels)) < 0.45


@pytest.mark.slow
def test_a_small_network_learns_it_in_a_few_epochs() -> None:
    torch.manual_seed(0)
    dataset = load_dataset("embedded", root=Path(), train_samples=3000, test_samples=1000)
    assert _train(_small_network(), dataset, epochs=5, peak=5e-3) > 0.8


@pytest.mark.slow
def test_a_small_resnet_passes_80_percent_in_a_few_epochs() -> None:
    from fedfmd.nn import build_model

    torch.manual_seed(0)
    dataset = load_dataset("embedded", root=Path())
    model = build_model("resnet8", conv="static", num_classes=dataset.num_classes)
    assert _train(model, dataset, epochs=4, peak=1e-2) > 0.8
