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

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fedfmd.contracts import check_spelling
from fedfmd.nn.attention import with_averages
from fedfmd.nn.columns import Pair, pair
from fedfmd.nn.functional import dynamic_conv2d
from fedfmd.nn.initial import he_normal_
from fedfmd.nn.macs import Macs
from fedfmd.nn.temperature import Temperatures, Tempered
from fedfmd.registry import parameters

Padding = int | Pair | Literal["same", "valid"]


class Attention(NamedTuple):
    """What a layer attends to: kernel (B, K), input (B, Ci), output (B, Co) and spatial (B, kh*kw)."""

    kernel: Tensor
    input: Tensor | None = None
    output: Tensor | None = None
    spatial: Tensor | None = None


class DynamicConv2d(nn.Module, Tempered):
    """What all dynamic convolutions share: K kernels, the geometry of `nn.Conv2d`, the forward pass.

    Arguments up to `bias` are those of `nn.Conv2d`; `kernels` is K.  Shapes: weight (K, Co, Ci/groups, kh,
    kw), bias (K, Co), input (B, Ci, H, W) or (Ci, H, W).  Raises ValueError on an impossible geometry.
    """

    follows: ClassVar[Mapping[str, str]] = {"kernel_temperature": "kernel", "channel_temperature": "channel"}
    dynamic: ClassVar[bool] = True
    """It has K kernels to mix: `model.kernels` counts, and clients may hold some of them."""
    tempered: ClassVar[bool] = True
    """Its attentions have temperatures."""
    slices: ClassVar[frozenset[str]] = frozenset({"width", "kernels"})
    """Along which axes a client may hold a part: of the channels, of the kernels."""
    block_bias: ClassVar[bool] = False
    """Whether it has a bias inside residual blocks."""
    published: ClassVar[bool] = False
    """Whether its authors have published checkpoints, whose names `checkpoints` knows."""
    kernel_heads: ClassVar[tuple[str, ...]] = ()
    """The linear layers with an output for each kernel."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise UserError for a misspelt method or attribute."""
        super().__init_subclass__(**options)
        check_spelling(cls, DynamicConv2d)

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
        super().__init__()
        _check_geometry(in_channels, out_channels, groups, kernels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.dilation = pair(dilation)
        self.padding = _padding(padding, self.kernel_size, self.stride, self.dilation)
        self.groups = groups
        self.kernels = kernels
        self.kernel_temperature: float | Tensor = 1.0
        self.channel_temperature: float | Tensor = 1.0
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
        """Compute the attentions, each (B, ...) as in `Attention`, from the averaged input (B, Ci)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, Ci, H, W) to (B, Co, Ho, Wo)."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        x, averages = with_averages(x)
        attention = self.attend(averages)
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

    @classmethod
    def smallest_batch(cls, *, attention_norm: str = "none") -> int:
        """Return the fewest samples that one step of training can have."""
        return 2 if attention_norm == "bn" and "attention_norm" in parameters(cls) else 1

    @property
    def kernel_elements(self) -> int:
        """Elements of a sample's own, mixed kernel."""
        return self.weight.numel() // self.kernels

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs for that many elements, and ``pixels`` of an output channel."""
        del inputs, outputs
        return Macs(
            conv=self.kernel_elements * pixels,
            aggregation=self.weight.numel() + (0 if self.bias is None else self.bias.numel()),
            attention=sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear)),
        )

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Conv2d` does, with its kernels."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, kernels={self.kernels}"
        )


def dynamic_layers(model: nn.Module) -> Iterator[tuple[str, DynamicConv2d]]:
    """Return the name and module of every dynamic convolution, in the model's order."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, DynamicConv2d))


def kernel_state_names(model: nn.Module) -> frozenset[str]:
    """Name the state's entries whose first dimension counts the K kernels: kernels, biases, heads."""
    state = model.state_dict()
    return frozenset(
        name
        for layer, module in dynamic_layers(model)
        for place in ("", *(f".{head}" for head in module.kernel_heads))
        for entry in ("weight", "bias")
        if (name := f"{layer}{place}.{entry}") in state
    )


def set_temperature(model: nn.Module, temperatures: Temperatures) -> None:
    """Set the temperatures of every layer in the model that follows them.

    On a GPU they are numbers in its memory, one for all layers, where a captured step reads them.
    """
    held: dict[str, float | Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, Tempered):
            device = next(layer.parameters()).device
            for attribute, name in layer.follows.items():
                if name not in held:
                    held[name] = _set(getattr(layer, attribute), getattr(temperatures, name), device)
                setattr(layer, attribute, held[name])


def _set(before: float | Tensor, value: float, device: torch.device) -> float | Tensor:
    """Return ``value`` as the layers on ``device`` hold it, in the place of ``before``."""
    if device.type != "cuda":
        return value
    if isinstance(before, Tensor) and before.device == device:
        return before.fill_(value)
    return torch.tensor(value, dtype=torch.float32, device=device)


def record_attention(model: nn.Module, *, enabled: bool = True) -> None:
    """Let every dynamic convolution keep its last attention in `last_attention`, or stop and forget it."""
    for _, layer in dynamic_layers(model):
        layer.record_attention = enabled
        layer.last_attention = None


def _check_geometry(in_channels: int, out_channels: int, groups: int, kernels: int) -> None:
    if kernels < 1:
        raise ValueError(f"kernels = {kernels}; at least 1 is needed")
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups = {groups} must divide in_channels = {in_channels} and out_channels = {out_channels}"
        )


def _padding(padding: int | Pair | str, kernel_size: Pair, stride: Pair, dilation: Pair) -> Pair:
    if not isinstance(padding, str):
        return pair(padding)
    if padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if padding != "same" or stride != (1, 1) or any(t % 2 for t in total):
        raise ValueError(
            f"padding = {padding!r} with kernel_size = {kernel_size}, stride = {stride}; allowed: numbers, "
            "'valid', and 'same' where the stride is 1 and both sides are padded alike"
        )
    return (total[0] // 2, total[1] // 2)
