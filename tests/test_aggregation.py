"""The exact sum: no order or grouping changes a bit; the mean is the float64 mean; server optimisers."""

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd.aggregation import CHUNK, ExactSum, RejectedUpdateError, Scale, rounded, server_optimizer
from fedfmd.nn import kernels

ELEMENTS = 1000


def updates_of(seed: int, clients: int, spread: float) -> list[tuple[torch.Tensor, int]]:
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 5000, (clients,), generator=rng).tolist()
    magnitudes = 10.0 ** (spread * (torch.rand(clients, ELEMENTS, generator=rng) - 1))
    values = torch.randn(clients, ELEMENTS, generator=rng) * magnitudes
    return list(zip(values.unbind(), sizes, strict=True))


def summed(parts: list[tuple[torch.Tensor, int]], scale: Scale) -> ExactSum:
    total = ExactSum.zero(ELEMENTS, scale)
    for update, weight in parts:
        total.add(update, weight)
    return total


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    clients=st.integers(1, 12),
    groups=st.integers(1, 4),
    spread=st.floats(0, 12),
)
def test_any_order_and_grouping_gives_the_same_bits(
    seed: int, clients: int, groups: int, spread: float
) -> None:
    parts = updates_of(seed, clients, spread)
    scale = Scale.for_round(torch.ones(ELEMENTS), sum(weight for _, weight in parts), 400, 700)
    expected = summed(parts, scale)

    rng = random.Random(seed)
    rng.shuffle(parts)
    merged = ExactSum.zero(ELEMENTS, scale)
    for group in range(groups):
        merged.merge(summed(parts[group::groups], scale))

    assert torch.equal(merged.quanta, expected.quanta)
    assert merged.weight == expected.weight
    assert torch.equal(merged.mean(), expected.mean())


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfmd.nn.kernels.built", lambda: False)


@pytest.mark.parametrize("value", [0.5, -0.5, 1.5, 2.5, 1e-30, -3.49999, 12345.5])
@pytest.mark.parametrize("began", [False, True], ids=["update", "end and start"])
def test_the_compiled_pass_has_the_bits_of_the_plain_one(
    value: float, began: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every length around the grain of its threads, and for halves of a quantum."""
    if not kernels.available():
        pytest.skip("no C++ compiler")
    # the quantum of an update of weight 4 is 1, of a buffer 4096
    scale = Scale(range_exponent=52, weight_exponent=2, first_buffer=50_000, end_of_buffers=120_000)
    for length in (1, 7, 65_537, 200_003):
        rng = torch.Generator().manual_seed(length)
        end, start = torch.randn(length, generator=rng) * value, torch.randn(length, generator=rng)
        end[0], start[0] = value, 0
        sums = [ExactSum.zero(length, scale) for _ in range(2)]
        for total in sums:
            total.add(end, 4, start=start if began else None)
            total.add(start, 3)
            plainly(monkeypatch)
        monkeypatch.undo()
        assert torch.equal(sums[0].quanta, sums[1].quanta)
    assert sums[0].quanta.abs().sum() > 0


def test_float32_sums_do_depend_on_the_order() -> None:
    """The reason for the exact sum: plain addition fails the law above."""
    parts = [update * weight for update, weight in updates_of(1, 6, 8)]
    sums = {tuple(sum(order, torch.zeros(ELEMENTS)).tolist()) for order in itertools.permutations(parts)}
    assert len(sums) > 1


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), clients=st.integers(1, 20))
def test_the_mean_is_the_float64_mean_within_half_a_quantum_a_client(seed: int, clients: int) -> None:
    parts = updates_of(seed, clients, 6)
    weight = sum(w for _, w in parts)
    scale = Scale.for_round(torch.ones(ELEMENTS), weight)
    exact = torch.stack([update.double() * w for update, w in parts]).sum(0) / weight
    bound = clients * 0.5 * scale.quantum * 2.0**scale.weight_exponent / weight
    error = (summed(parts, scale).mean() - exact).abs().max()
    assert error <= bound + 1e-15 * exact.abs().max()


@pytest.mark.parametrize("largest", [1e-3, 1.0, 100.0, 1e4, 1e6])
def test_the_error_of_the_mean_has_the_stated_bound(largest: float) -> None:
    """At most n L 2**-45: relative to the state's largest element, not to each weight's own size."""
    parts = [(update * 0.01, weight) for update, weight in updates_of(7, 10, 2)]
    weights = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(1)) * 0.05
    weights[0] = largest
    total = sum(weight for _, weight in parts)
    mean = summed(parts, Scale.for_round(weights, total)).mean()
    exact = sum(update.double() * weight for update, weight in parts) / total
    bound = len(parts) * max(1.0, float(weights.abs().max())) * 2.0**-45
    assert (mean - exact).abs().max() <= bound
    moved, exactly = ((weights.double() + update).float() for update in (mean, exact))
    last_bit = torch.finfo(torch.float32).eps * exactly.abs()
    assert bool(((moved - exactly).abs() <= bound + last_bit).all())


def test_identical_clients_aggregate_to_themselves() -> None:
    update = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(3)) * 1e-2
    scale = Scale.for_round(torch.ones(ELEMENTS), 3 * 64)
    mean = summed([(update, 64)] * 3, scale).mean()
    assert torch.equal(mean.float(), update)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
@pytest.mark.parametrize("compiled", [True, False])
def test_an_update_out_of_range_is_refused_and_leaves_the_sum_alone(
    value: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        plainly(monkeypatch)
    total = ExactSum.zero(ELEMENTS, Scale.for_round(torch.ones(ELEMENTS), 10))
    total.add(torch.ones(ELEMENTS), 1)
    before = total.quanta.clone()
    bad = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(4))
    bad[ELEMENTS // 2] = value
    with pytest.raises(RejectedUpdateError, match=r"NaN or infinity|exceeds the range"):
        total.add(bad, 5)
    with pytest.raises(RejectedUpdateError, match=r"NaN or infinity|exceeds the range"):
        total.add(bad, 5, start=torch.ones(ELEMENTS))
    assert torch.equal(total.quanta, before)
    assert total.weight == 1


BUFFERS = slice(600, 900)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("every", [1, 3], ids=["whole", "part"])
def test_a_buffer_may_take_a_step_that_no_weight_may(
    compiled: bool, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running variance goes from 1 to that of the images in one round, however small the steps are."""
    if not compiled:
        plainly(monkeypatch)
    scale = Scale.for_round(torch.ones(ELEMENTS), 30, BUFFERS.start, BUFFERS.stop)
    index = None if every == 1 else torch.arange(0, ELEMENTS, every)
    held = torch.arange(0, ELEMENTS, every)
    buffers = (held >= BUFFERS.start) & (held < BUFFERS.stop)
    total, exact = ExactSum.zero(ELEMENTS, scale), torch.zeros(len(held), dtype=torch.float64)
    for weight in (10, 20):
        update = torch.randn(len(held), generator=torch.Generator().manual_seed(weight))
        update[buffers] *= 5e3 * weight
        total.add(update, weight, "part" if every > 1 else "", index)
        exact += update.double() * weight / 30
    assert exact[buffers].abs().max() > 100 * scale.limit
    mean = total.mean(total.holders(lambda _: index))[held]
    assert (mean - exact)[~buffers].abs().max() <= 2.0**-44
    assert (mean - exact)[buffers].abs().max() <= 2.0**-44 * 2**12
    total.check(lambda _: index)

    before = total.quanta.clone()
    for place, value in ((~buffers, scale.limit), (buffers, scale.limit * 2**12)):
        bad = torch.ones(len(held))
        bad[place.nonzero()[-1]] = value
        with pytest.raises(RejectedUpdateError, match="training diverges: lower client"):
            total.add(bad, 10, "part" if every > 1 else "", index)
        assert torch.equal(total.quanta, before)


@pytest.mark.parametrize("every", [1, 3], ids=["whole", "part"])
def test_what_a_masked_sum_adds_is_what_the_plain_one_adds(every: int) -> None:
    scale = Scale.for_round(torch.ones(ELEMENTS), 7, BUFFERS.start, BUFFERS.stop)
    index = torch.arange(0, ELEMENTS, every)
    update = torch.randn(len(index), generator=torch.Generator().manual_seed(5))
    update[(index >= BUFFERS.start) & (index < BUFFERS.stop)] *= 1e4
    total = ExactSum.zero(ELEMENTS, scale)
    total.add(update, 7, "part", index)
    assert torch.equal(rounded(update, 7, ELEMENTS, scale, index).double(), total.quanta[index])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "fractions"),
        (-(2.0**51) - 0.5, "fractions"),
        (float("nan"), "NaN or infinity"),
        (float("-inf"), "NaN or infinity"),
        (2.0**53, "more than its clients weigh"),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 2 * CHUNK + 4])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_sum_that_its_clients_cannot_have_made_is_refused(
    compiled: bool, place: int, value: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        plainly(monkeypatch)
    elements = 2 * CHUNK + 5
    total = ExactSum.zero(elements, Scale.for_round(torch.ones(elements), 8))
    total.add(torch.randn(elements, generator=torch.Generator().manual_seed(5)), 8)
    total.check(lambda _: None)
    total.quanta[place] = value
    with pytest.raises(RejectedUpdateError, match=message):
        total.check(lambda _: None)


def test_nothing_added_is_no_update() -> None:
    assert torch.equal(
        ExactSum.zero(4, Scale.for_round(torch.ones(4), 1)).mean(), torch.zeros(4, dtype=torch.float64)
    )


def test_sums_of_different_rounds_do_not_merge() -> None:
    a = ExactSum.zero(4, Scale(1, 2))
    with pytest.raises(ValueError, match="different rounds"):
        a.merge(ExactSum.zero(4, Scale(1, 3)))


def optimizer(strategy: str, **changes: float):
    options: dict[str, Any] = {"learning_rate": 1.0, "momentum": 0.9, "beta2": 0.99, "tau": 1e-3, **changes}
    return server_optimizer(strategy, **options)


def test_fedavg_adds_the_mean_update() -> None:
    weights, update = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.25], dtype=torch.float64)
    assert optimizer("fedavg").step(weights, update).tolist() == [1.5, 1.75]
    assert optimizer("fedavg", learning_rate=0.5).step(weights, update).tolist() == [1.25, 1.875]


def test_fedavg_has_the_bits_of_one_expression_for_any_number_of_elements() -> None:
    rng = torch.Generator().manual_seed(6)
    for elements in (1, CHUNK, 2 * CHUNK + 13):
        weights = torch.randn(elements, generator=rng)
        update = torch.randn(elements, generator=rng, dtype=torch.float64)
        found = optimizer("fedavg", learning_rate=0.7).step(weights, update)
        assert torch.equal(found, weights.double().add(update, alpha=0.7).float())


def test_fedavgm_sums_a_geometric_series() -> None:
    """Constant update d: after n rounds v = d (1 - m^n)/(1 - m)."""
    opt, weights = optimizer("fedavgm", momentum=0.5), torch.zeros(1)
    update = torch.ones(1, dtype=torch.float64)
    trace = []
    for _ in range(4):
        weights = opt.step(weights, update)
        trace.append(float(weights))
    assert trace == [1.0, 2.5, 4.25, 6.125]


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_adaptive_first_step_is_the_closed_form(strategy: str) -> None:
    """From m = 0 and v = tau^2: m = (1-b1) d; v = b2 tau^2 + (1-b2) d^2, or tau^2 + (1-b2) d^2 (d > tau)."""
    update = torch.tensor([0.1, -0.4], dtype=torch.float64)
    moved = optimizer(strategy, learning_rate=0.1, tau=0.05).step(torch.zeros(2), update)
    kept = 0.99 if strategy == "fedadam" else 1.0
    expected = 0.1 * 0.1 * update / ((kept * 0.05**2 + 0.01 * update.square()).sqrt() + 0.05)
    assert torch.allclose(moved.double(), expected, rtol=1e-6)


def test_yogi_forgets_more_slowly_than_adam() -> None:
    """After a large update, small ones leave Yogi's second moment larger (its change is additive)."""
    adam, yogi = optimizer("fedadam", beta2=0.9), optimizer("fedyogi", beta2=0.9)
    for update in [10.0, *[0.01] * 20]:
        for opt in (adam, yogi):
            opt.step(torch.zeros(1), torch.tensor([update], dtype=torch.float64))
    assert float(yogi.state["second_moment"]) > 5 * float(adam.state["second_moment"])


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_an_optimiser_continues_from_its_saved_state(strategy: str) -> None:
    rng = torch.Generator().manual_seed(0)
    updates = [torch.randn(8, generator=rng, dtype=torch.float64) for _ in range(4)]
    whole, weights = optimizer(strategy), torch.zeros(8)
    for update in updates:
        weights = whole.step(weights, update)
    first, half = optimizer(strategy), torch.zeros(8)
    for update in updates[:2]:
        half = first.step(half, update)
    second = optimizer(strategy)
    second.state.update({name: tensor.clone() for name, tensor in first.state.items()})
    for update in updates[2:]:
        half = second.step(half, update)
    assert torch.equal(half, weights)
