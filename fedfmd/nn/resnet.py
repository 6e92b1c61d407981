"""One residual network whose convolution and normalisation are arguments.

He et al. 2016 (arXiv 1512.03385), with the stride of a bottleneck on its 3x3 convolution.  As in the FMDConv
and ODConv papers, every convolution inside the residual blocks is the given one, while the stem, the 1x1
shortcuts and the classifier stay static.  The CIFAR family (resnet8, 14, 20: three stages of 16, 32, 64
channels) differs from He et al. in its shortcuts, which are 1x1 convolutions, not padded identities.

A convolution may ask for more than its place:

- `excitation` makes what the residual branch of every block ends with (SE-ResNet, Hu et al. 2018).
- `share` makes what neighbouring layers share (KernelWarehouse, Li and Yao 2024). A stage is a neighbourhood;
  its first convolution and its shortcut belong to that of the stage before. Shortcuts with a stride are then
  of that convolution, too, and the very first 1x1 convolution of a bottleneck is static.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedfmd.errors import UserError
from fedfmd.nn.initial import he_normal_, normal_
from fedfmd.nn.norm import NormFactory
from fedfmd.registry import register

Stem = Literal["cifar", "imagenet"]


class ConvFactory(Protocol):
    """Makes a convolution; called with positional arguments as `nn.Conv2d` is."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, /
    ) -> nn.Module:
        """Make one convolution."""
        ...


Excitation = Callable[[int], nn.Module]
"""Makes, from a number of channels, what a residual branch ends with."""
Sharing = Callable[[Sequence[Sequence[nn.Module]]], nn.Module]
"""Makes, from the modules of each neighbourhood, what they share."""


def static_conv(in_channels: int, channels: int, size: int, stride: int, padding: int) -> nn.Conv2d:
    """Make a static convolution without a bias."""
    return nn.Conv2d(in_channels, channels, size, stride, padding, bias=False)


@dataclass(frozen=True, kw_only=True)
class LayerMakers:
    """What makes the layers of residual blocks."""

    conv: ConvFactory
    norm: NormFactory
    reducing: ConvFactory
    """Makes the first 1x1 convolution of a bottleneck."""
    strided_shortcut: ConvFactory = static_conv
    excitation: Excitation | None = None

    def shortcut(self, in_channels: int, channels: int, stride: int) -> nn.Module:
        """Make the 1x1 convolution beside a residual branch."""
        conv = static_conv if stride == 1 else self.strided_shortcut
        return conv(in_channels, channels, 1, stride, 0)

    def excite(self, channels: int) -> nn.Module:
        """Make the end of a residual branch of so many channels."""
        return nn.Identity() if self.excitation is None else self.excitation(channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, parts: LayerMakers) -> None:
        super().__init__()
        conv, norm = parts.conv, parts.norm
        self.conv1 = conv(in_channels, channels, 3, stride, 1)
        self.norm1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, 1, 1)
        self.norm2 = norm(channels)
        self.excitation = parts.excite(channels)
        self.downsample = _downsample(in_channels, channels, stride, parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, channels, H/stride, W/stride)."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.excitation(self.norm2(self.conv2(out)))
        return _join(out, x, self.downsample)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which has the stride) and 1x1 convolution to 4 times the channels, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, parts: LayerMakers) -> None:
        super().__init__()
        conv, norm = parts.conv, parts.norm
        out_channels = channels * self.expansion
        self.conv1 = parts.reducing(in_channels, channels, 1, 1, 0)
        self.norm1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, stride, 1)
        self.norm2 = norm(channels)
        self.conv3 = conv(channels, out_channels, 1, 1, 0)
        self.norm3 = norm(out_channels)
        self.excitation = parts.excite(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride, parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, 4 * channels, H/stride, W/stride)."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        out = self.excitation(self.norm3(self.conv3(out)))
        return _join(out, x, self.downsample)


Block = type[BasicBlock] | type[Bottleneck] | type["PreActivationBlock"]


class ResNet(nn.Module):
    """A residual network of stages `layer1`, `layer2`, ...; every stage but the first halves the image.

    `depths` and `channels` give each stage's number of blocks and its base channels.  Input (B, in_channels,
    H, W), output logits (B, num_classes).  Static convolutions are Kaiming normal by fan-out, the classifier
    N(0, 0.01), as in the authors' networks.

    With `exits` every stage has a classifier of its own (DepthFL, Kim et al. 2023), `exits.0` after the
    first: training gives the logits of all of them, (stages, B, num_classes), evaluation their mean, which is
    that of an ensemble.
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        channels: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        conv: ConvFactory,
        norm: NormFactory,
        excitation: Excitation | None = None,
        share: Sharing | None = None,
        stem: Stem = "cifar",
        exits: bool = False,
    ) -> None:
        super().__init__()
        shortcut = static_conv if share is None else conv
        parts = LayerMakers(
            conv=conv, norm=norm, reducing=conv, strided_shortcut=shortcut, excitation=excitation
        )
        first = parts if share is None else replace(parts, reducing=static_conv)
        self.stages = len(depths)
        width = channels[0]
        stem_geometry = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, width, *stem_geometry, bias=False)
        self.norm1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else None
        for stage, (depth, planes) in enumerate(zip(depths, channels, strict=True), start=1):
            strides = [1 if stage == 1 else 2, *[1] * (depth - 1)]
            blocks: list[nn.Module] = []
            for stride in strides:
                blocks.append(block(width, planes, stride, parts if blocks or stage > 1 else first))
                width = planes * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.shared = None if share is None else share(self._neighbourhoods())
        widths = [planes * block.expansion for planes in channels]
        self.exits = nn.ModuleList(nn.Linear(w, num_classes) for w in widths) if exits else None
        self.fc = None if exits else nn.Linear(width, num_classes)
        self._reset_static_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, in_channels, H, W): logits (B, num_classes), or of all exits."""
        maps = self._stage_outputs(x)
        if self.fc is not None:
            *_, last = maps
            logits: Tensor = self.fc(self._pooled(last, self.stages))
            return logits
        assert self.exits is not None
        stages = enumerate(zip(self.exits, maps, strict=True), start=1)
        outputs = torch.stack([head(self._pooled(map, stage)) for stage, (head, map) in stages])
        return outputs if self.training else outputs.mean(0)

    def _neighbourhoods(self) -> list[list[nn.Module]]:
        """Return the modules of each stage, after which come those that it takes over from the next."""
        found: list[list[nn.Module]] = [[] for _ in range(self.stages)]
        for stage in range(self.stages):
            blocks = getattr(self, f"layer{stage + 1}")
            entry, shortcut = blocks[0].conv1, blocks[0].downsample
            handed = {*entry.modules(), *(() if shortcut is None else shortcut.modules())}
            for module in blocks.modules():
                found[max(0, stage - (module in handed))].append(module)
        return found

    def _stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        x = self._stem(x)
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            yield x

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.norm1(self.conv1(x)), inplace=True)

    def _pooled(self, x: Tensor, stage: int) -> Tensor:
        """Return what a classifier sees of the output of a stage, the first of which is 1."""
        del stage
        return x.mean((2, 3))

    def _reset_static_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal_(module.weight)
            elif isinstance(module, nn.Linear) and module in self.classifiers:
                normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    @property
    def classifiers(self) -> tuple[nn.Linear, ...]:
        """Every classifier, that of the last stage at the end."""
        found = self.exits if self.fc is None else [self.fc]
        return tuple(cast(Iterable[nn.Linear], found))


class PreActivationBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions (He et al. 2016, arXiv 1603.05027)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, parts: LayerMakers) -> None:
        super().__init__()
        conv, norm = parts.conv, parts.norm
        self.norm1 = norm(in_channels)
        self.conv1 = conv(in_channels, channels, 3, stride, 1)
        self.norm2 = norm(channels)
        self.conv2 = conv(channels, channels, 3, 1, 1)
        self.excitation = parts.excite(channels)
        changes = stride != 1 or in_channels != channels
        self.downsample = parts.shortcut(in_channels, channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, channels, H/stride, W/stride)."""
        active = F.relu(self.norm1(x))
        out: Tensor = self.excitation(self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True)))
        return out + (x if self.downsample is None else self.downsample(active))


class PreActivationResNet(ResNet):
    """A residual network of pre-activation blocks: its first norm comes after the last stage.

    With `exits` every classifier has a norm of its own, `exit_norms`, in that one's place.
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        channels: Sequence[int],
        *,
        norm: NormFactory,
        **options: Any,
    ) -> None:
        super().__init__(block, depths, channels, norm=norm, **options)
        widths = [planes * block.expansion for planes in channels]
        self.norm1 = nn.Identity() if self.exits else norm(widths[-1])
        self.exit_norms = nn.ModuleList(map(norm, widths)) if self.exits else None

    def _stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(x)
        return out

    def _pooled(self, x: Tensor, stage: int) -> Tensor:
        norm = self.norm1 if self.exit_norms is None else self.exit_norms[stage - 1]
        return F.relu(norm(x)).mean((2, 3))


@dataclass(frozen=True)
class Architecture:
    """The shape of a named network at width 1."""

    block: Block
    depths: tuple[int, ...]
    channels: tuple[int, ...] = (64, 128, 256, 512)


_CIFAR_CHANNELS = (16, 32, 64)

ARCHITECTURES: dict[str, Architecture] = {
    "resnet8": Architecture(BasicBlock, (1, 1, 1), _CIFAR_CHANNELS),
    "resnet14": Architecture(BasicBlock, (2, 2, 2), _CIFAR_CHANNELS),
    "resnet20": Architecture(BasicBlock, (3, 3, 3), _CIFAR_CHANNELS),
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
    "preresnet12": Architecture(PreActivationBlock, (1, 1, 1, 2)),  # HeteroFL's "ResNet18"
}


def resnet(
    architecture: Architecture,
    *,
    num_classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    conv: ConvFactory,
    norm: NormFactory,
    excitation: Excitation | None = None,
    share: Sharing | None = None,
    stem: Stem = "cifar",
    exits: bool = False,
    stages: int | None = None,
) -> ResNet:
    """Return a residual network of that shape, its channels times `width`, that ends after `stages`."""
    kind = PreActivationResNet if architecture.block is PreActivationBlock else ResNet
    return kind(
        architecture.block,
        architecture.depths[:stages],
        [scaled(channels, width) for channels in architecture.channels[:stages]],
        num_classes=num_classes,
        in_channels=in_channels,
        conv=conv,
        norm=norm,
        excitation=excitation,
        share=share,
        stem=stem,
        exits=exits,
    )


for _name, _architecture in ARCHITECTURES.items():
    register(
        "network", _name, stages=len(_architecture.depths), slices=frozenset({"width", "kernels", "depth"})
    )(partial(resnet, _architecture))


def scaled(channels: int, width: float) -> int:
    """Return ceil(width * channels), HeteroFL's rule; raises UserError unless 0 < width < infinity."""
    if not (width > 0 and math.isfinite(width)):
        raise UserError(f"width = {width} is not allowed; allowed: a number above 0")
    # The product's rounding error must not add a channel: 0.07 * 100 is 7.000000000000001.
    return max(1, math.ceil(width * channels - 1e-9))


def _downsample(in_channels: int, out_channels: int, stride: int, parts: LayerMakers) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(parts.shortcut(in_channels, out_channels, stride), parts.norm(out_channels))


def _join(out: Tensor, x: Tensor, downsample: nn.Sequential | None) -> Tensor:
    out += x if downsample is None else downsample(x)
    return F.relu(out, inplace=True)
