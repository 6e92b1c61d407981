"""The branches that compute attentions from the averaged input (B, Ci) of a dynamic convolution."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedfmd.nn.functional import compiles
from fedfmd.nn.initial import he_normal_
from fedfmd.nn.norm import ATTENTION_NORMS

AttentionNorm = Literal["ln", "bn", "none"]
MIN_ATTENTION_CHANNELS = 16
_FUNCTIONS = ("logits", "softmax", "sigmoid")
"""Of heads, in the order of the compiled kernel's numbers."""


class Head(NamedTuple):
    """A linear layer behind a branch, and what is made of its output at a temperature."""

    layer: nn.Linear
    function: Literal["logits", "softmax", "sigmoid"]
    temperature: float | Tensor = 1.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Read (B, A)."""
        logits: Tensor = self.layer(hidden)
        if self.function == "softmax":
            return tempered_softmax(logits, self.temperature)
        if self.function == "sigmoid":
            return tempered_sigmoid(logits, self.temperature)
        return _tempered(logits, self.temperature)


def attended(
    pooled: Tensor, fc: nn.Linear, heads: Sequence[Head], norm: nn.Module | None = None
) -> list[Tensor]:
    """Return what each of ``heads`` makes of ReLU(norm(fc(pooled))), from (B, Ci).

    In float32 on the CPU that is one compiled operation forwards and one backwards, and BatchNorm before it:
    these layers are so small that PyTorch takes most of its time to call them.
    """
    if not compiles(pooled, fc.weight):
        hidden = F.relu(fc(pooled) if norm is None else norm(fc(pooled)), inplace=True)
        return [head(hidden) for head in heads]
    layer_norm = norm if isinstance(norm, nn.LayerNorm) else None
    outside = None if norm is None or layer_norm is not None else norm
    found: list[Tensor] = torch.ops.fedfmd.attend(
        pooled if outside is None else outside(fc(pooled)),
        fc.weight if outside is None else None,
        fc.bias if outside is None else None,
        None if layer_norm is None else layer_norm.weight,
        None if layer_norm is None else layer_norm.bias,
        0.0 if layer_norm is None else layer_norm.eps,
        [head.layer.weight for head in heads],
        [head.layer.bias for head in heads],
        [float(head.temperature) for head in heads],
        [_FUNCTIONS.index(head.function) for head in heads],
    )
    return found


def with_averages(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (B, C, H, W), to be used in its place, and its channels' averages (B, C)."""
    if not compiles(x, x):
        return x, x.mean((2, 3))
    same, averages = torch.ops.fedfmd.with_averages(x)
    return same, averages


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

    def forward(self, pooled: Tensor, *heads: Head) -> list[Tensor]:
        """Return what each of the heads makes of the (B, A) vector that they read."""
        return attended(pooled, self.fc, heads, self.norm)

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

    def forward(self, pooled: Tensor, temperature: float | Tensor) -> Tensor:
        """Return the kernel attention (B, K)."""
        (kernel,) = attended(pooled, self.fc1, [Head(self.fc2, "softmax", temperature)])
        return kernel


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
