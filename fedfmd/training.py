"""Local training: a model, a client's pictures and a generator in; steps, loss and seconds out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.data import Augment, epoch_batches
from fedfmd.sections import ClientConfig
from fedfmd.watchdog import Deadline


@dataclass
class Progress:
    """What a client's local training has done so far; it stays readable when the training fails."""

    steps: int = 0
    samples: int = 0
    """Samples that passed through the network, counted once an epoch."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the samples, in the order they were seen; null without samples."""
        return float(self.loss_sum) / self.samples if self.samples else None

    def count(self, loss: Tensor, samples: int) -> None:
        """Add a step."""
        self.loss_sum = self.loss_sum + loss * samples
        self.steps += 1
        self.samples += samples
        self.seconds = time.perf_counter() - self.started


class LocalTrainer:
    """Trains one client after another in one model, so that nothing is built anew for each.

    The optimiser's state is cleared between clients: a client starts with fresh momentum.
    """

    def __init__(self, model: nn.Module, config: ClientConfig, augment: Augment):
        self.model = model
        self.config = config
        self.augment = augment
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, config)
        self.needs_pairs = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        learning_rate: float,
        generator: torch.Generator,
        progress: Progress,
        correction: Tensor | None = None,
    ) -> None:
        """Train on ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,), from the model's state.

        ``correction`` (parameters,) is added to every gradient; ``progress`` is counted up. Raises
        ``DeadlinePassedError`` between two steps.
        """
        self.model.train()
        self._reset(learning_rate)
        anchor = [p.detach().clone() for p in self.parameters] if self.config.proximal_mu else []
        corrections = self._by_parameter(correction)
        deadline = Deadline(self.config.deadline_seconds, progress.started)
        for _ in range(self.config.epochs):
            for batch in self._batches(len(labels), generator):
                deadline.check()
                inputs = self.augment.train_batch(images[batch], generator).to(self.device)
                loss = self._step(inputs, labels[batch].to(self.device), anchor, corrections)
                progress.count(loss, len(batch))
        deadline.check()

    def _batches(self, samples: int, generator: torch.Generator) -> Sequence[Tensor]:
        return epoch_batches(samples, self.config.batch_size, generator, merge_single_tail=self.needs_pairs)

    def _step(
        self, inputs: Tensor, labels: Tensor, anchor: Sequence[Tensor], corrections: Sequence[Tensor]
    ) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(inputs), labels)
        loss.backward()
        if anchor:
            add_proximal_gradient(self.parameters, anchor, self.config.proximal_mu)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        for parameter, correction in zip(self.parameters, corrections, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(correction)
        self.optimizer.step()
        return loss.detach()

    def _by_parameter(self, vector: Tensor | None) -> list[Tensor]:
        if vector is None:
            return []
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _reset(self, learning_rate: float) -> None:
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate


def add_proximal_gradient(parameters: Sequence[Tensor], anchor: Sequence[Tensor], mu: float) -> None:
    """Add the gradient of mu/2 * ||w - w_global||^2 (FedProx, Li et al. 2020, eq. 2)."""
    with torch.no_grad():
        for parameter, origin in zip(parameters, anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=mu)


def _optimizer(parameters: list[nn.Parameter], config: ClientConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=True,
    )
