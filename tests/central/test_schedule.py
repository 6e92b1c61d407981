"""The step size: closed forms."""

import pytest

from fedfmd.central.schedule import learning_rate
from fedfmd.config.sections.central import TrainConfig


def test_the_authors_recipe_falls_at_30_60_and_90() -> None:
    recipe = TrainConfig()
    rates = [learning_rate(recipe, epoch) for epoch in (0, 29.99, 30, 59.99, 60, 89.99, 90, 99.99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_the_cosine_starts_high_passes_half_and_ends_at_zero() -> None:
    recipe = TrainConfig(schedule="cosine", warmup_epochs=10.0, learning_rate=0.4)
    assert learning_rate(recipe, 0.0) == 0.0
    assert learning_rate(recipe, 5.0) == pytest.approx(0.2)
    assert learning_rate(recipe, 10.0) == pytest.approx(0.4)
    assert learning_rate(recipe, 55.0) == pytest.approx(0.2)
    assert learning_rate(recipe, 100.0) == pytest.approx(0.0)


def test_a_constant_is_constant() -> None:
    assert {learning_rate(TrainConfig(schedule="constant"), e) for e in (0, 31, 99)} == {0.1}
