"""Attention and kernel updates as a round sees them: closed forms, and the clients' own vectors."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.nn import DynamicConv2d, Temperatures, build_model, dynamic_layers
from fedfmd.nn.vector import Layout
from fedfmd.records.rows import ClientRow
from fedfmd.training.diagnostics import (
    AttentionMeter,
    attention_meter,
    client_diagnostics,
    round_diagnostics,
    update_norms,
    weighted_mean_cosine,
)

KERNELS = 4
TEMPERATURES = Temperatures(kernel=10.0, channel=3.0)


def small_model(conv: str = "fmdconv", kernels: int = KERNELS) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("resnet8", num_classes=10, in_channels=3, conv=conv, kernels=kernels, width=0.25)


def make_uniform(model: torch.nn.Module) -> None:
    """Let every kernel's logit be 0."""
    for name, parameter in model.named_parameters():
        if "kernel_attention" in name or "kernel_fc" in name:
            torch.nn.init.zeros_(parameter)


def measured(model: torch.nn.Module, *batches: torch.Tensor) -> AttentionMeter:
    with AttentionMeter(model) as meter:
        for batch in batches:
            model(batch)
    return meter


@pytest.mark.parametrize("conv", ["condconv", "dyconv", "odconv", "fmdconv"])
def test_uniform_attention_has_the_entropy_log_k(conv: str) -> None:
    model = small_model(conv)
    make_uniform(model)

    meter = measured(model, torch.randn(5, 3, 16, 16))

    assert list(meter.usage()) == [name for name, _ in dynamic_layers(model)]
    for usage in meter.usage().values():
        assert usage == pytest.approx([1 / KERNELS] * KERNELS)
    for entropy in meter.entropy().values():
        assert entropy == pytest.approx(math.log(KERNELS))
    for relative in meter.relative_entropy().values():
        assert relative == pytest.approx(1)


def test_a_kernel_that_takes_all_has_no_entropy() -> None:
    model = small_model()
    make_uniform(model)
    for _, layer in dynamic_layers(model):
        bias: Any = layer.get_submodule("kernel_attention.fc2").bias
        bias.data[2] = 100.0

    meter = measured(model, torch.randn(5, 3, 16, 16))

    for usage in meter.usage().values():
        assert usage == pytest.approx([0, 0, 1, 0])
    assert max(meter.entropy().values()) == pytest.approx(0, abs=1e-6)


def test_samples_that_differ_use_all_kernels_though_each_uses_one() -> None:
    """What the entropy of the mean attention would miss."""
    layer: Any = small_model("dyconv").get_submodule("layer1.0.conv1")
    each = torch.eye(KERNELS)
    layer.kernel_attention.forward = lambda pooled, temperature: each

    meter = measured(layer, torch.randn(KERNELS, layer.in_channels, 4, 4))

    assert meter.usage()[""] == pytest.approx([1 / KERNELS] * KERNELS)
    assert meter.entropy()[""] == pytest.approx(0, abs=1e-6)


def test_the_meter_means_over_samples_not_over_batches() -> None:
    model = small_model("dyconv").eval()
    pictures = torch.randn(7, 3, 16, 16)

    whole, parts = measured(model, pictures), measured(model, pictures[:1], pictures[1:])

    for name, usage in whole.usage().items():
        assert usage == pytest.approx(parts.usage()[name], rel=1e-5)
        assert whole.entropy()[name] == pytest.approx(parts.entropy()[name], rel=1e-5)


def test_the_meter_leaves_the_model_as_it_was() -> None:
    model = small_model()
    meter = measured(model, torch.randn(2, 3, 16, 16))
    before = meter.usage()

    model(torch.randn(2, 3, 16, 16))

    assert meter.usage() == before
    assert all(not m.record_attention and m.last_attention is None for _, m in dynamic_layers(model))


def test_a_meter_that_is_off_sees_nothing() -> None:
    model = small_model()
    with attention_meter(model, enabled=False) as meter:
        model(torch.randn(2, 3, 16, 16))
    assert meter.usage() == {} == meter.entropy()


def test_a_single_kernel_has_no_relative_entropy() -> None:
    meter = measured(small_model(kernels=1), torch.randn(2, 3, 16, 16))
    assert set(meter.relative_entropy().values()) == {None}
    assert all(usage == [1.0] for usage in meter.usage().values())


def test_norms_are_those_of_the_kernels() -> None:
    model = small_model()
    layout = Layout.of(model)
    update = torch.zeros(layout.elements)
    for view in layout.views(update).values():
        view.fill_(2.0)

    norms = update_norms(update, layout)

    assert norms == {name: 2 * math.sqrt(m.weight.numel()) for name, m in dynamic_layers(model)}


def mean_cosine(updates: list[torch.Tensor]) -> float | None:
    total = torch.stack(updates).sum(0)
    return weighted_mean_cosine(float(total.square().sum()), [float(u.norm()) for u in updates])


def test_cosines_of_two() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.5])
    assert mean_cosine([a, a]) == pytest.approx(1)
    assert mean_cosine([a, 2 * a]) == pytest.approx(1)
    assert mean_cosine([a, -a]) == pytest.approx(-1)
    assert mean_cosine([a, b]) == pytest.approx(0)
    assert mean_cosine([a, a + 6 * b]) == pytest.approx(1 / math.sqrt(2))


def test_fewer_than_two_that_moved_have_no_cosine() -> None:
    a = torch.tensor([3.0, 1.0])
    assert mean_cosine([a]) is None
    assert mean_cosine([a, 0 * a]) is None
    assert weighted_mean_cosine(0.0, []) is None


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), clients=st.integers(2, 9), elements=st.integers(1, 50))
def test_the_mean_is_that_over_all_pairs(seed: int, clients: int, elements: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    updates = list(torch.randn(clients, elements, generator=rng, dtype=torch.float64))
    norms = [float(u.norm()) for u in updates]
    pairs = [(i, j) for i in range(clients) for j in range(i)]
    inner = sum(float(updates[i] @ updates[j]) for i, j in pairs)
    expected = inner / sum(norms[i] * norms[j] for i, j in pairs)

    assert mean_cosine(updates) == pytest.approx(expected, abs=1e-9)


class Round:
    """A round of clients whose updates are given, summed as the engine sums them."""

    def __init__(self, model: torch.nn.Module, updates: list[torch.Tensor], weights: list[int]):
        self.layout = Layout.of(model)
        scale = Scale.for_round(torch.ones(1), sum(weights))
        self.total = ExactSum.zero(self.layout.elements, scale)
        self.rows = []
        with AttentionMeter(model) as meter:
            model(torch.randn(3, 3, 16, 16))
        for client, (update, weight) in enumerate(zip(updates, weights, strict=True)):
            self.total.add(update, weight)
            figures = client_diagnostics(meter, update, self.layout, weight)
            self.rows.append(ClientRow(round=1, client=client, status="completed", diagnostics=figures))

    def figures(self, kernels: int = KERNELS) -> dict:
        found = round_diagnostics(self.rows, self.total, self.layout, kernels, TEMPERATURES)
        return json.loads(json.dumps(found, allow_nan=False))


def test_a_round_finds_the_cosines_from_the_sum_alone() -> None:
    model = small_model()
    rng = torch.Generator().manual_seed(1)
    updates = list(1e-3 * torch.randn(3, Layout.of(model).elements, generator=rng))
    weights = [40, 7, 300]
    round = Round(model, updates, weights)

    found = round.figures()["kernel_update_cosine"]

    views = [round.layout.views(w * u.double()) for u, w in zip(updates, weights, strict=True)]
    for name, _ in dynamic_layers(model):
        expected = mean_cosine([view[f"{name}.weight"] for view in views])
        assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_clients_that_agree_and_clients_that_do_not() -> None:
    model = small_model()
    update = 1e-3 * torch.randn(Layout.of(model).elements)
    agreed = Round(model, [update, update, update], [5, 6, 7]).figures()["kernel_update_cosine"]
    opposed = Round(model, [update, -update], [5, 5]).figures()["kernel_update_cosine"]
    alone = Round(model, [update], [5]).figures()["kernel_update_cosine"]

    assert list(agreed.values()) == pytest.approx([1.0] * len(agreed))
    assert list(opposed.values()) == pytest.approx([-1.0] * len(opposed))
    assert set(alone.values()) == {None}


def test_means_are_weighted_and_kernels_that_are_not_held_count_as_unused() -> None:
    model = small_model()
    layout = Layout.of(model)
    zero = ExactSum.zero(layout.elements, Scale(1, 1))

    def row(client: int, weight: int, usage: list[float], entropy: float, held: list[int]) -> ClientRow:
        figures = {
            "weight": weight,
            "attention_entropy": {"layer1.0.conv1": entropy},
            "relative_entropy": {"layer1.0.conv1": None},
            "layer_usage": {"layer1.0.conv1": usage},
            "weighted_norms": {},
        }
        plan = {"kernel_set": held} if held else {}
        return ClientRow(round=1, client=client, status="completed", plan=plan, diagnostics=figures)

    rows = [row(0, 1, [0.1, 0.2, 0.3, 0.4], 1.0, []), row(1, 3, [0.25, 0.75], 0.5, [1, 3])]
    lost = row(2, 100, [1.0, 0, 0, 0], 0.0, []).rejected("failed", "lost")
    found = round_diagnostics([*rows, lost], zero, layout, KERNELS, TEMPERATURES)

    assert found["attention_entropy"] == {"layer1.0.conv1": 0.625}
    assert found["relative_entropy"] == {"layer1.0.conv1": None}
    assert found["kernel_usage"]["layer1.0.conv1"] == pytest.approx([0.025, 0.2375, 0.075, 0.6625])
    assert found["temperature_kernel"] == 10.0


def test_a_client_says_how_it_uses_the_kernels_on_the_whole() -> None:
    model = small_model()
    make_uniform(model)
    round = Round(model, [torch.zeros(Layout.of(model).elements)], [3])
    assert round.rows[0].diagnostics["kernel_usage"] == [0.25] * KERNELS


def test_only_kernels_have_five_dimensions() -> None:
    for conv in ("static", "condconv", "dyconv", "odconv", "fmdconv"):
        model = small_model(conv)
        layers = [name for name, m in model.named_modules() if isinstance(m, DynamicConv2d)]
        assert list(update_norms(torch.zeros(Layout.of(model).elements), Layout.of(model))) == layers
