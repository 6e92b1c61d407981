"""A convolution and a norm."""

import torch
from torch import Tensor, nn


class SeparableConv2d(nn.Sequential):
    """A convolution per channel, then one of 1x1 across channels (Howard et al. 2017, MobileNets).

    Both are PyTorch's own layers, so their MACs are counted by the rules that fedfmd has for these. It states
    no ``slices``: clients hold it whole.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ):
        super().__init__(
            nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )


class RMSNorm2d(nn.Module):
    """Divide each image by the root mean square of its activations (Zhang & Sennrich 2019)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return images like ``x`` (B, C, H, W)."""
        size = x.square().mean((1, 2, 3), keepdim=True).add(1e-5).rsqrt()
        return x * size * self.weight[:, None, None]
