"""Norms of networks that are parts of one another: groups of the whole, and statistics of each width."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, group_norm

from fedfmd.nn.norm import STATISTICS, BatchNorm
from fedfmd.nn.submodel import window


class PartGroupNorm(nn.GroupNorm):
    """Group normalisation of some channels of a wider layer, each in the group that it has there.

    A group is normalised over those of its channels that are present. Where the groups are whole, all alike
    and one behind the other, this is plain GroupNorm.
    """

    def __init__(self, channels: int, whole_groups: int, whole_channels: int, eps: float) -> None:
        super().__init__(1, channels, eps)
        self.group_size, self.whole_channels = whole_channels // whole_groups, whole_channels
        self._first: int | None = None
        self.take_window(0)

    def take_window(self, first: int) -> None:
        """Say which of the wide layer's channels these are: from ``first`` on, wrapping round."""
        if first == self._first:
            return
        self._first = first
        with torch.device("cpu"):  # also where the network is only a structure
            held = window(self.whole_channels, self.num_channels, first)
        groups = held // self.group_size
        _, self._group_of, counts = groups.unique(return_inverse=True, return_counts=True)
        self._plain = bool((counts == counts[0]).all()) and bool(
            (self._group_of.view(len(counts), -1) == self._group_of[:: int(counts[0])][:, None]).all()
        )
        self._counts = counts

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if self._plain:
            return group_norm(x, len(self._counts), self.weight, self.bias, self.eps)
        group_of, counts = self._group_of.to(x.device), self._counts.to(x.device)
        centred = x - _over_groups(x.mean((2, 3)), group_of, counts)
        variance = _over_groups(centred.square().mean((2, 3)), group_of, counts)
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return centred * scale + self.bias[:, None, None]


def _over_groups(values: Tensor, group_of: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over its group for each channel, (B, C, 1, 1), of ``values`` (B, C)."""
    sums = values.new_zeros(values.shape[0], len(counts)).index_add(1, group_of, values)
    return (sums / counts)[:, group_of, None, None]


def keep_groups(part: nn.Module, whole: nn.Module) -> None:
    """Let every GroupNorm of a ``part`` have the groups of the ``whole`` network's layer of its name."""
    layers = dict(whole.named_modules())
    for name, layer in list(part.named_modules()):
        if not isinstance(layer, nn.GroupNorm):
            continue
        wide = layers[name]
        assert isinstance(wide, nn.GroupNorm)
        if wide.num_channels != layer.num_channels:
            own = PartGroupNorm(layer.num_channels, wide.num_groups, wide.num_channels, layer.eps)
            own.weight, own.bias = layer.weight, layer.bias
            part.set_submodule(name, own)


def take_window(model: nn.Module, first: int) -> None:
    """Tell every norm of a part where its window of channels begins."""
    for layer in model.modules():
        if isinstance(layer, PartGroupNorm):
            layer.take_window(first)


class WidthBatchNorm(BatchNorm):
    """Batch normalisation with statistics for each width that a network is run at, and one scale and shift.

    ``channels`` maps widths to channels, the last of which is the layer's own; its buffers are
    ``running_mean_0_5`` and ``running_var_0_5`` for width 0.5, so that those of a part are the whole's.
    """

    def __init__(self, channels: Mapping[float, int], eps: float) -> None:
        *_, own = channels
        super().__init__(channels[own])
        self.eps = eps
        for name in STATISTICS:
            self.register_buffer(name, None)
        for width, held in channels.items():
            self.register_buffer(of_width(STATISTICS[0], width), torch.zeros(held))
            self.register_buffer(of_width(STATISTICS[1], width), torch.ones(held))
        self.own = [of_width(name, own) for name in STATISTICS]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C) or (B, C, H, W) by the layer's own width."""
        self._check_input_dim(x)
        mean, variance = (getattr(self, name) for name in self.own)
        momentum = self.momentum or 0.0
        return batch_norm(x, mean, variance, self.weight, self.bias, self.training, momentum, self.eps)


def of_width(name: str, width: float) -> str:
    """Return what a buffer is called for a width."""
    return f"{name}_{width!r}".replace(".", "_")


def norms_per_width(model: nn.Module, channels: Mapping[float, Mapping[str, int]]) -> None:
    """Give every BatchNorm statistics for each width.

    ``channels`` maps widths, ascending up to the model's own, to the channels of each layer by name.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BatchNorm):
            own = WidthBatchNorm({width: by_name[name] for width, by_name in channels.items()}, layer.eps)
            own.weight, own.bias = layer.weight, layer.bias
            model.set_submodule(name, own)


def plain_names(state: Mapping[str, Tensor], width: float) -> dict[str, Tensor]:
    """Return a state with the statistics of one width by BatchNorm's own names, and none of the others."""
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, entry = key.rpartition(".")
        statistic = next((name for name in STATISTICS if entry.startswith(name)), None)
        if statistic is None:
            plain[key] = tensor
        elif entry == of_width(statistic, width):
            plain[f"{layer}.{statistic}"] = tensor
    return plain
