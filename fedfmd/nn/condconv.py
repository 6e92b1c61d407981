"""CondConv (Yang et al. 2019, arXiv 1904.04971)."""

import math

import torch
from torch import Tensor, nn

from fedfmd.nn.columns import Pair
from fedfmd.nn.dynamic import Attention, DynamicConv2d, Padding
from fedfmd.nn.initial import he_uniform_
from fedfmd.registry import register


@register("conv", "condconv")
class CondConv2d(DynamicConv2d):
    """CondConv (arXiv 1904.04971): each kernel has its own sigmoid; temperatures play no part."""

    tempered = False
    kernel_heads = ("kernel_attention",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernels: int = 4,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, kernels=kernels
        )
        self.kernel_attention = nn.Linear(in_channels, kernels)

    def draw_kernel(self, kernel: Tensor) -> None:
        """Draw each kernel as `nn.Conv2d` draws its own: a leaky slope of sqrt(5) gives 1/sqrt(fan-in)."""
        he_uniform_(kernel, slope=math.sqrt(5))

    def attend(self, pooled: Tensor) -> Attention:
        """Compute the routing weights."""
        return Attention(kernel=torch.sigmoid(self.kernel_attention(pooled)))
