"""The dynamic convolution: every sample is convolved with its own mixture of K shared kernels.

`dynamic_conv2d` is one function with several formulations that compute the same thing.  `plain` is the direct
transcription in PyTorch operations and the oracle of all others; the rest only differ in speed and memory.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Formulation = Literal["auto", "plain"]
Pair = tuple[int, int]


def dynamic_conv2d(
    x: Tensor,
    weight: Tensor,
    attention: Tensor,
    bias: Tensor | None = None,
    *,
    input_scale: Tensor | None = None,
    output_scale: Tensor | None = None,
    spatial_scale: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    formulation: Formulation = "auto",
) -> Tensor:
    """Convolve sample b with `spatial_scale[b] * sum_k attention[b, k] * weight[k]`.

    y[b] = output_scale[b] * (conv(x[b] * input_scale[b], kernel[b]) + sum_k attention[b, k] * bias[k]), which
    is FMDConv (arXiv 2503.17530) with input, output and kernel attention, ODConv with all four, and DyConv or
    CondConv with kernel attention alone.

    Shapes: x (B, Ci, H, W); weight (K, Co, Ci/groups, kh, kw); attention (B, K); bias (K, Co); input_scale
    (B, Ci); output_scale (B, Co); spatial_scale (B, kh * kw); result (B, Co, Ho, Wo).  Absent scales are 1.
    """
    del formulation
    return _plain(
        x,
        weight,
        attention,
        bias,
        input_scale=input_scale,
        output_scale=output_scale,
        spatial_scale=spatial_scale,
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )


def _plain(
    x: Tensor,
    weight: Tensor,
    attention: Tensor,
    bias: Tensor | None,
    *,
    input_scale: Tensor | None,
    output_scale: Tensor | None,
    spatial_scale: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Mix every sample's kernel, then one convolution with a group (or `groups` of them) for each sample."""
    batch = x.shape[0]
    outputs, inputs, *window = weight.shape[1:]
    kernels = (attention @ weight.flatten(1)).view(batch, outputs, inputs, *window)
    if spatial_scale is not None:
        kernels = kernels * spatial_scale.view(batch, 1, 1, *window)
    if input_scale is not None:
        x = x * input_scale[:, :, None, None]
    y = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        kernels.flatten(0, 1),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=batch * groups,
    )
    y = y.view(batch, outputs, *y.shape[2:])
    if bias is not None:
        y = y + (attention @ bias)[:, :, None, None]
    return y if output_scale is None else y * output_scale[:, :, None, None]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
