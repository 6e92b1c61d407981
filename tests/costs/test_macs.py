"""Costs: the published totals, the formula of every layer, and that counting leaves the model alone."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedfmd.costs.macs import Macs, ModelCost, model_cost
from fedfmd.nn import CondConv2d, DyConv2d, FMDConv2d, ODConv2d, build_model


def cost_of(name: str, *, pixels: int, **kwargs: Any) -> ModelCost:
    with torch.device("meta"):
        model = build_model(name, norm="bn", attention_norm="bn", **kwargs)
    return model_cost(model, (3, pixels, pixels))


# Millions of parameters and of forward MACs at K = 4, as published (224 px) or by the same formulas (32 px).
# Scaling by attentions counts, which tables of SE-ResNets leave out.
PUBLISHED = [
    ("static", "resnet18", 224, "11.69", "1814"),
    ("condconv", "resnet18", 224, "44.66", "1858"),
    ("dyconv", "resnet18", 224, "44.95", "1858"),
    ("odconv", "resnet18", 224, "44.90", "1905"),
    ("fmdconv", "resnet18", 224, "45.20", "1862"),
    ("static", "resnet50", 224, "25.56", "4089"),
    ("condconv", "resnet50", 224, "87.67", "4172"),
    ("dyconv", "resnet50", 224, "92.33", "4177"),
    ("odconv", "resnet50", 224, "90.67", "4238"),
    ("fmdconv", "resnet50", 224, "95.41", "4197"),
    ("static", "resnet18", 32, "11.17", "555.4"),
    ("condconv", "resnet18", 32, "44.14", "599.4"),
    ("dyconv", "resnet18", 32, "44.44", "599.7"),
    ("odconv", "resnet18", 32, "44.39", "644.6"),
    ("fmdconv", "resnet18", 32, "44.69", "601.0"),
    ("se", "resnet50", 224, "28.09", "4097"),
    ("se", "resnet18", 32, "11.26", "555.8"),
    ("static", "resnet50", 32, "23.52", "1298"),
    ("condconv", "resnet50", 32, "85.63", "1381"),
    ("dyconv", "resnet50", 32, "90.29", "1385"),
    ("odconv", "resnet50", 32, "88.63", "1435"),
    ("fmdconv", "resnet50", 32, "93.37", "1394"),
]


@pytest.mark.parametrize(("conv", "name", "pixels", "parameters", "macs"), PUBLISHED)
def test_totals_are_the_published_ones(conv: str, name: str, pixels: int, parameters: str, macs: str) -> None:
    stem, classes = ("imagenet", 1000) if pixels == 224 else ("cifar", 10)
    cost = cost_of(name, pixels=pixels, conv=conv, num_classes=classes, stem=stem)
    digits = len(macs.partition(".")[2])
    assert f"{cost.parameters / 1e6:.2f}" == parameters
    assert f"{cost.forward_macs / 1e6:.{digits}f}" == macs


@pytest.mark.parametrize(
    ("width", "kernels", "parameters", "macs", "megabytes"),
    [
        (1, 4, "44.69", "601", "178.8"),
        (1, 2, "22.71", "579", "90.8"),
        (1, 1, "11.72", "568", "46.9"),
        (1 / 2, 4, "11.21", "151", "44.8"),
        (1 / 2, 1, "2.96", "143", "11.8"),
        (1 / 4, 4, "2.83", "38.1", "11.3"),
    ],
)
def test_width_buys_compute_and_kernels_buy_bytes(
    width: float, kernels: int, parameters: str, macs: str, megabytes: str
) -> None:
    with torch.device("meta"):
        model = build_model("resnet18", num_classes=10, width=width, kernels=kernels)
    cost = model_cost(model, (3, 32, 32))
    digits = len(macs.partition(".")[2])
    assert f"{cost.parameters / 1e6:.2f}" == parameters
    assert f"{cost.forward_macs / 1e6:.{digits}f}" == macs
    # Group norm has no buffers, so the payload is the parameters.
    assert f"{cost.payload_bytes() / 1e6:.1f}" == megabytes


def expected_layer(
    conv: str, ci: int, co: int, k: int, groups: int, kernels: int, hw_in: int, hw_out: int
) -> tuple[int, int]:
    """Transcribe the table of parameters and MACs; the norm of the attention has 2A parameters."""
    weight = co * (ci // groups) * k * k
    a, h = max(ci // 16, 16), (kernels if ci == 3 else ci // 4 + 1)
    co_head = 0 if ci == co == groups else co
    spatial, kappa = (k * k if k > 1 else 0), (kernels if kernels > 1 else 0)
    plain = weight * hw_out
    scaling = ci * hw_in + co_head * hw_out
    pi = ci * h + h * kernels
    match conv:
        case "condconv":
            return kernels * weight + ci * kernels + kernels, plain + ci * kernels + kernels * weight
        case "dyconv":
            return (
                kernels * (weight + co) + pi + kernels,
                plain + pi + kernels * (weight + co),
            )
        case "odconv":
            heads = 2 * ci + co_head + spatial + kappa
            return (
                kernels * weight + 2 * a + a * heads + heads - ci,
                plain + a * heads + kernels * weight * (2 if k > 1 else 1) + scaling,
            )
        case _:
            heads = 2 * ci + co_head
            return (
                kernels * (weight + co) + 2 * a + a * heads + heads - ci + pi + kernels,
                plain + a * heads + pi + kernels * (weight + co) + scaling,
            )


LAYERS = {
    "condconv": (CondConv2d, False),
    "dyconv": (DyConv2d, True),
    "odconv": (ODConv2d, False),
    "fmdconv": (FMDConv2d, True),
}


@settings(max_examples=100)
@given(
    conv=st.sampled_from(sorted(LAYERS)),
    channels=st.sampled_from([(3, 6, 1), (3, 6, 3), (8, 8, 8), (8, 12, 4), (64, 32, 1), (512, 4, 2)]),
    k=st.sampled_from([1, 2, 3]),
    kernels=st.integers(1, 5),
    stride=st.sampled_from([1, 2]),
)
def test_every_layer_costs_its_formula(
    conv: str, channels: tuple[int, int, int], k: int, kernels: int, stride: int
) -> None:
    ci, co, groups = channels
    kind, bias = LAYERS[conv]
    with torch.device("meta"):
        layer = kind(ci, co, k, stride, groups=groups, bias=bias, kernels=kernels)
    cost = model_cost(layer, (ci, 9, 7))
    pixels = ((9 - k) // stride + 1) * ((7 - k) // stride + 1)
    assert (cost.parameters, cost.forward_macs) == expected_layer(
        conv, ci, co, k, groups, kernels, 63, pixels
    )


def test_a_layer_by_hand() -> None:
    # Ci = 8, Co = 12, 3x3, K = 4 on 9x9 with padding: W = 864, A = 16, H = 3.
    cost = model_cost(FMDConv2d(8, 12, 3, padding=1), (8, 9, 9))
    assert cost.macs_by_kind == Macs(
        conv=864 * 81,
        aggregation=4 * (864 + 12),
        attention=16 * (8 + 8 + 12) + 8 * 3 + 3 * 4 + 8 * 81 + 12 * 81,
    )
    assert cost.activation_elements == 12 * 81
    assert cost.kernel_elements == 864


def test_static_layers_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5))
    cost = model_cost(model, (4, 5, 5))
    assert cost.macs_by_kind == Macs(conv=6 * 2 * 9 * 9, linear=54 * 5)
    assert cost.parameters == 6 * 2 * 9 + 6 + 54 * 5 + 5
    assert [layer.name for layer in cost.layers] == ["0", "3"]


def test_memory_figures_of_resnet18() -> None:
    cost = cost_of("resnet18", pixels=32, conv="fmdconv", num_classes=10)
    assert f"{cost.kernel_elements / 1e6:.2f}" == "10.99"
    convolutions = sum(c.activation_elements for c in cost.layers if c.operator in ("Conv2d", "FMDConv2d"))
    assert f"{convolutions * 4 / 2**20:.1f}" == "2.3"


@pytest.mark.parametrize(
    "conv", ["static", "se", "condconv", "dyconv", "odconv", "fmdconv", "kernelwarehouse"]
)
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_nothing_of_the_state_is_missed(conv: str, norm: str) -> None:
    model = build_model("resnet8", conv=conv, num_classes=10, norm=norm, attention_norm="bn")
    cost = model_cost(model, (3, 32, 32))
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.state_elements == sum(value.numel() for value in model.state_dict().values())
    assert cost.payload_bytes(element_bytes=2) == 2 * cost.state_elements


def test_a_static_network_costs_what_torch_counts() -> None:
    model = build_model("resnet20", conv="static", num_classes=10)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 32, 32))
    assert 2 * model_cost(model, (3, 32, 32)).forward_macs == counter.get_total_flops()


def test_counting_leaves_the_model_alone() -> None:
    model = build_model("resnet8", num_classes=10, norm="bn", attention_norm="bn").train()
    model.get_submodule("layer1").eval()
    before = copy.deepcopy(model.state_dict())
    model_cost(model, (3, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert not model.get_submodule("layer1").training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_not_reached_costs_parameters_but_no_work() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), FMDConv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    cost = model_cost(Skips(), (4,))
    assert cost.forward_macs == 8
    assert cost.parameters == 10 + sum(p.numel() for p in FMDConv2d(3, 4, 3).parameters())


def test_a_module_of_an_unknown_kind_is_counted_by_the_generic_rule_and_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.values = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.values((x @ x.mT) @ x * self.scale)

    cost = model_cost(nn.Sequential(nn.Linear(4, 4), Attention()), (3, 4))
    assert cost.generic == ("1",)
    assert cost.macs_by_kind == Macs(linear=3 * 4 * 4 + 2 * (3 * 4 * 3) + 3 * 4 * 5)
    assert cost.parameters == 20 + 4 + 25


def test_the_generic_rule_agrees_with_the_rule_of_a_convolution() -> None:
    class Wrapped(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 8, 3, padding=1, groups=1)
            self.shift = nn.Parameter(torch.zeros(()))

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.shift

    with torch.device("meta"):
        models = Wrapped(), Holder()
    ruled, generic = (model_cost(model, (3, 16, 16)) for model in models)
    assert (ruled.generic, generic.generic) == ((), ("Holder",))
    assert ruled.macs_by_kind == generic.macs_by_kind == Macs(conv=16 * 16 * 8 * 27)
