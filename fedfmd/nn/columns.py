"""The columns of a convolution: what its kernel sees at each output pixel, which makes it a matrix product.

`torch.nn.functional.unfold` does the same with a kernel launch per sample on a GPU, and in one order only;
here it is one strided copy of the whole batch, in the order that the memory of the input suggests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """Return a setting for both sides of an image, as `nn.Conv2d` takes one: a number stands for two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Window(NamedTuple):
    """How a kernel moves over its input."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> Pair:
        """Return (Ho, Wo) for an input of ``size`` (H, W) and a ``kernel`` (kh, kw)."""
        height, width = (
            (s + 2 * p - d * (k - 1) - 1) // step + 1
            for s, k, step, p, d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width

    def moves_pixel_by_pixel(self, kernel: tuple[int, ...]) -> bool:
        """Whether the columns are the input itself: one tap, at every pixel."""
        return kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


PIXEL_BY_PIXEL = Window()


def pixels_first(x: Tensor) -> bool:
    """Whether ``x`` (B, C, H, W) has its channels last in memory, and in no other order as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def columns(x: Tensor, kernel: tuple[int, ...], window: Window, *, by_pixel: bool) -> Tensor:
    """Return what the kernel sees of ``x`` (B, C, H, W), for R = kh * kw * C / groups and P output pixels.

    With ``by_pixel`` (B, groups, P, R), R being (kh, kw, C / groups): one pass over memory where the channels
    come last. Else (B, groups, R, P), R being (C / groups, kh, kw), for pixels that come last.
    """
    if window.moves_pixel_by_pixel(kernel):
        seen: Tensor = x.flatten(2).unflatten(1, (window.groups, -1))
        return seen.mT if by_pixel else seen
    copied: Tensor = _Columns.apply(x, kernel, window, by_pixel)
    return copied


def rows(weight: Tensor, *, by_pixel: bool) -> Tensor:
    """Put kernels (..., C / groups, kh, kw) into the columns' order: (..., R), R = C / groups * kh * kw."""
    return (weight.movedim(-3, -1) if by_pixel else weight).flatten(-3)


class _Columns(torch.autograd.Function):
    """One copy forward; backward the sum over the columns in which a pixel stands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, ...], window: Window, by_pixel: bool) -> Tensor:
        ctx.size, ctx.kernel, ctx.window, ctx.by_pixel = x.shape[2:], kernel, window, by_pixel
        (top, left), (below, right) = window.padding, window.dilation
        seen: Tensor = F.pad(x, (left, left, top, top)) if any(window.padding) else x
        for axis, (step, reach) in enumerate(
            zip(window.stride, ((kernel[0] - 1) * below + 1, (kernel[1] - 1) * right + 1), strict=True)
        ):
            seen = seen.unfold(2 + axis, reach, step)
        seen = seen[..., ::below, ::right].unflatten(1, (window.groups, -1))  # (B, G, C/G, Ho, Wo, kh, kw)
        if by_pixel:
            by_pixels: Tensor = seen.permute(0, 1, 3, 4, 5, 6, 2).flatten(4)
            return by_pixels.flatten(2, 3)
        by_channels: Tensor = seen.permute(0, 1, 2, 5, 6, 3, 4).flatten(5)
        return by_channels.flatten(2, 4)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fold = _fold_by_pixel if ctx.by_pixel else _fold
        return fold(grad, ctx.size, ctx.kernel, ctx.window), None, None, None


def _fold(grad: Tensor, size: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> Tensor:
    """Sum columns (B, G, R, P) into their pixels (B, C, H, W): one launch for the batch."""
    return F.fold(grad.flatten(1, 2), size, kernel, window.dilation, window.padding, window.stride)


def _fold_by_pixel(grad: Tensor, size: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> Tensor:
    """Sum columns (B, G, P, R) into pixels (B, C, H, W) with their channels last: one launch for each tap."""
    height, width = window.output_size(size, kernel)
    (down, across), (above, before) = window.stride, window.padding
    batch, groups = grad.shape[:2]
    by_tap = grad.view(batch, groups, height, width, *kernel, -1)
    total = torch.zeros(
        (batch, size[0] + 2 * above, size[1] + 2 * before, groups, by_tap.shape[-1]),
        dtype=torch.promote_types(grad.dtype, torch.float32),  # as many roundings as taps otherwise
        device=grad.device,
    )
    for i in range(kernel[0]):
        top = i * window.dilation[0]
        for j in range(kernel[1]):
            left = j * window.dilation[1]
            seen = total[:, top : top + down * height : down, left : left + across * width : across]
            seen += by_tap[:, :, :, :, i, j].permute(0, 2, 3, 1, 4)
    inner = total[:, above : above + size[0], before : before + size[1]].flatten(3)
    return inner.to(grad.dtype).permute(0, 3, 1, 2)
