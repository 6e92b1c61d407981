"""Normalisation layers, and what federated averaging asks of them.

No layer here has an integer buffer.  BatchNorm's `num_batches_tracked` only serves cumulative averages, which
nobody here uses, and as the one integer of a state it would break whatever averages, scales, compresses or
counts the bytes of a model.  So every state is floating point.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedfmd.registry import register

NormFactory = Callable[[int], nn.Module]

CHANNELS_PER_GROUP = 8
STATISTICS = ("running_mean", "running_var")
"""Names of what BatchNorm keeps of the batches that it has seen."""


def needs_pairs(model: nn.Module) -> bool:
    """Return whether a network normalises over batches anywhere, so that a batch of one makes nothing."""
    return any(isinstance(m, _BatchNorm) or getattr(m, "over_batch", False) for m in model.modules())


@register("norm", "bn")
class BatchNorm(_BatchNorm):
    """Batch normalisation over (B, C) or (B, C, H, W) whose state has no batch counter.

    A state that has one (torch's own, torchvision's, the authors') still loads; the counter is ignored.
    """

    over_batch: ClassVar[bool] = True
    """It normalises over a batch, so that a batch of one makes nothing, and keeps statistics of it."""
    local: ClassVar[bool] = False
    """Its state stays on its client."""
    freezes: ClassVar[bool] = False
    """Its statistics can be fixed."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.num_batches_tracked = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected an input of 2 or 4 dimensions, got {input.dim()}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Not the parent's: it would add the counter to a state that lacks it, and strict loading then fails.
        state_dict.pop(prefix + "num_batches_tracked", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)


@register("norm", "fedbn")
class LocalBatchNorm(BatchNorm):
    """Batch normalisation that stays on its client (FedBN, Li et al. 2021); see `local_state_names`."""

    local = True


@register("norm", "fixbn")
class FreezableBatchNorm(BatchNorm):
    """Batch normalisation whose statistics can be fixed (FixBN, Zhong et al. 2023); see `freeze_statistics`.

    It starts as plain BatchNorm.  Frozen, it normalises with the running statistics in training, too, and
    updates them no more; its scale and shift still learn.
    """

    freezes = True
    frozen = False

    def train(self, mode: bool = True) -> "FreezableBatchNorm":
        """Set the training mode, in which a frozen layer has no part."""
        super().train(mode and not self.frozen)
        return self


@register("norm", "gn")
def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm for any number of channels: of groups of one size, and not of one number of groups.

    A group has the smallest divisor of `channels` that is at least 8; with no such divisor below `channels`
    there is one group.  In a part of a wider layer the channels keep the groups that they have there
    (`fedfmd.nn.part_norm`).
    """
    size = next((s for s in range(CHANNELS_PER_GROUP, channels) if channels % s == 0), channels)
    return nn.GroupNorm(channels // size, channels)


@register("norm", "ln")
def layer_norm(channels: int) -> nn.GroupNorm:
    """Return layer normalisation over channels and pixels: GroupNorm with one group."""
    return nn.GroupNorm(1, channels)


ATTENTION_NORMS: dict[str, NormFactory] = {
    "ln": nn.LayerNorm,
    "bn": BatchNorm,
    "none": lambda _: nn.Identity(),
}
"""Norms of the (B, A) vector inside an attention branch; the papers' `bn` cannot train on a batch of one."""


def local_state_names(model: nn.Module) -> frozenset[str]:
    """Name the entries of the model's state that stay on the client: those of layers that are `local`."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if getattr(module, "local", False)
        for key in module.state_dict()
    )


def freeze_statistics(model: nn.Module, *, frozen: bool = True) -> None:
    """Freeze or thaw the statistics of every `fixbn` layer; FixBN freezes them part-way through training."""
    for module in model.modules():
        if isinstance(module, FreezableBatchNorm):
            module.frozen = frozen
            module.train(model.training)
