"""Every formulation of the dynamic convolution is the float64 oracle, in values and in all gradients."""

import copy
import pickle
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfmd.nn import FMDConv2d, ODConv2d, kernels
from fedfmd.nn.functional import Formulation, choose, dynamic_conv2d

TOLERANCE = 1e-5
compiled = pytest.param(
    "compiled", marks=pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")
)
formulations = pytest.mark.parametrize("formulation", ["plain", "unfold", "kfold", compiled])


class Case:
    """Random arguments of a dynamic convolution in float64, and their copies in another type."""

    def __init__(
        self,
        *,
        batch: int = 3,
        groups: int = 1,
        inputs: int = 5,
        outputs: int = 6,
        size: tuple[int, int] = (7, 6),
        window: tuple[int, int] = (3, 3),
        kernels: int = 4,
        options: tuple[bool, bool, bool, bool] = (True, True, True, True),
        positive: bool = False,
        **geometry: object,
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        self.positive = positive

        def normal(*shape: int) -> Tensor:
            values = torch.randn(*shape, generator=rng, dtype=torch.float64)
            return values.abs() if positive else values

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=rng, dtype=torch.float64) + 0.1

        bias, input_scale, output_scale, spatial = options
        self.arguments = {
            "x": normal(batch, groups * inputs, *size),
            "weight": normal(kernels, groups * outputs, inputs, *window),
            "attention": uniform(batch, kernels),
            "bias": normal(kernels, groups * outputs) if bias else None,
            "input_scale": uniform(batch, groups * inputs) if input_scale else None,
            "output_scale": uniform(batch, groups * outputs) if output_scale else None,
            "spatial_scale": uniform(batch, window[0] * window[1]) if spatial else None,
        }
        self.geometry: dict[str, Any] = {"groups": groups, **geometry}

    def run(self, formulation: Formulation, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The result and every gradient, of a loss that weighs each result differently."""
        leaves: dict[str, Any] = {
            k: v.to(dtype, copy=True).requires_grad_() for k, v in self.arguments.items() if v is not None
        }
        y = dynamic_conv2d(**leaves, **self.geometry, formulation=formulation)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weights = weights.abs() if self.positive else weights
        gradients = torch.autograd.grad(y, list(leaves.values()), weights.to(dtype))
        return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def relative_error(result: Tensor, oracle: Tensor) -> float:
    error = (result.detach().double() - oracle.detach()).norm()
    return (error / oracle.detach().norm().clamp_min(1e-30)).item()


def assert_same(results: dict[str, Tensor], oracle: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    errors = {name: relative_error(results[name], oracle[name]) for name in oracle}
    assert max(errors.values()) < tolerance, errors


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@formulations
@settings(max_examples=30, derandomize=True)
@given(data=st.data())
def test_equals_the_oracle_on_random_shapes(formulation: Formulation, data: st.DataObject) -> None:
    """Values are positive: where terms cancel a relative error says nothing, and the search finds that."""
    window = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    dilation = data.draw(pairs(1, 2))
    padding = data.draw(pairs(0, 3))
    smallest = [max(1, d * (w - 1) + 1 - 2 * p) for d, w, p in zip(dilation, window, padding, strict=True)]
    case = Case(
        batch=data.draw(st.integers(1, 9)),
        groups=data.draw(st.sampled_from([1, 1, 2, 3])),
        inputs=data.draw(st.sampled_from([1, 3, 16, 40, 65])),
        outputs=data.draw(st.sampled_from([1, 5, 16, 33, 64, 80])),
        size=(smallest[0] + data.draw(st.integers(0, 12)), smallest[1] + data.draw(st.integers(0, 12))),
        window=window,
        kernels=data.draw(st.integers(1, 6)),
        options=data.draw(st.tuples(*[st.booleans()] * 4)),
        stride=data.draw(pairs(1, 3)),
        padding=padding,
        dilation=dilation,
        positive=True,
    )
    assert_same(case.run(formulation), case.run("plain", torch.float64))


@formulations
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(batch=1, size=(3, 3)), id="batch 1, one output pixel"),
        pytest.param(Case(batch=8, inputs=64, outputs=64, size=(4, 4), padding=1), id="4x4 map"),
        pytest.param(Case(batch=2, inputs=16, outputs=32, size=(33, 31), stride=2, padding=1), id="odd"),
        pytest.param(Case(inputs=70, outputs=130, size=(5, 5), window=(1, 1)), id="1x1"),
        pytest.param(Case(size=(2, 2), padding=3), id="padding wider than the map"),
        pytest.param(Case(size=(12, 12), padding=5, dilation=5), id="dilation 5"),
        pytest.param(Case(inputs=1, outputs=1, groups=24, padding=1), id="depth-wise"),
        pytest.param(Case(inputs=1, outputs=2, groups=24, padding=1), id="depth-wise, two outputs each"),
        pytest.param(Case(kernels=17, inputs=20, padding=1), id="17 kernels"),
        pytest.param(Case(kernels=1, padding=1), id="one kernel"),
        pytest.param(Case(size=(40, 40), inputs=3, outputs=8, window=(7, 7), stride=2, padding=3), id="7x7"),
    ],
)
def test_equals_the_oracle_on_special_shapes(formulation: Formulation, case: Case) -> None:
    assert_same(case.run(formulation), case.run("plain", torch.float64))


def test_plain_is_one_convolution_for_each_sample() -> None:
    case = Case(groups=2, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    a = case.arguments
    results = case.run("plain", torch.float64)["y"]
    for b, result in enumerate(results):
        kernel = (a["attention"][b, :, None, None, None, None] * a["weight"]).sum(0)
        kernel = kernel * a["spatial_scale"][b].view(3, 3)
        bias = (a["attention"][b, :, None] * a["bias"]).sum(0)
        scaled = a["x"][b] * a["input_scale"][b, :, None, None]
        y = F.conv2d(scaled, kernel, bias, **case.geometry) * a["output_scale"][b, :, None, None]
        assert relative_error(result, y) < 1e-12


@formulations
def test_one_kernel_with_full_attention_is_the_static_convolution(formulation: Formulation) -> None:
    x, weight = torch.randn(4, 8, 9, 9), torch.randn(1, 12, 8, 3, 3)
    y = dynamic_conv2d(x, weight, torch.ones(4, 1), padding=1, formulation=formulation)
    assert relative_error(y, F.conv2d(x.double(), weight[0].double(), padding=1)) < TOLERANCE


@formulations
@pytest.mark.parametrize("layout", ["channels last", "transposed", "strided", "expanded"])
def test_any_memory_layout(formulation: Formulation, layout: str) -> None:
    x = torch.randn(6, 8, 8, 8)
    views = {
        "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.transpose(2, 3),
        "strided": lambda t: t[::2, ::2, 1:7, ::2],
        "expanded": lambda t: t[:1].expand(5, -1, -1, -1),
    }
    view = views[layout](x)
    weight = torch.randn(4, view.shape[1], 6, 3, 3).transpose(1, 2)
    attention = torch.rand(4, view.shape[0]).t()
    grad = torch.randn(6, view.shape[0], 1, 1).transpose(0, 1)

    def run(x: Tensor, weight: Tensor, attention: Tensor, formulation: Formulation) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, weight, attention)]
        y = dynamic_conv2d(*leaves, stride=2, formulation=formulation)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y).expand_as(y))]

    results = run(view, weight, attention, formulation)
    exact = [t.double().contiguous() for t in (view, weight, attention)]
    oracle = run(exact[0], exact[1], exact[2], "plain")
    assert max(relative_error(a, b) for a, b in zip(results, oracle, strict=True)) < TOLERANCE


@formulations
@pytest.mark.parametrize("frozen", ["x", "weight", "attention", "output_scale"])
def test_frozen_arguments_get_no_gradient_and_change_no_other(formulation: Formulation, frozen: str) -> None:
    case = Case(padding=1)
    oracle = case.run("plain", torch.float64)
    leaves: dict[str, Any] = {k: v.float().requires_grad_(k != frozen) for k, v in case.arguments.items()}
    y = dynamic_conv2d(**leaves, **case.geometry, formulation=formulation)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(weights.float())
    assert leaves[frozen].grad is None
    assert_same(
        {k: v.grad for k, v in leaves.items() if k != frozen} | {"y": y.detach()} | {frozen: oracle[frozen]},
        oracle,
    )


@formulations
def test_a_scale_of_zero_has_its_gradient(formulation: Formulation) -> None:
    case = Case(padding=1)
    case.arguments["output_scale"][1] = 0
    case.arguments["input_scale"][2] = 0
    assert_same(case.run(formulation), case.run("plain", torch.float64))


def test_auto_is_right_for_every_type() -> None:
    weight = torch.randn(2, 4, 3, 3, 3)
    assert choose(torch.randn(1, 3, 5, 5, dtype=torch.float64), weight.double()) == "plain"
    assert choose(torch.randn(1, 3, 5, 5, device="meta"), weight.to("meta")) == "plain"
    assert choose(torch.randn(1, 1, 5, 5), torch.randn(2, 4, 1, 3, 3)) == "plain"
    fast = "compiled" if kernels.available() else "plain"
    assert choose(torch.randn(1, 3, 5, 5), weight) == fast
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert choose(torch.randn(1, 3, 5, 5), weight) == "plain"


def test_an_impossible_formulation_is_refused() -> None:
    x, weight, attention = torch.randn(1, 3, 5, 5), torch.randn(2, 4, 3, 3, 3), torch.rand(1, 2)
    with pytest.raises(ValueError, match="must be one of auto, plain, compiled, unfold, kfold, implicit"):
        dynamic_conv2d(x, weight, attention, formulation=cast(Any, "fast"))
    with pytest.raises(ValueError, match="'compiled'"):
        dynamic_conv2d(x.double(), weight.double(), attention.double(), formulation="compiled")


def test_autocast_computes_in_its_type() -> None:
    layer = FMDConv2d(8, 8, 3, padding=1)
    x = torch.randn(4, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert relative_error(y, layer(x).double()) < 0.03


def test_layers_survive_copies_pickles_and_functional_calls() -> None:
    layer, x = FMDConv2d(8, 16, 3, padding=1), torch.randn(2, 8, 6, 6)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    doubled = {name: 2 * p for name, p in layer.named_parameters() if name in ("weight", "bias")}
    assert torch.allclose(torch.func.functional_call(layer, doubled, x), 2 * y, rtol=1e-5)


@pytest.mark.parametrize("layer", [FMDConv2d, ODConv2d])
def test_compiles_without_a_graph_break(layer: type[FMDConv2d]) -> None:
    """With the eager back end: what is traced here is what any back end gets."""
    torch.manual_seed(0)
    module, x = layer(8, 16, 3, padding=1), torch.randn(2, 8, 6, 6, requires_grad=True)
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    leaves = [x, *module.parameters()]
    gradients = torch.autograd.grad(y.square().sum(), leaves)
    oracle = torch.autograd.grad(module(x).square().sum(), leaves)
    assert relative_error(y, module(x).double()) < TOLERANCE
    assert max(relative_error(a, b.double()) for a, b in zip(gradients, oracle, strict=True)) < TOLERANCE
