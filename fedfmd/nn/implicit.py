"""A convolution of every sample with its own kernel, in Triton: the columns are read and never written.

What cuDNN does for one kernel, and slowly for as many groups as samples. Three products, each over tiles that
are gathered from memory as they are needed: for the output, for the input's gradient and for the kernels'
gradient. Channels come last in memory, so that a tile's rows are contiguous. Sums are in float32.

Measured on an H100, from 64 channels on (`fedfmd.nn.gpu_costs`): the columns' copy is saved, the products run
at a tenth (TF32) to a fifth (bfloat16) of the rate of large ones. TRITON_INTERPRET=1 runs it on a processor.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedfmd.nn.columns import Window
from fedfmd.nn.implicit_kernels import input_gradient, kernel_gradient, output

PIXELS = 128
"""Of a tile."""
MOST_CHANNELS = 128
"""Of a tile's result."""
SUM_BYTES = 128
"""Of a row of a tile that is summed over, so that three stages of loads fit into shared memory."""


class SampleConvolution(torch.autograd.Function):
    """Convolve x (B, H, W, Ci), contiguous, with kernels (B, Co, kh * kw * Ci) to (B, Ho, Wo, Co).

    Kernels are in the order of `columns(by_pixel=True)`, of the type of x; one group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, size: tuple[int, ...], window: Window) -> Tensor:
        """Return the output; ``size`` is (kh, kw)."""
        kernels = kernels.contiguous()
        ctx.save_for_backward(x, kernels)
        ctx.size, ctx.window = size, window
        height, width = window.output_size(x.shape[1:3], size)
        y = x.new_empty(len(x), height, width, kernels.shape[1])
        inputs, outputs, pixels = x.shape[3], kernels.shape[1], height * width
        tiles = triton.cdiv(pixels, PIXELS) * triton.cdiv(outputs, _side(outputs))
        with torch.cuda.device_of(x):
            output[(tiles, len(x))](
                x,
                kernels,
                y,
                pixels,
                *_geometry(x, y, window),
                *size,
                tile_pixels=PIXELS,
                tile_outputs=_side(outputs),
                tile_inputs=_depth(inputs, x),
                precision=_precision(),
                num_warps=8,
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the kernels, shaped like these, from that of the output."""
        x, kernels = ctx.saved_tensors
        grad = grad.contiguous()
        inputs, outputs = x.shape[3], grad.shape[3]
        geometry, taps = _geometry(x, grad, ctx.window), ctx.size[0] * ctx.size[1]
        input_grad = kernel_grad = None
        with torch.cuda.device_of(x):
            if ctx.needs_input_grad[0]:
                input_grad = torch.empty_like(x)
                tiles = triton.cdiv(x.shape[1] * x.shape[2], PIXELS) * triton.cdiv(inputs, _side(inputs))
                input_gradient[(tiles, len(x))](
                    grad,
                    kernels,
                    input_grad,
                    grad.shape[1],
                    *geometry,
                    *ctx.size,
                    tile_pixels=PIXELS,
                    tile_inputs=_side(inputs),
                    tile_outputs=_depth(outputs, x),
                    precision=_precision(),
                    num_warps=8,
                )
            if ctx.needs_input_grad[1]:
                kernel_grad = torch.empty_like(kernels)
                tiles = triton.cdiv(outputs, _side(outputs)) * triton.cdiv(inputs, _side(inputs)) * taps
                kernel_gradient[(tiles, len(x))](
                    x,
                    grad,
                    kernel_grad,
                    grad.shape[1] * grad.shape[2],
                    *geometry,
                    *ctx.size,
                    tile_outputs=_side(outputs),
                    tile_inputs=_side(inputs),
                    tile_pixels=SUM_BYTES // x.element_size(),
                    precision=_precision(),
                    num_warps=8,
                )
        return input_grad, kernel_grad, None, None


def sample_convolution(x: Tensor, kernels: Tensor, size: tuple[int, ...], window: Window) -> Tensor:
    """Convolve x (B, Ci, H, W) with kernels (B, Co, kh * kw * Ci) to (B, Co, Ho, Wo).

    The result has its channels last in memory.
    Raises ValueError where Triton cannot run, and for several groups.
    """
    if window.groups != 1 or not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError("formulation 'implicit' needs a CUDA device and one group")
    pixels = x.to(kernels.dtype).permute(0, 2, 3, 1).contiguous()
    y: Tensor = SampleConvolution.apply(pixels, kernels, size, window)
    return y.permute(0, 3, 1, 2)


def _geometry(x: Tensor, y: Tensor, window: Window) -> tuple[int, ...]:
    sizes = (x.shape[1], x.shape[2], y.shape[2], x.shape[3], y.shape[3])
    return (*sizes, *window.stride, *window.padding, *window.dilation)


def _side(channels: int) -> int:
    return int(min(MOST_CHANNELS, max(16, triton.next_power_of_2(channels))))


def _depth(channels: int, x: Tensor) -> int:
    return int(min(SUM_BYTES // x.element_size(), max(16, triton.next_power_of_2(channels))))


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
