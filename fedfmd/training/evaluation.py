"""Measuring a model on labelled images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.data.augment import Augment
from fedfmd.records.schema import Json, told_loss
from fedfmd.training.watchdog import advancing
from fedfmd.wire.testing import NOTHING, Evaluation


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """A model on the images that report (test) and on those that choose (validation); null where not."""

    test: Evaluation | None = None
    validation: Evaluation | None = None

    def columns(self) -> Json:
        """Return what the row of a round, or of an epoch, says of it."""
        test, validation = self.test, self.validation
        return {
            "test_loss": told_loss(test.loss) if test else None,
            "top1": test.top1 if test else None,
            "top5": test.top5 if test else None,
            "validation_loss": told_loss(validation.loss) if validation else None,
            "validation_top1": validation.top1 if validation else None,
        }


UNMEASURED = ModelEvaluation()


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, augment: Augment, batch_size: int
) -> Evaluation:
    """Evaluate on ``images`` uint8 (N, C, H, W), N >= 1, and ``labels`` int64 (N,)."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum((evaluate_batch(model, *part, augment) for part in parts), NOTHING)


@torch.inference_mode()
def evaluate_batch(model: nn.Module, images: Tensor, labels: Tensor, augment: Augment) -> Evaluation:
    """Evaluate on ``images`` uint8 (B, C, H, W) that pass together, and their ``labels`` int64 (B,)."""
    model.eval()
    device = next(model.parameters()).device
    return _score(model(augment.eval_batch(images.to(device))), labels.to(device))


@torch.inference_mode()
def classify(
    model: nn.Module, images: Tensor, labels: Tensor, augment: Augment, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return for ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,) which are right, and the losses.

    Both on the CPU: bool (N,), and the cross entropies, float32 (N,).
    """
    model.eval()
    device = next(model.parameters()).device
    hits, losses = list[Tensor](), list[Tensor]()
    for part, target in advancing(zip(images.split(batch_size), labels.split(batch_size), strict=True)):
        scores, own = model(augment.eval_batch(part.to(device))), target.to(device)
        hits.append(scores.argmax(1) == own)
        losses.append(cross_entropy(scores, own, reduction="none"))
    return torch.cat(hits).cpu(), torch.cat(losses).cpu()


def _score(scores: Tensor, labels: Tensor) -> Evaluation:
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return Evaluation(
        len(labels),
        int(hits[:, 0].sum()),
        int(hits.any(dim=1).sum()),
        float(cross_entropy(scores, labels, reduction="sum")),
    )
