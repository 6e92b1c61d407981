"""Dynamic convolutions as drop-in replacements of `nn.Conv2d`.

Each sample b is convolved with its own mixture of K kernels,

    y_b = f_b * (conv(x_b * c_b, s_b * sum_k pi_bk W_k) + sum_k pi_bk bias_k),

and the layers differ in which attentions they compute from the globally averaged input:

- `FMDConv2d` (Zhang et al. 2025, arXiv 2503.17530): c and f from one branch, pi from another.
- `ODConv2d` (Li et al. 2022, arXiv 2209.07947): c, f, s and pi from one branch.
- `DyConv2d` (Chen et al. 2020, arXiv 1912.03458): pi by softmax.
- `CondConv2d` (Yang et al. 2019, arXiv 1904.04971): pi by independent sigmoids, without a temperature.

Deviations from the authors' code, none of which changes a value:
- The input is averaged once for both branches of FMDConv; attention layers are `nn.Linear` on that vector
  instead of 1x1 convolutions (`checkpoints` converts).
- The norm of the attention vector is an argument.  The papers' BatchNorm cannot train on a batch of one,
  which federated clients meet, so LayerNorm is the default and "bn" is the papers' mode.
- Temperatures are plain numbers set from outside by `set_temperature`; they are no part of the state.

Initialisation, each by the rule of the layer's published code; biases of kernels start at zero:

| | kernels | attention layers |
|---|---|---|
| FMDConv, ODConv | Kaiming normal by fan-out | Kaiming normal by fan-out, bias zero |
| DyConv | Kaiming uniform by fan-in | Kaiming normal by fan-out, bias zero |
| CondConv | PyTorch's `nn.Conv2d`: uniform within 1/sqrt(fan-in) | PyTorch's `nn.Linear` |

A 3x3 kernel from 64 to 128 channels so has the standard deviation 0.0417, 0.0589 or 0.0241.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedfmd.nn.functional import dynamic_conv2d
from fedfmd.nn.initial import he_normal_, he_uniform_
from fedfmd.nn.norm import ATTENTION_NORMS
from fedfmd.nn.temperature import Temperatures

AttentionNorm = Literal["ln", "bn", "none"]
Pair = tuple[int, int]

MIN_ATTENTION_CHANNELS = 16


class Attention(NamedTuple):
    """What a layer attends to: kernel (B, K), input (B, Ci), output (B, Co) and spatial (B, kh*kw)."""

    kernel: Tensor
    input: Tensor | None = None
    output: Tensor | None = None
    spatial: Tensor | None = None


class DynamicConv2d(nn.Module):
    """What all dynamic convolutions share: K kernels, the geometry of `nn.Conv2d`, the forward pass.

    Arguments up to `bias` are those of `nn.Conv2d`; `kernels` is K.  Shapes: weight (K, Co, Ci/groups, kh,
    kw), bias (K, Co), input (B, Ci, H, W) or (Ci, H, W).  Raises ValueError on an impossible geometry.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernels: int = 4,
    ) -> None:
        super().__init__()
        _check_geometry(in_channels, out_channels, groups, kernels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.dilation = _pair(dilation)
        self.padding = _padding(padding, self.kernel_size, self.stride, self.dilation)
        self.groups = groups
        self.kernels = kernels
        self.kernel_temperature = 1.0
        self.channel_temperature = 1.0
        self.record_attention = False
        self.last_attention: Attention | None = None
        shape = (kernels, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(kernels, out_channels)) if bias else None
        for kernel in self.weight.detach():
            self.draw_kernel(kernel)

    def draw_kernel(self, kernel: Tensor) -> None:
        """Draw the initial values of one kernel (Co, Ci/groups, kh, kw) in place."""
        he_normal_(kernel)

    def attend(self, pooled: Tensor) -> Attention:
        """Compute the attentions from the averaged input (B, Ci)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, Ci, H, W) to (B, Co, Ho, Wo)."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        attention = self.attend(x.mean((2, 3)))
        if self.record_attention:
            self.last_attention = Attention._make(None if a is None else a.detach() for a in attention)
        return dynamic_conv2d(
            x,
            self.weight,
            attention.kernel,
            self.bias,
            input_scale=attention.input,
            output_scale=attention.output,
            spatial_scale=attention.spatial,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Conv2d` does, with its kernels."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, kernels={self.kernels}"
        )


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
        self.fc = _linear(in_channels, hidden, bias=False)
        self.norm = ATTENTION_NORMS[norm](hidden)
        self.channel_fc = _linear(hidden, in_channels)
        self.filter_fc = None if depthwise else _linear(hidden, out_channels)
        self.spatial_fc = _linear(hidden, spatial) if spatial else None
        self.kernel_fc = _linear(hidden, kernels) if kernels else None

    def forward(self, pooled: Tensor) -> Tensor:
        """Give the (B, A) vector that the heads read."""
        return F.relu(self.norm(self.fc(pooled)), inplace=True)


class KernelBranch(nn.Module):
    """DyConv's attention branch: (B, Ci) -> H = floor(Ci * ratio) + 1 (K if Ci = 3) -> ReLU -> K logits."""

    def __init__(self, in_channels: int, kernels: int, *, ratio: float) -> None:
        super().__init__()
        hidden = kernels if in_channels == 3 else int(in_channels * ratio) + 1
        self.fc1 = _linear(in_channels, hidden, bias=False)
        self.fc2 = _linear(hidden, kernels)

    def forward(self, pooled: Tensor) -> Tensor:
        """Give the logits of the kernel attention (B, K)."""
        logits: Tensor = self.fc2(F.relu(self.fc1(pooled), inplace=True))
        return logits


class FMDConv2d(DynamicConv2d):
    """FMDConv (arXiv 2503.17530): input and output attention from one branch, kernel attention from another.

    `reduction` and `ratio` size the two branches; depth-wise layers have no output attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
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
        hidden = branch(pooled)
        return Attention(
            kernel=_softmax(self.kernel_attention(pooled), self.kernel_temperature),
            input=_sigmoid(branch.channel_fc(hidden), cold),
            output=None if branch.filter_fc is None else _sigmoid(branch.filter_fc(hidden), cold),
        )


class ODConv2d(DynamicConv2d):
    """ODConv (arXiv 2209.07947): input, output, spatial and kernel attention from one branch.

    The spatial head needs a window of more than one tap, the kernel head more than one kernel.  The authors'
    layer has no bias; here it is an option, mixed like FMDConv's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
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
            input=_sigmoid(branch.channel_fc(hidden), cold),
            output=None if branch.filter_fc is None else _sigmoid(branch.filter_fc(hidden), cold),
            spatial=None if branch.spatial_fc is None else _sigmoid(branch.spatial_fc(hidden), cold),
        )

    def _attend_kernels(self, hidden: Tensor) -> Tensor:
        head = self.attention.kernel_fc
        if head is None:
            return hidden.new_ones(hidden.shape[0], 1)
        return _softmax(head(hidden), self.kernel_temperature)


class DyConv2d(DynamicConv2d):
    """DyConv (arXiv 1912.03458): kernel attention by softmax, nothing else."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
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
        return Attention(kernel=_softmax(self.kernel_attention(pooled), self.kernel_temperature))


class CondConv2d(DynamicConv2d):
    """CondConv (arXiv 1904.04971): each kernel has its own sigmoid; temperatures play no part."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
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


def dynamic_layers(model: nn.Module) -> Iterator[tuple[str, DynamicConv2d]]:
    """Give the name and module of every dynamic convolution, in the model's order."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, DynamicConv2d))


KERNEL_ENTRIES = ("weight", "bias")
KERNEL_HEADS = ("kernel_attention.fc2", "kernel_attention", "attention.kernel_fc")


def kernel_state_names(model: nn.Module) -> frozenset[str]:
    """Name the state's entries whose first dimension counts the K kernels: kernels, biases, heads."""
    places = [f".{entry}" for entry in KERNEL_ENTRIES]
    places += [f".{head}.{entry}" for head in KERNEL_HEADS for entry in KERNEL_ENTRIES]
    state = model.state_dict()
    return frozenset(n for layer, _ in dynamic_layers(model) for p in places if (n := layer + p) in state)


def set_temperature(model: nn.Module, temperatures: Temperatures) -> None:
    """Set the temperatures of every dynamic convolution in the model."""
    for _, layer in dynamic_layers(model):
        layer.kernel_temperature = temperatures.kernel
        layer.channel_temperature = temperatures.channel


def record_attention(model: nn.Module, *, enabled: bool = True) -> None:
    """Let every dynamic convolution keep its last attention in `last_attention`, or stop and forget it."""
    for _, layer in dynamic_layers(model):
        layer.record_attention = enabled
        layer.last_attention = None


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(logits if temperature == 1.0 else logits / temperature, 1)


def _sigmoid(logits: Tensor, temperature: float) -> Tensor:
    return torch.sigmoid(logits if temperature == 1.0 else logits / temperature)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias)
    he_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _check_geometry(in_channels: int, out_channels: int, groups: int, kernels: int) -> None:
    if kernels < 1:
        raise ValueError(f"kernels = {kernels}; at least 1 is needed")
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups = {groups} must divide in_channels = {in_channels} and out_channels = {out_channels}"
        )


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _padding(padding: int | Pair | str, kernel_size: Pair, stride: Pair, dilation: Pair) -> Pair:
    if not isinstance(padding, str):
        return _pair(padding)
    if padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if padding != "same" or stride != (1, 1) or any(t % 2 for t in total):
        raise ValueError(
            f"padding = {padding!r} with kernel_size = {kernel_size}, stride = {stride}; allowed: numbers, "
            "'valid', and 'same' where the stride is 1 and both sides are padded alike"
        )
    return (total[0] // 2, total[1] // 2)
