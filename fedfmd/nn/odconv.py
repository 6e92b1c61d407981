"""ODConv (Li et al. 2022, arXiv 2209.07947)."""

from torch import Tensor

from fedfmd.nn.attention import AttentionNorm, SqueezeBranch, tempered_sigmoid, tempered_softmax
from fedfmd.nn.dynamic import Attention, DynamicConv2d, Padding, Pair
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
        hidden = branch(pooled)
        return Attention(
            kernel=self._attend_kernels(hidden),
            input=tempered_sigmoid(branch.channel_fc(hidden), cold),
            output=None if branch.filter_fc is None else tempered_sigmoid(branch.filter_fc(hidden), cold),
            spatial=None if branch.spatial_fc is None else tempered_sigmoid(branch.spatial_fc(hidden), cold),
        )

    def _attend_kernels(self, hidden: Tensor) -> Tensor:
        head = self.attention.kernel_fc
        if head is None:
            return hidden.new_ones(hidden.shape[0], 1)
        return tempered_softmax(head(hidden), self.kernel_temperature)

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs; the spatial attention scales every kernel before they are mixed."""
        spatial = 0 if self.attention.spatial_fc is None else self.weight.numel()
        scaling = self.attention.scaling_macs(inputs, outputs)
        return super().macs(inputs, outputs, pixels) + Macs(aggregation=spatial, attention=scaling)
