"""The dynamic convolution: every sample is convolved with its own mixture of K shared kernels.

`dynamic_conv2d` is one function with several formulations that compute the same thing and differ only in
speed and memory:

- `plain`: mix every sample's kernel, then one convolution with a group for each sample.  A transcription of
  the definition in PyTorch operations, for every device and type; the oracle of the others.
- `compiled`: a CPU kernel that mixes a block of the kernels in the cache, uses it at once and forgets it
  (`fedfmd.nn.kernels`); float32.
- `unfold`: mixed kernels times the unfolded input, as one batched matrix product.  The candidate for GPUs,
  where a convolution with many groups is slow; it takes kh * kw times the memory of the input.

`choose` says which one "auto" takes; `forced_formulation` overrules it for a whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedfmd.nn import kernels

Formulation = Literal["auto", "plain", "compiled", "unfold"]
Pair = tuple[int, int]

_forced: Formulation = "auto"


class Window(NamedTuple):
    """How a kernel moves over its input."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


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
    Raises ValueError if `formulation` is unknown or cannot run here.
    """
    window = Window(_pair(stride), _pair(padding), _pair(dilation), groups)
    if formulation == "auto":
        formulation = choose(x, weight)
    mixed_bias = None if bias is None else attention @ bias
    mix = attention[:, None, :]
    if spatial_scale is not None:
        mix = mix * spatial_scale[:, :, None]
    if formulation == "compiled":
        return _compiled(x, weight, mix, mixed_bias, input_scale, output_scale, window)
    if input_scale is not None:
        x = x * input_scale[:, :, None, None]
    if formulation == "plain":
        y = _plain(x, mix_kernels(weight, mix), window)
    elif formulation == "unfold":
        y = _unfold(x, mix_kernels(weight, mix), window)
    else:
        raise ValueError(f"formulation must be auto, plain, compiled or unfold, not {formulation!r}")
    if mixed_bias is not None:
        y = y + mixed_bias[:, :, None, None]
    return y if output_scale is None else y * output_scale[:, :, None, None]


def choose(x: Tensor, weight: Tensor) -> Formulation:
    """Return the formulation "auto" takes: never by batch size, so that splitting a batch changes nothing.

    | device | takes      | unless                                                                 |
    |--------|------------|------------------------------------------------------------------------|
    | CPU    | `compiled` | it could not be built; not float32 or autocast; one channel in a group |
    | CUDA   | `unfold`   | one channel in a group                                                 |
    | other  | `plain`    |                                                                        |

    One channel in a group, as in a depth-wise convolution, leaves vectors and matrices nearly empty: `plain`.
    """
    if _forced != "auto":
        return _forced
    device, dense = x.device.type, weight.shape[2] > 1
    if device == "cuda" and dense:
        return "unfold"
    single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return "compiled" if device == "cpu" and dense and single and kernels.available() else "plain"


@contextmanager
def forced_formulation(formulation: Formulation) -> Iterator[None]:
    """Let "auto" mean `formulation` in this process for a while, to compare or to differentiate twice."""
    global _forced
    before, _forced = _forced, formulation
    try:
        yield
    finally:
        _forced = before


def mix_kernels(weight: Tensor, mix: Tensor) -> Tensor:
    """Mix K kernels for every sample: mix (B, 1 or kh * kw, K) to kernels (B, Co, Ci/groups, kh, kw)."""
    batch, taps, _ = mix.shape
    if taps == 1:
        return (mix.flatten(1) @ weight.flatten(1)).view(batch, *weight.shape[1:])
    return torch.einsum("btk,koit->boit", mix, weight.flatten(3)).reshape(batch, *weight.shape[1:])


def _plain(x: Tensor, mixed: Tensor, window: Window) -> Tensor:
    stride, padding, dilation, groups = window
    batch = x.shape[0]
    one = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(one, mixed.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return y.view(batch, mixed.shape[1], *y.shape[2:])


def _unfold(x: Tensor, mixed: Tensor, window: Window) -> Tensor:
    stride, padding, dilation, groups = window
    size = mixed.shape[3:]
    pixels = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]
    if size == (1, 1) and stride == (1, 1) and padding == (0, 0):
        columns = x.flatten(2)
    else:
        columns = F.unfold(x, size, dilation, padding, stride)
    by_group = mixed.flatten(2).unflatten(1, (groups, -1))
    y: Tensor = by_group @ columns.unflatten(1, (groups, -1))
    return y.reshape(x.shape[0], mixed.shape[1], *pixels)


def _compiled(
    x: Tensor,
    weight: Tensor,
    mix: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    output_scale: Tensor | None,
    window: Window,
) -> Tensor:
    if not kernels.available():
        raise ValueError(
            "formulation 'compiled' is not available: run python -m fedfmd.nn.kernels to see why"
        )
    if x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        raise ValueError(f"formulation 'compiled' needs float32 on the CPU, not {x.dtype} on {x.device}")
    y: Tensor = torch.ops.fedfmd.mixed_conv2d(x, weight, mix, bias, input_scale, output_scale, *window)
    return y


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
