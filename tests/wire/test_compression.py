"""Compressed updates: how far off they may be, what error feedback keeps, and that the bytes are real."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from fedfmd.aggregation import RejectedUpdateError
from fedfmd.config.sections.compression import CompressionConfig
from fedfmd.seeds import generator
from fedfmd.wire.compression import (
    BLOCK,
    Compressor,
    Form,
    Uncompressed,
    compressor,
    planned_uplink_bytes,
    restore,
    serialised_update_bytes,
)
from fedfmd.wire.compression import compress as compress_with
from fedfmd.wire.compression import compress_with_feedback as feed_back

KINDS = ("none", "float16", "int8", "topk")
FLOAT32_EPSILON = 2.0**-24

seeds = st.integers(0, 2**32 - 1)
lengths = st.one_of(st.integers(1, 3 * BLOCK + 1), st.sampled_from([2**15 - 1, 2**15, 2**16 + 77]))
exponents = st.integers(-30, 30)
methods = st.builds(
    lambda uplink, fraction: compressor(CompressionConfig(uplink=uplink, topk_fraction=fraction)),
    st.sampled_from(KINDS),
    st.sampled_from([1e-3, 0.01, 0.1, 1 / 3, 1.0]),
)


def method(uplink: str, fraction: float = 0.1) -> Compressor:
    return compressor(CompressionConfig(uplink=uplink, topk_fraction=fraction))


def compress(update: Tensor, how: Compressor) -> dict[str, Tensor]:
    return compress_with(update, how, generator(0, "compression"))


def there_and_back(update: Tensor, how: Compressor) -> Tensor:
    return restore(compress(update, how), how, len(update))


def update_of(seed: int, elements: int, exponent: int) -> torch.Tensor:
    """Normal values that differ by six orders of magnitude, a tenth of them zero."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(elements, generator=rng) * 10.0 ** (-6 * torch.rand(elements, generator=rng))
    return values * (torch.rand(elements, generator=rng) > 0.1) * 2.0**exponent


@settings(max_examples=25)
@given(seed=seeds, elements=lengths, exponent=exponents, how=methods)
def test_bytes_are_those_of_the_tensors_and_known_beforehand(
    seed: int, elements: int, exponent: int, how: Compressor
) -> None:
    tensors = compress(update_of(seed, elements, exponent), how)

    assert sum(t.numel() * t.element_size() for t in tensors.values()) == planned_uplink_bytes(elements, how)
    assert len(save(tensors)) == serialised_update_bytes(elements, how)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (method("none"), 4000),
        (method("float16"), 2004),
        (method("int8"), 1000 + 4 * 4),
        (method("topk", 0.1), 400 + 125),
        (method("topk", 0.01), 40 + 40),
    ],
)
def test_bytes_of_a_thousand_elements(how: Compressor, expected: int) -> None:
    assert planned_uplink_bytes(1000, how) == expected


@settings(max_examples=25)
@given(seed=seeds, elements=lengths, exponent=st.integers(-100, 100))
def test_float16_errs_by_half_a_unit_of_its_mantissa(seed: int, elements: int, exponent: int) -> None:
    update = update_of(seed, elements, exponent)

    restored = there_and_back(update, method("float16"))

    smallest = float(update.abs().max()) * 2.0**-38  # half the step of the subnormal numbers, at most
    assert bool(((restored - update).abs() <= update.abs() * 2.0**-11 + smallest).all())


@settings(max_examples=25)
@given(seed=seeds, elements=lengths, exponent=exponents)
def test_int8_errs_by_half_a_step_of_the_block(seed: int, elements: int, exponent: int) -> None:
    update = update_of(seed, elements, exponent)

    restored = there_and_back(update, method("int8"))

    for block, back in zip(update.split(BLOCK), restored.split(BLOCK), strict=True):
        largest = float(block.abs().max())
        assert float((back - block).abs().max()) <= largest / 127 / 2 * (1 + 1e-4)
        assert float(back.abs().max()) == pytest.approx(largest, rel=1e-6)


@settings(max_examples=25)
@given(seed=seeds, elements=lengths, fraction=st.sampled_from([1e-3, 0.01, 0.1, 0.5, 1.0]))
def test_topk_keeps_the_largest_as_they_are(seed: int, elements: int, fraction: float) -> None:
    update = update_of(seed, elements, 0)

    restored = there_and_back(update, method("topk", fraction))

    kept = max(1, round(fraction * elements))
    expected = update.abs().sort(descending=True).values[:kept]
    assert torch.equal(restored.abs().sort(descending=True).values[:kept], expected)
    sent = restored != 0
    assert int(sent.sum()) <= kept
    assert torch.equal(restored[sent], update[sent])


@pytest.mark.parametrize(("fraction", "kept"), [(0.03, 3), (0.1, 10)])
def test_topk_prefers_the_first_of_equal_elements(fraction: float, kept: int) -> None:

    restored = there_and_back(torch.full((100,), -2.0), method("topk", fraction))

    assert restored.nonzero().flatten().tolist() == list(range(kept))


@settings(max_examples=25)
@given(seed=seeds, elements=lengths, exponent=exponents, how=methods, rounds=st.integers(1, 6))
def test_what_is_sent_and_what_is_kept_sum_to_what_was_trained(
    seed: int, elements: int, exponent: int, how: Compressor, rounds: int
) -> None:
    updates = [update_of(seed + r, elements, exponent) for r in range(rounds)]
    residual, total = None, torch.zeros(elements, dtype=torch.float64)
    largest = 0.0
    for update in updates:
        _, sent, whole = feed_back(update, residual, how, generator(0, "compression"))
        residual = whole - sent
        total += sent.double()
        largest = max(largest, float(sent.abs().max()), float(update.abs().max()))
    total += 0 if residual is None else residual.double()

    trained = torch.stack(updates).double().sum(0)
    assert float((total - trained).abs().max()) <= 4 * rounds * rounds * FLOAT32_EPSILON * largest


def test_feedback_sends_every_element_sooner_or_later() -> None:
    how, rng = method("topk", 0.1), generator(0, "compression")
    update = torch.linspace(1, 2, 100)
    residual, total = None, torch.zeros(100)
    for _ in range(30):
        _, sent, whole = feed_back(update, residual, how, rng)
        residual = whole - sent
        total += sent
    assert bool((total > 0).all())
    assert residual is not None
    assert float(residual.max()) < 30  # bounded: not the sum of all rounds


@pytest.mark.parametrize("kind", ["float16", "int8", "topk"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused(kind: Any, bad: float) -> None:
    update = torch.ones(1000)
    update[700] = bad
    with pytest.raises(RejectedUpdateError, match="NaN or infinity"):
        compress(update, method(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_nothing_stays_nothing(kind: Any) -> None:
    assert torch.equal(there_and_back(torch.zeros(1000), method(kind)), torch.zeros(1000))


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_numbers_become_no_nonsense(kind: Any) -> None:
    update = torch.full((1000,), 2.0**-149)
    restored = there_and_back(update, method(kind))
    assert bool(((restored - update).abs() <= 2.0**-120).all())


@pytest.mark.parametrize("kind", ["none", "float16", "int8"])
def test_another_length_is_refused(kind: Any) -> None:
    tensors = compress(torch.ones(1000), method(kind))
    with pytest.raises(ValueError, match=r"shape \(1000,\); needs \(999,\)"):
        restore(tensors, method(kind), 999)


class Halved(Uncompressed):
    """Says that it sends half of what it sends."""

    def form(self, elements: int) -> Form:
        return {"values": (torch.float32, elements // 2)}


def test_what_is_sent_is_what_is_billed() -> None:
    with pytest.raises(ValueError, match=r"Halved.compress makes .*1000.* and its form says .*500"):
        compress(torch.ones(1000), Halved())
