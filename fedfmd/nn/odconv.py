"""ODConv (Li et al. 2022, arXiv 2209.07947)."""

from torch import Tensor

from fedfmd.nn.attention import AttentionNorm, Head, SqueezeBranch
from fedfmd.nn.columns import Pair
from fedfmd.nn.dynamic import Attention, DynamicConv2d, Padding
from fedfmd.nn.macs import Macs
from fedfmd.registry import register


@register("conv", "odconv")
class ODConv2d(DynamicConv2d):
    """ODConv (arXiv 2209.07947): input, output, spatial and kernel attention from one branch.

    The spatial head needs a window of more than one tap, the kernel head more than one kernel.  The authors'
    layer has no bias; here it is an option, mixed like FMDConv's.
    """

    published = True
    kernel_heads = ("attention.kernel_fc",)

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
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, kernels=kernels
        )
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.attention = SqueezeBranch(
            in_channels,
            out_channels,
            groups=groups,
            reduction=reduction,
            norm=attention_norm,
            spatial=taps if taps > 1 else 0,
            kernels=kernels if kernels > 1 else 0,
        )

    def attend(self, pooled: Tensor) -> Attention:
        """Compute all four attentions."""
        branch, cold = self.attention, self.channel_temperature
        layers = {"input": branch.channel_fc, "output": branch.filter_fc, "spatial": branch.spatial_fc}
        heads = {name: Head(layer, "sigmoid", cold) for name, layer in layers.items() if layer is not None}
        if branch.kernel_fc is not None:
            heads["kernel"] = Head(branch.kernel_fc, "softmax", self.kernel_temperature)
        found = dict(zip(heads, branch(pooled, *heads.values()), strict=True))
        if branch.kernel_fc is None:
            found["kernel"] = pooled.new_ones(pooled.shape[0], 1)
        return Attention(**found)

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs; the spatial attention scales every kernel before they are mixed."""
        spatial = 0 if self.attention.spatial_fc is None else self.weight.numel()
        scaling = self.attention.scaling_macs(inputs, outputs)
        return super().macs(inputs, outputs, pixels) + Macs(aggregation=spatial, attention=scaling)
