"""Dynamic convolutions: the authors' figures, the formula sample by sample, and the laws of the layers."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedfmd.nn import (
    CondConv2d,
    DyConv2d,
    DynamicConv2d,
    FMDConv2d,
    ODConv2d,
    Temperatures,
    record_attention,
    set_temperature,
)
from fedfmd.nn.checkpoints import load_authors_state_dict, to_authors_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [c for c in json.loads((GOLDEN / "index.json").read_text()) if c["layer"] != "KernelWarehouse"]
LAYERS: list[type[DynamicConv2d]] = [FMDConv2d, ODConv2d, DyConv2d, CondConv2d]
BRANCHED: list[type[FMDConv2d] | type[ODConv2d]] = [FMDConv2d, ODConv2d]
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def golden_layer(case: dict[str, Any]) -> DynamicConv2d:
    layer = {"FMDConv": FMDConv2d, "ODConv": ODConv2d}[case["layer"]](
        case["in_channels"],
        case["out_channels"],
        case["kernel_size"],
        case["stride"],
        case["padding"],
        groups=case["groups"],
        bias=case["bias"],
        kernels=case["num_kernels"],
        attention_norm="bn",
    )
    both = case.get("temperature")
    set_temperature(
        layer,
        Temperatures(kernel=both or case["kernel_temperature"], channel=both or case["channel_temperature"]),
    )
    return layer.double().eval()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def test_output_and_every_gradient_are_the_authors(case: dict[str, Any]) -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / case["file"]).items()}
    layer = golden_layer(case)
    load_authors_state_dict(
        layer, {key.removeprefix("param/"): value for key, value in golden.items() if "param/" in key}
    )
    x = golden["input"].requires_grad_()
    y = layer(x)
    y.backward(golden["grad_output"])
    torch.testing.assert_close(y, golden["output"], **EXACT)
    torch.testing.assert_close(x.grad, golden["grad_input"], **EXACT)
    expected = {key.removeprefix("grad/"): value for key, value in golden.items() if key.startswith("grad/")}
    for parameter in layer.parameters():
        parameter.data = parameter.grad
    gradients = to_authors_state_dict(layer)
    assert expected.keys() == {key for key in gradients if "running" not in key and "num_" not in key}
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, **EXACT)


def sample_by_sample(layer: DynamicConv2d, x: Tensor) -> Tensor:
    """Transcribe the formula of the module's docstring: one ordinary convolution for each sample."""
    attention = layer.attend(x.mean((2, 3)))
    outputs = []
    for b in range(x.shape[0]):
        kernel = torch.einsum("k,k...->...", attention.kernel[b], layer.weight)
        bias = None
        if layer.bias is not None:
            bias = attention.kernel[b] @ layer.bias
        if attention.spatial is not None:
            kernel = kernel * attention.spatial[b].view(layer.kernel_size)
        scaled: Tensor = x[b] if attention.input is None else x[b] * attention.input[b, :, None, None]
        y = F.conv2d(scaled[None], kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        outputs.append(y if attention.output is None else y * attention.output[b, :, None, None])
    return torch.cat(outputs)


def randomised(layer: DynamicConv2d) -> DynamicConv2d:
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@settings(max_examples=60)
@given(
    kind=st.sampled_from(LAYERS),
    batch=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 6]),
    outputs=st.sampled_from([6, 12]),
    kernel_size=st.sampled_from([1, 2, 3, (1, 3), (5, 2)]),
    stride=st.sampled_from([1, 2, (2, 1)]),
    padding=st.sampled_from([0, 1, (2, 0)]),
    dilation=st.sampled_from([1, 2]),
    kernels=st.integers(1, 5),
    bias=st.booleans(),
)
def test_every_layer_is_its_formula(
    kind: type[DynamicConv2d],
    batch: int,
    groups: int,
    outputs: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: int,
    kernels: int,
    bias: bool,
) -> None:
    layer = kind(6, outputs, kernel_size, stride, padding, dilation, groups, bias, kernels=kernels)
    randomised(layer)
    set_temperature(layer, Temperatures(kernel=2.0, channel=3.0))
    x = torch.randn(batch, 6, 11, 10, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), sample_by_sample(layer, x)
    torch.testing.assert_close(y, expected, **EXACT)
    seen, wanted = torch.randn_like(y), [x, *layer.parameters()]
    grads = torch.autograd.grad(y, wanted, seen, allow_unused=True)
    expected_grads = torch.autograd.grad(expected, wanted, seen, allow_unused=True)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, **EXACT)


@pytest.mark.parametrize("kind", LAYERS)
def test_one_kernel_is_an_attention_scaled_plain_convolution(kind: type[DynamicConv2d]) -> None:
    layer = randomised(kind(6, 8, 3, padding=1, bias=False, kernels=1))
    x = torch.randn(3, 6, 7, 7, dtype=torch.float64)
    attention = layer.attend(x.mean((2, 3)))
    x = x if attention.input is None else x * attention.input[:, :, None, None]
    if attention.spatial is None:
        y = F.conv2d(x, layer.weight[0], padding=1)
    else:
        windows = F.unfold(x, 3, padding=1).view(3, 6, 9, 49) * attention.spatial[:, None, :, None]
        y = (layer.weight[0].flatten(1) @ windows.flatten(1, 2)).view(3, 8, 7, 7)
    y = y * attention.kernel[:, :, None, None]
    y = y if attention.output is None else y * attention.output[:, :, None, None]
    torch.testing.assert_close(
        layer(x if attention.input is None else x / attention.input[:, :, None, None]), y
    )
    if kind in (FMDConv2d, DyConv2d, ODConv2d):
        assert torch.equal(attention.kernel, torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize("kind", [DyConv2d, FMDConv2d])
def test_equal_kernels_leave_no_choice(kind: type[DynamicConv2d]) -> None:
    layer = randomised(kind(6, 8, 3))
    with torch.no_grad():
        layer.weight[:] = layer.weight[0].clone()
        layer.bias[:] = layer.bias[0].clone()
    x = torch.randn(3, 6, 7, 7, dtype=torch.float64)
    attention = layer.attend(x.mean((2, 3)))
    scale_in = 1 if attention.input is None else attention.input[:, :, None, None]
    scale_out = 1 if attention.output is None else attention.output[:, :, None, None]
    expected = F.conv2d(x * scale_in, layer.weight[0], layer.bias[0]) * scale_out
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("groups", [1, 6])
def test_a_batch_of_one_trains(kind: type[DynamicConv2d], groups: int) -> None:
    layer = kind(6, 6, 3, padding=1, groups=groups).train()
    layer(torch.randn(1, 6, 5, 5)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", BRANCHED)
def test_without_attention_norm_a_batch_of_one_trains(kind: Callable[..., DynamicConv2d]) -> None:
    layer = kind(6, 8, 3, attention_norm="none")
    layer(torch.randn(1, 6, 5, 5)).sum().backward()
    assert not [name for name in layer.state_dict() if "norm" in name]


@pytest.mark.parametrize("kind", BRANCHED)
def test_the_papers_attention_norm_cannot_train_on_a_batch_of_one(kind: Callable[..., DynamicConv2d]) -> None:
    layer = kind(6, 8, 3, attention_norm="bn")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 6, 5, 5))


@pytest.mark.parametrize("kind", LAYERS)
def test_splitting_a_batch_changes_nothing_in_evaluation(kind: type[DynamicConv2d]) -> None:
    layer = randomised(kind(6, 8, 3, padding=1)).eval()
    x = torch.randn(5, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([layer(x[:2]), layer(x[2:])]), layer(x), **EXACT)
    torch.testing.assert_close(layer(x[0]), layer(x)[0], **EXACT)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((6, 8, 3), {}),
        ((6, 8, 3, 2, 1, 1, 2, False), {}),
        ((6, 9, (3, 1)), {"padding": (1, 0), "groups": 3, "dilation": (2, 1)}),
        ((6, 8, 3), {"padding": "same", "dilation": 2}),
        ((6, 8, (3, 5)), {"padding": "valid", "stride": (2, 1)}),
    ],
)
def test_it_takes_the_arguments_and_gives_the_shape_of_a_plain_convolution(
    kind: type[DynamicConv2d], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    x = torch.randn(2, 6, 12, 11)
    dynamic, plain = kind(*args, **kwargs), nn.Conv2d(*args, **kwargs)
    assert dynamic(x).shape == plain(x).shape
    assert dynamic.weight.shape[1:] == plain.weight.shape
    assert (dynamic.bias is None) == (plain.bias is None)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kernels": 0}, "kernels = 0"),
        ({"groups": 4}, "groups = 4"),
        ({"padding": "same", "stride": 2}, "padding = 'same'"),
        ({"padding": "full"}, "padding = 'full'"),
    ],
)
def test_an_impossible_geometry_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FMDConv2d(6, 8, 3, **kwargs)


def test_kernels_and_attention_start_as_the_authors_do() -> None:
    torch.manual_seed(0)
    layer = FMDConv2d(128, 256, 3)
    assert layer.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert layer.attention.fc.weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in layer.named_parameters() if name.endswith("bias"))


def test_a_high_temperature_makes_attention_uniform() -> None:
    layer = randomised(ODConv2d(6, 8, 3))
    pooled = torch.randn(3, 6, dtype=torch.float64)
    set_temperature(layer, Temperatures(kernel=1e12, channel=1e12))
    attention = layer.attend(pooled)
    torch.testing.assert_close(attention.kernel, torch.full((3, 4), 0.25, dtype=torch.float64))
    for scale in (attention.input, attention.output, attention.spatial):
        torch.testing.assert_close(scale, torch.full_like(scale, 0.5))


def test_the_two_temperatures_reach_their_own_heads() -> None:
    layer = randomised(FMDConv2d(6, 8, 3))
    pooled = torch.randn(3, 6, dtype=torch.float64)
    before = layer.attend(pooled)
    set_temperature(layer, Temperatures(kernel=5.0))
    kernel_only = layer.attend(pooled)
    assert not torch.allclose(kernel_only.kernel, before.kernel)
    assert torch.equal(kernel_only.input, before.input)
    assert torch.equal(kernel_only.output, before.output)


def test_a_temperature_is_no_part_of_the_state() -> None:
    layer = FMDConv2d(6, 8, 3)
    before = set(layer.state_dict())
    set_temperature(layer, Temperatures(kernel=7.0, channel=3.0))
    assert set(layer.state_dict()) == before
    assert copy.deepcopy(layer).kernel_temperature == 7.0


def test_attention_is_recorded_only_when_asked() -> None:
    layer = FMDConv2d(6, 8, 3)
    x = torch.randn(3, 6, 7, 7)
    layer(x)
    assert layer.last_attention is None
    record_attention(layer)
    layer(x)
    recorded = cast(Any, layer).last_attention.kernel
    assert recorded.shape == (3, 4)
    assert not recorded.requires_grad
    torch.testing.assert_close(recorded.sum(1), torch.ones(3))
    record_attention(layer, enabled=False)
    assert layer.last_attention is None


@pytest.mark.parametrize("kind", LAYERS)
def test_copies_and_functional_calls_agree(kind: type[DynamicConv2d]) -> None:
    layer = kind(6, 8, 3, padding=1)
    set_temperature(layer, Temperatures(kernel=2.0, channel=2.0))
    x = torch.randn(2, 6, 7, 7)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    doubled = {key: 2 * value for key, value in layer.state_dict().items()}
    called = torch.func.functional_call(layer, doubled, (x,))
    other = copy.deepcopy(layer)
    other.load_state_dict(doubled)
    assert torch.equal(called, other(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_compiled_layer_and_its_gradient_agree(kind: type[DynamicConv2d]) -> None:
    layer = kind(6, 8, 3, padding=1)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(compiled(x), layer(x))
    (grad,) = torch.autograd.grad(compiled(x).square().sum(), layer.weight)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_computes_in_bfloat16(kind: type[DynamicConv2d]) -> None:
    layer = kind(6, 8, 3, padding=1)
    x = torch.randn(2, 6, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)
