"""Networks by name, made of convolutions and norms by name.

A network is any class, or function that returns a module, from images (B, C, H, W) to logits (B, classes).
It is called with `num_classes`, and with those of the arguments of `build_model` that it has; `conv` and
`norm` come as factories: `conv(in_channels, out_channels, kernel_size, stride, padding)`, `norm(channels)`.
What a convolution asks for beside its place, of `WISHES`, comes to the network by its name.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from fedfmd.contracts import call, make
from fedfmd.errors import UserError
from fedfmd.nn.norm import ATTENTION_NORMS
from fedfmd.nn.resnet import ConvFactory, Stem
from fedfmd.nn.vector import NO_LAZY
from fedfmd.registry import built_in, chosen, fact, find, register, takes

register("conv", "static", slices=frozenset({"width"}))(nn.Conv2d)

WISHES = ("excitation", "share")
"""What a convolution may state, and only a network with an argument of that name can give it."""


def build_model(
    name: str,
    *,
    conv: str = "fmdconv",
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    kernels: int = 4,
    norm: str = "gn",
    attention_norm: str = "ln",
    cell_num_ratio: float = 1.0,
    cell_inplane_ratio: float = 1.0,
    cell_outplane_ratio: float = 1.0,
    stem: str = "cifar",
    exits: bool = False,
    stages: int | None = None,
) -> nn.Module:
    """Build a network by name; raises UserError, naming the argument, on an impossible value.

    `conv` and `norm` are names of the registry; `width` multiplies every hidden channel count, rounded up as
    in HeteroFL (see `scaled`); `kernels` is K. `attention_norm` is ln, bn or none; both "bn" is the papers'
    mode; the `cell_` ratios are KernelWarehouse's. The `cifar` stem is 3x3 without pooling, `imagenet` 7x7
    with stride 2 and max-pooling. `exits` gives each stage a classifier; with `stages` the network ends after
    that many. `image_size` is the side of the images, for networks that have to know it. What a network has
    no argument for has no effect.
    """
    _check_choice("attention_norm", attention_norm, ATTENTION_NORMS)
    _check_choice("stem", stem, get_args(Stem))
    _check_at_least_one(num_classes=num_classes, in_channels=in_channels, kernels=kernels)
    for kind, key, named in (("network", "name", name), ("conv", "conv", conv), ("norm", "norm", norm)):
        _check_known(kind, key, named)
    model: nn.Module = make(
        "network",
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        width=width,
        conv=conv_factory(
            conv,
            kernels=kernels,
            attention_norm=attention_norm,
            cell_num_ratio=cell_num_ratio,
            cell_inplane_ratio=cell_inplane_ratio,
            cell_outplane_ratio=cell_outplane_ratio,
        ),
        norm=partial(call, "norm", norm),
        **_wishes(name, conv),
        stem=stem,
        exits=exits,
        stages=stages,
    )
    return without_counters(model)


def conv_factory(name: str, **options: Any) -> ConvFactory:
    """Return the named convolution as residual blocks use it, with those of ``options`` that it has.

    It has a bias only if it states `block_bias`.
    """
    bias = fact("conv", name, "block_bias", False)
    return partial(_conv, name, **chosen(find("conv", name), {"bias": bias, **options}))


def _conv(name: str, *places: Any, **options: Any) -> nn.Module:
    layer: nn.Module = call("conv", name, *places, **options)
    if any(map(is_lazy, layer.parameters())):  # before a network draws its initial values
        raise UserError(f"model.conv = {name!r}: its weight {NO_LAZY}")
    return layer


def without_counters(model: nn.Module) -> nn.Module:
    """Let no norm of a network count batches: what is averaged are floats.

    Raises ``UserError`` for one that cannot go without, as it keeps the mean of all batches.
    """
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            if module.track_running_stats and module.momentum is None:
                raise UserError(
                    f"model: its {name} has momentum = None, the mean over all batches ever seen, which "
                    "nobody counts where clients take turns: give it a number, as 0.1"
                )
            module.num_batches_tracked = None
    return model


def unweighted(*, name: str, conv: str, norm: str) -> AbstractContextManager[object]:
    """Return a context to build a network in whose structure alone is of interest, its parts by name.

    Built-in parts then get no memory, on ``meta``. Parts of one's own may look at values while they are
    built, and keep tensors that are in no state: they are built with weights, from draws that do not count.
    """
    parts = (("network", name), ("conv", conv), ("norm", norm))
    ours = all(part in built_in(kind) for kind, part in parts)
    return torch.device("meta") if ours else torch.random.fork_rng(devices=[])


def _check_known(kind: str, key: str, name: str) -> None:
    """Raise ``UserError``, naming the argument of ``build_model``, for a name of no part."""
    try:
        find(kind, name)
    except UserError as error:
        raise UserError(f"{key} = {name!r} {error}") from None


def _wishes(network: str, conv: str) -> dict[str, Any]:
    """Return what a convolution asks of its network, by the network's arguments."""
    wishes = {key: value for key in WISHES if (value := fact("conv", conv, key)) is not None}
    lacking = [key for key in wishes if not takes("network", network, key)]
    if lacking and takes("network", network, "conv"):
        raise UserError(f"conv = {conv!r} needs a network that takes {lacking[0]}; {network!r} does not")
    return wishes


def _check_choice(key: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key} = {value!r} is not known; allowed: {', '.join(allowed)}")


def _check_at_least_one(**values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise UserError(f"{key} = {value} is not allowed; allowed: 1 or more")
