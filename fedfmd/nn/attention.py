"""The branches that compute attentions from the averaged input (B, Ci) of a dynamic convolution."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedfmd.nn.initial import he_normal_
from fedfmd.nn.norm import ATTENTION_NORMS

AttentionNorm = Literal["ln", "bn", "none"]
MIN_ATTENTION_CHANNELS = 16


class SqueezeBranch(nn.Module):
    """ODConv's attention branch: (B, Ci) -> A = max(floor(Ci * reduction), 16) -> norm -> ReLU -> heads.

    `spatial` and `kernels` are the sizes of the heads that FMDConv lacks, 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        reduction: float,
        norm: AttentionNorm,
        spatial: int = 0,
        kernels: int = 0,
    ) -> None:
        super().__init__()
        hidden = max(int(in_channels * reduction), MIN_ATTENTION_CHANNELS)
        # A single channel is not depth-wise: the narrowest slice of a layer has the heads that the layer has.
        depthwise = 1 < in_channels == groups == out_channels
        self.fc = attention_linear(in_channels, hidden, bias=False)
        self.norm = ATTENTION_NORMS[norm](hidden)
        self.channel_fc = attention_linear(hidden, in_channels)
        self.filter_fc = None if depthwise else attention_linear(hidden, out_channels)
        self.spatial_fc = attention_linear(hidden, spatial) if spatial else None
        self.kernel_fc = attention_linear(hidden, kernels) if kernels else None

    def forward(self, pooled: Tensor) -> Tensor:
        """Give the (B, A) vector that the heads read."""
        return F.relu(self.norm(self.fc(pooled)), inplace=True)

    def scaling_macs(self, inputs: int, outputs: int) -> int:
        """Return the MACs of scaling a sample's input and output of so many elements by the attentions."""
        return inputs + (0 if self.filter_fc is None else outputs)


class KernelBranch(nn.Module):
    """DyConv's attention branch: (B, Ci) -> H = floor(Ci * ratio) + 1 (K if Ci = 3) -> ReLU -> K logits."""

    def __init__(self, in_channels: int, kernels: int, *, ratio: float) -> None:
        super().__init__()
        hidden = kernels if in_channels == 3 else int(in_channels * ratio) + 1
        self.fc1 = attention_linear(in_channels, hidden, bias=False)
        self.fc2 = attention_linear(hidden, kernels)

    def forward(self, pooled: Tensor) -> Tensor:
        """Give the logits of the kernel attention (B, K)."""
        logits: Tensor = self.fc2(F.relu(self.fc1(pooled), inplace=True))
        return logits


def tempered_softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the softmax of ``logits`` (B, K) over the kernels, at a temperature."""
    return torch.softmax(_tempered(logits, temperature), 1)


def tempered_sigmoid(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the sigmoids of ``logits`` (B, C), at a temperature."""
    return torch.sigmoid(_tempered(logits, temperature))


def _tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    plain = not isinstance(temperature, Tensor) and temperature == 1.0
    return logits if plain else logits / temperature


def attention_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer drawn as the authors draw theirs: Kaiming normal by fan-out, bias zero."""
    layer = nn.Linear(inputs, outputs, bias)
    he_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
