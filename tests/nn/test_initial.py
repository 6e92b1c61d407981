"""Initial weights: each convolution by the rule of its published code, at closed-form standard deviations."""

import math
from typing import Any

import pytest
import torch

from fedfmd.nn import CondConv2d, DyConv2d, DynamicConv2d, FMDConv2d, ODConv2d

FAN_IN, FAN_OUT = 64 * 9, 128 * 9


@pytest.mark.parametrize(
    ("kind", "std", "largest"),
    [
        (FMDConv2d, math.sqrt(2 / FAN_OUT), math.inf),
        (ODConv2d, math.sqrt(2 / FAN_OUT), math.inf),
        (DyConv2d, math.sqrt(2 / FAN_IN), math.sqrt(6 / FAN_IN)),
        (CondConv2d, math.sqrt(1 / (3 * FAN_IN)), math.sqrt(1 / FAN_IN)),
    ],
)
def test_kernels_have_the_deviation_of_their_rule(
    kind: type[DynamicConv2d], std: float, largest: float
) -> None:
    """0.0417, 0.0417, 0.0589 and 0.0241 for a 3x3 kernel from 64 to 128 channels."""
    torch.manual_seed(0)
    layer = kind(64, 128, 3, kernels=4)
    for kernel in layer.weight.detach():
        assert float(kernel.std()) == pytest.approx(std, rel=0.01)  # three standard errors are 0.8%
        assert abs(float(kernel.mean())) < 5 * std / math.sqrt(kernel.numel())
        assert float(kernel.abs().max()) <= largest * (1 + 1e-6)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("kind", [FMDConv2d, DyConv2d])
def test_kernel_attention_is_kaiming_normal_by_fan_out(kind: type[DynamicConv2d]) -> None:
    torch.manual_seed(0)
    attention: Any = kind(512, 8, 1, kernels=4).kernel_attention
    assert float(attention.fc1.weight.std()) == pytest.approx(math.sqrt(2 / 129), rel=0.02)
    assert not attention.fc2.bias.any()


def test_the_routing_of_condconv_is_a_plain_linear_layer() -> None:
    torch.manual_seed(0)
    routing = CondConv2d(512, 8, 1, kernels=16).kernel_attention
    bound = 1 / math.sqrt(512)
    for values in (routing.weight, routing.bias):
        assert 0.5 * bound < float(values.abs().max()) <= bound
