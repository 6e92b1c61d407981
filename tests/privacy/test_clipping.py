"""Clips: no client's integers exceed them, and they follow the norms as the paper says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd.aggregation import ExactSum
from fedfmd.privacy.clipping import Clip, l2_norm, next_log_clip, noise_beside_count


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-6, 1e4),
    st.floats(0.01, 1e6),
    st.integers(1, 5000),
    st.integers(0, 2**31),
    st.sampled_from(["dense", "alike", "one"]),
)
def test_no_clients_integers_have_a_larger_norm_than_the_clip(
    norm: float, size: float, elements: int, seed: int, shape: str
) -> None:
    """In integers, after rounding: the sensitivity that the noise is measured by."""
    clip = Clip(norm)
    update = torch.randn(elements, generator=torch.Generator().manual_seed(seed))
    update = {"dense": update, "alike": torch.ones(elements), "one": update * (torch.arange(elements) == 0)}[
        shape
    ]
    update = update * (norm * size / max(l2_norm(update), 1e-30))
    clip.apply(update)
    total = ExactSum.zero(elements, clip.scale)
    total.add(update, 1)
    integers = [int(value) for value in total.quanta.tolist()]
    assert sum(value * value for value in integers) <= clip.quanta**2
    assert clip.quanta * clip.quantum <= norm


def test_small_updates_stay_to_the_bit_and_large_ones_keep_their_direction() -> None:
    small, large = torch.full((100,), 0.05), torch.full((100,), 5.0)
    before = small.clone()
    assert not Clip(1.0).apply(small)
    assert torch.equal(small, before)
    assert Clip(1.0).apply(large)
    assert l2_norm(large) == pytest.approx(1.0, rel=1e-4)
    assert l2_norm(large) <= 1.0
    assert large.unique().numel() == 1


@pytest.mark.parametrize("norm", [1e-5, 0.3, 1.0, 1.5, 1000.0])
def test_the_grid_follows_from_the_clip(norm: float) -> None:
    clip = Clip(norm)
    assert 2**19 <= clip.quanta < 2**20
    assert clip.scale.quantum == clip.quantum
    assert clip.unit / 2 <= norm < clip.unit
    total = ExactSum.zero(1, clip.scale)
    total.add(torch.tensor([0.5 * clip.unit]), 1)
    assert total.quanta.tolist() == [2**19]  # a count of one half, whatever the clip


def test_the_clip_finds_the_quantile() -> None:
    """Norms spread evenly over 0 to 10: the median is 5."""
    norms, log_clip = torch.linspace(0, 10, 1001), torch.zeros(1)
    for _ in range(200):
        within = float((norms <= 0.1 * math.exp(float(log_clip))).float().mean())
        log_clip = next_log_clip(log_clip, within, 0.5, 0.2)
    assert 0.1 * math.exp(float(log_clip)) == pytest.approx(5.0, rel=0.01)


def test_noise_is_shared_with_the_count() -> None:
    """Theorem 1 of Andrew et al.: both together are worth the stated multiplier."""
    update = noise_beside_count(1.0, 2.5)
    assert update**-2 + (2 * 2.5) ** -2 == pytest.approx(1.0)
    assert update > 1.0


def test_what_is_not_finite_stays_for_the_sum_to_refuse() -> None:
    update = torch.tensor([1.0, math.nan])
    Clip(1.0).apply(update)
    assert not bool(update.isfinite().all())
