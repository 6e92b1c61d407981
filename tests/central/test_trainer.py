"""Training itself: it learns, and each setting does what it says."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_config

from fedfmd.central.trainer import AVERAGE, CentralTrainer
from fedfmd.central.world import World
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import load_dataset
from fedfmd.errors import UserError
from fedfmd.nn import dynamic_layers, kernels


@pytest.fixture(scope="module")
def pictures() -> Dataset:
    return load_dataset("embedded", root=Path("data"), train_samples=48, test_samples=30)


def trainer_of(pictures: Dataset, model: dict[str, Any] | None = None, **train: Any) -> CentralTrainer:
    torch.set_num_threads(1)
    config = tiny_config(train=train, model=model or {})
    assert config.train
    return CentralTrainer(config, config.train, pictures, torch.device("cpu"), World())


def ignore_step(epoch: int, seen: int) -> None:
    pass


@pytest.mark.parametrize(
    ("conv", "share"), [({"conv": "static"}, 0.5), ({"conv": "fmdconv", "attention_norm": "bn"}, 0.85)]
)
def test_a_small_network_learns_its_pictures(pictures: Dataset, conv: dict[str, Any], share: float) -> None:
    model = {**conv, "norm": "bn", "width": 1.0}
    recipe = {"epochs": 25, "learning_rate": 0.1, "augment": False, "schedule": "constant"}
    trainer = trainer_of(pictures, model, **recipe)
    losses = [trainer.train_epoch(epoch, ignore_step).loss for epoch in range(1, 26)]
    assert losses[0] > 2.0
    assert losses[-1] < share * losses[0]


def test_the_state_between_epochs_is_all_there_is(pictures: Dataset) -> None:
    one, other = (trainer_of(pictures, ema=0.9, nesterov=True) for _ in range(2))
    one.train_epoch(1, ignore_step)
    other.load(*one.state())
    for trainer in (one, other):
        trainer.train_epoch(2, ignore_step)
    (vector, rest), (other_vector, other_rest) = one.state(), other.state()
    assert torch.equal(vector, other_vector)
    assert all(torch.equal(value, other_rest[name]) for name, value in rest.items())


def test_the_average_follows_the_weights_as_the_formula_says(pictures: Dataset) -> None:
    trainer = trainer_of(pictures, ema=0.99, batch_size=48)
    start = trainer._vector(trainer.model)
    trainer.train_epoch(1, ignore_step)
    vector, rest = trainer.state()
    decay = 2 / 11  # of the first step: (1 + 1) / (10 + 1)
    torch.testing.assert_close(rest[AVERAGE], decay * start + (1 - decay) * vector)


@pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")
@pytest.mark.parametrize("recipe", [{"nesterov": True}, {"momentum": 0.0}])
def test_steps_within_the_backward_pass_change_no_bit(
    pictures: Dataset, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"conv": "fmdconv"}
    fused, usual = (trainer_of(pictures, model, **recipe) for _ in range(2))
    monkeypatch.setattr(usual, "_stepping", nullcontext)
    for epoch in (1, 2):
        losses = [trainer.train_epoch(epoch, ignore_step).loss for trainer in (fused, usual)]
        assert losses[0] == losses[1]
    (vector, rest), (usual_vector, usual_rest) = fused.state(), usual.state()
    assert all(layer.weight.grad is None for _, layer in dynamic_layers(fused.model))
    assert all(layer.weight.grad is not None for _, layer in dynamic_layers(usual.model))
    assert torch.equal(vector, usual_vector)
    assert all(torch.equal(value, usual_rest[name]) for name, value in rest.items())


def test_channels_last_and_bf16_compute_nearly_the_same(pictures: Dataset) -> None:
    plain, other, half = (
        trainer_of(pictures, {"width": 0.5}, **changes)
        for changes in ({}, {"channels_last": True}, {"precision": "bf16"})
    )
    losses = [trainer.train_epoch(1, ignore_step).loss for trainer in (plain, other, half)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=5e-2)
    assert losses[2] != losses[0]


def test_channels_last_is_refused_where_it_would_crash(pictures: Dataset) -> None:
    with pytest.raises(UserError, match=r"channels_last = true.* a larger model.width"):
        trainer_of(pictures, {"conv": "static", "width": 0.25}, channels_last=True)
    trainer_of(pictures, {"conv": "static", "width": 0.5}, channels_last=True).train_epoch(1, ignore_step)


def test_every_picture_is_seen_once_and_no_batch_is_too_small_for_batchnorm(pictures: Dataset) -> None:
    trainer = trainer_of(pictures, batch_size=47)
    batches = trainer._batches(torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(48))
    assert [len(batch) for batch in batches] == [48]


def test_evaluation_in_parts_adds_up() -> None:
    worlds = [World(rank=rank, size=3) for rank in range(3)]
    shares = [world.share(10) for world in worlds]
    assert shares == [(0, 3), (3, 6), (6, 10)]


@pytest.mark.parametrize("every", ["epoch", "step"])
@pytest.mark.parametrize("batch_size", [5, 16, 47, 48, 60])
def test_what_was_trained_last_is_what_is_measured(pictures: Dataset, every: str, batch_size: int) -> None:
    """A stair that the next step would go down is not: at a temperature it never had, a network guesses."""
    trainer = trainer_of(
        pictures, {"conv": "fmdconv", "kernels": 2}, batch_size=batch_size, temperature_every=every, epochs=2
    )
    layers = [layer for _, layer in dynamic_layers(trainer.model)]
    for epoch in (1, 2):
        assert trainer.train_epoch(epoch, ignore_step).steps == trainer.steps_per_epoch
        trained_at = {(layer.kernel_temperature, layer.channel_temperature) for layer in layers}
        trainer.evaluate(epoch)
        measured_at = {(layer.kernel_temperature, layer.channel_temperature) for layer in layers}
        told = trainer.temperatures(epoch)
        assert trained_at == measured_at == {(told.kernel, told.channel)}
