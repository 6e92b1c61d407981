"""Squeeze-and-excitation (Hu, Shen and Sun 2018, arXiv 1709.01507): attention to channels without kernels.

A residual branch is scaled, channel by channel, by what its own averages say, before it is added to the
shortcut (the paper's SE-ResNet):

    y = x * sigmoid(W2 ReLU(W1 GAP(x) + b1) + b2),  W1 (H, C), W2 (C, H), H = max(floor(C / 16), 1).

The linear layers are drawn as those of the other attentions here: Kaiming normal by fan-out, bias zero.
"""

from torch import Tensor, nn

from fedfmd.nn.attention import Head, attended, attention_linear, with_averages
from fedfmd.nn.macs import Macs
from fedfmd.registry import register

REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Scale the channels of (B, C, H, W) by attention computed from their averages."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 1)
        self.fc1 = attention_linear(channels, hidden)
        self.fc2 = attention_linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled (B, C, H, W)."""
        x, averages = with_averages(x)
        (attention,) = attended(averages, self.fc1, [Head(self.fc2, "sigmoid")])
        return x * attention[:, :, None, None]

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs: two linear layers, and scaling every output element."""
        del inputs, pixels
        return Macs(attention=self.fc1.weight.numel() + self.fc2.weight.numel() + outputs)


register("conv", "se", slices=frozenset({"width"}), excitation=SqueezeExcitation)(nn.Conv2d)
