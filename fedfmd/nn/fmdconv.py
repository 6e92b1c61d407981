"""FMDConv (Zhang et al. 2025, arXiv 2503.17530)."""

from torch import Tensor

from fedfmd.nn.attention import (
    AttentionNorm,
    Head,
    KernelBranch,
    SqueezeBranch,
)
from fedfmd.nn.columns import Pair
from fedfmd.nn.dynamic import Attention, DynamicConv2d, Padding
from fedfmd.nn.macs import Macs
from fedfmd.registry import register


@register("conv", "fmdconv")
class FMDConv2d(DynamicConv2d):
    """FMDConv (arXiv 2503.17530): input and output attention from one branch, kernel attention from another.

    `reduction` and `ratio` size the two branches; depth-wise layers have no output attention.
    """

    block_bias = True
    published = True
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
        attention_norm: AttentionNorm = "ln",
        reduction: float = 1 / 16,
        ratio: float = 1 / 4,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, kernels=kernels
        )
        self.attention = SqueezeBranch(
            in_channels, out_channels, groups=groups, reduction=reduction, norm=attention_norm
        )
        self.kernel_attention = KernelBranch(in_channels, kernels, ratio=ratio)

    def attend(self, pooled: Tensor) -> Attention:
        """Compute kernel, input and output attention."""
        branch, cold = self.attention, self.channel_temperature
        layers = [layer for layer in (branch.channel_fc, branch.filter_fc) if layer is not None]
        found = branch(pooled, *(Head(layer, "sigmoid", cold) for layer in layers))
        kernel = self.kernel_attention(pooled, self.kernel_temperature)
        return Attention(kernel, *found)

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs; scaling input and output is work of the attention."""
        scaling = self.attention.scaling_macs(inputs, outputs)
        return super().macs(inputs, outputs, pixels) + Macs(attention=scaling)
