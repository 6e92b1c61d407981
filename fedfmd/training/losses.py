"""What local training minimises before any algorithm adds to it."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@torch.no_grad()
def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what ``classification_loss`` is the mean of, (B,), without a gradient."""
    exits = logits[None] if logits.dim() == 2 else logits
    return torch.stack([cross_entropy(exit, labels, reduction="none") for exit in exits]).sum(0)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of logits (B, classes), or the sum over exits (E, B, classes).

    ``labels`` are int64 (B,).
    """
    if logits.dim() == 2:
        return cross_entropy(logits, labels)
    return torch.stack([cross_entropy(exit, labels) for exit in logits]).sum()
