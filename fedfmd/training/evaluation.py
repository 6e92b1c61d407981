"""Measuring a model on labelled images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.data.augment import Augment
from fedfmd.records.schema import Count, Figure, Record


@dataclass(frozen=True)
class Evaluation(Record):
    """Counts and sums over ``examples`` images: two evaluations add up field by field."""

    examples: Count
    correct: Count
    correct_top5: Count
    loss_sum: Figure

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Pool two evaluations."""
        return Evaluation(
            self.examples + other.examples,
            self.correct + other.correct,
            self.correct_top5 + other.correct_top5,
            self.loss_sum + other.loss_sum,
        )

    def fits(self, examples: int) -> bool:
        """Whether these can be the counts of so many ``examples``."""
        return self.correct <= self.correct_top5 <= self.examples == examples

    @property
    def top1(self) -> float:
        """Fraction of images whose best-scored class is the label."""
        return self.correct / self.examples

    @property
    def top5(self) -> float:
        """Fraction of images whose label is among the five best-scored classes."""
        return self.correct_top5 / self.examples

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return self.loss_sum / self.examples


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """A model on the images that report (test) and on those that choose (validation); null where not."""

    test: Evaluation | None = None
    validation: Evaluation | None = None


UNMEASURED = ModelEvaluation()


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, augment: Augment, batch_size: int
) -> Evaluation:
    """Evaluate on ``images`` uint8 (N, C, H, W), N >= 1, and ``labels`` int64 (N,)."""
    model.eval()
    device = next(model.parameters()).device
    result = Evaluation(0, 0, 0, 0.0)
    for part, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        scores = model(augment.eval_batch(part.to(device)))
        result += _score(scores, target.to(device))
    return result


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
    for part, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
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
