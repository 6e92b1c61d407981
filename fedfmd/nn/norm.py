"""Normalisation layers, and what federated averaging asks of them.

No layer here has an integer buffer.  BatchNorm's `num_batches_tracked` only serves cumulative averages, which
nobody here uses, and as the one integer of a state it would break whatever averages, scales, compresses or
counts the bytes of a model.  So every state is floating point.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NormFactory = Callable[[int], nn.Module]
Layer = TypeVar("Layer", bound=nn.Module)

CHANNELS_PER_GROUP = 8


class BatchNorm(_BatchNorm):
    """Batch normalisation over (B, C) or (B, C, H, W) whose state has no batch counter.

    A state that has one (torch's own, torchvision's, the authors') still loads; the counter is ignored.
    """

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


class LocalBatchNorm(BatchNorm):
    """Batch normalisation that stays on its client (FedBN, Li et al. 2021); see `local_state_names`."""


class FreezableBatchNorm(BatchNorm):
    """Batch normalisation whose statistics can be fixed (FixBN, Zhong et al. 2023); see `freeze_statistics`.

    It starts as plain BatchNorm.  Frozen, it normalises with the running statistics in training, too, and
    updates them no more; its scale and shift still learn.
    """

    frozen = False

    def train(self, mode: bool = True) -> "FreezableBatchNorm":
        """Set the training mode, in which a frozen layer has no part."""
        super().train(mode and not self.frozen)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    """Give a GroupNorm for any number of channels, with groups of one size rather than one number of groups.

    A group has the smallest divisor of `channels` that is at least 8; with no such divisor below `channels`
    there is one group.  Constant groups mean that the first channels of a wide layer are grouped just as
    those of its narrow slice.
    """
    size = next((s for s in range(CHANNELS_PER_GROUP, channels) if channels % s == 0), channels)
    return nn.GroupNorm(channels // size, channels)


def layer_norm(channels: int) -> nn.GroupNorm:
    """Give layer normalisation over channels and pixels: GroupNorm with one group."""
    return nn.GroupNorm(1, channels)


NORMS: dict[str, NormFactory] = {
    "gn": group_norm,
    "bn": BatchNorm,
    "ln": layer_norm,
    "fixbn": FreezableBatchNorm,
    "fedbn": LocalBatchNorm,
}

BATCH_NORMS = ("bn", "fixbn", "fedbn")
"""Those that make nothing of one sample."""

ATTENTION_NORMS: dict[str, NormFactory] = {
    "ln": nn.LayerNorm,
    "bn": BatchNorm,
    "none": lambda _: nn.Identity(),
}
"""Norms of the (B, A) vector inside an attention branch; the papers' `bn` cannot train on a batch of one."""


def local_state_names(model: nn.Module) -> frozenset[str]:
    """Name the entries of the model's state that belong to `LocalBatchNorm` layers."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, module in _of_type(model, LocalBatchNorm)
        for key in module.state_dict()
    )


def freeze_statistics(model: nn.Module, *, frozen: bool = True) -> None:
    """Freeze or thaw the statistics of every `fixbn` layer; FixBN freezes them part-way through training."""
    for _, module in _of_type(model, FreezableBatchNorm):
        module.frozen = frozen
        module.train(model.training)


def _of_type(model: nn.Module, kind: type[Layer]) -> Iterator[tuple[str, Layer]]:
    return ((name, m) for name, m in model.named_modules() if isinstance(m, kind))
