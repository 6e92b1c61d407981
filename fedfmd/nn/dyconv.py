"""DyConv (Chen et al. 2020, arXiv 1912.03458)."""

from torch import Tensor

from fedfmd.nn.attention import KernelBranch
from fedfmd.nn.columns import Pair
from fedfmd.nn.dynamic import Attention, DynamicConv2d, Padding
from fedfmd.nn.initial import he_uniform_
from fedfmd.registry import register


@register("conv", "dyconv")
class DyConv2d(DynamicConv2d):
    """DyConv (arXiv 1912.03458): kernel attention by softmax, nothing else."""

    block_bias = True
    kernel_heads = ("kernel_attention.fc2",)

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
        ratio: float = 1 / 4,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, kernels=kernels
        )
        self.kernel_attention = KernelBranch(in_channels, kernels, ratio=ratio)

    def draw_kernel(self, kernel: Tensor) -> None:
        """Draw from Kaiming's uniform distribution by fan-in, as DyConv's public code does."""
        he_uniform_(kernel)

    def attend(self, pooled: Tensor) -> Attention:
        """Compute the kernel attention."""
        return Attention(kernel=self.kernel_attention(pooled, self.kernel_temperature))
