"""What local training minimises before any algorithm adds to it."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of logits (B, classes), or the sum over exits (E, B, classes).

    ``labels`` are int64 (B,).
    """
    if logits.dim() == 2:
        return cross_entropy(logits, labels)
    return torch.stack([cross_entropy(exit, labels) for exit in logits]).sum()
