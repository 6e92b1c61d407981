"""Local training: a model, a client's pictures and a generator in; steps, loss and seconds out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from fedfmd.config.sections import ClientConfig
from fedfmd.costs.macs import Macs
from fedfmd.data import Augment, epoch_batches
from fedfmd.nn.submodel import NestedWidths
from fedfmd.training.losses import local_loss
from fedfmd.training.optimizers import clear_gradients, local_optimizer
from fedfmd.training.watchdog import Deadline
from fedfmd.wire.plan import ClientPlan, Progress


class LocalTrainer:
    """Trains one client after another in one model, so that nothing is built anew for each.

    The optimiser's state is cleared between clients: a client starts with fresh momentum.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ClientConfig,
        augment: Augment,
        forward_macs: Mapping[float, Macs] = {1.0: Macs()},
        nested: NestedWidths | None = None,
    ):
        """Take the network and its cost for one picture by width; ``nested`` trains it in random widths."""
        self.model = model
        self.config = config
        self.augment = augment
        self.forward_macs = forward_macs
        self.widths = sorted(forward_macs, reverse=True)
        self.nested = nested
        self.present: Tensor | None = None
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = local_optimizer(self.parameters, config)
        self.needs_pairs = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        plan: ClientPlan,
        learning_rate: float,
        generator: torch.Generator,
        progress: Progress,
        correction: Tensor | None = None,
    ) -> None:
        """Do the work of ``plan`` on ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,).

        It starts from the model's state.

        ``correction`` (parameters,) is added to every gradient; ``progress`` is counted up. Raises
        ``DeadlinePassedError`` between two steps.
        """
        self.model.train()
        self.optimizer.restart(learning_rate)
        anchor = [p.detach().clone() for p in self.parameters] if self.config.proximal_mu else []
        corrections = self._by_parameter(correction)
        deadline = Deadline(self.config.deadline_seconds, progress.started)
        self.present = labels.unique().to(self.device) if self.config.masked_loss else None
        for batch in islice(self._batches(len(labels), plan, generator), plan.steps):
            deadline.check()
            inputs = self.augment.train_batch(images[batch], generator).to(self.device)
            width = self._draw_width(generator)
            loss = self._step(inputs, labels[batch].to(self.device), width, anchor, corrections)
            progress.count(loss, len(batch), self.forward_macs[width])
        deadline.check()

    def _batches(self, samples: int, plan: ClientPlan, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(plan.epochs):
            yield from epoch_batches(samples, plan.batch_size, generator, merge_single_tail=self.needs_pairs)

    def _draw_width(self, generator: torch.Generator) -> float:
        if self.nested is None:
            return self.widths[0]
        return self.widths[int(torch.randint(len(self.widths), (), generator=generator))]

    def _logits(self, inputs: Tensor, width: float) -> Tensor:
        if self.nested is None or width == self.widths[0]:
            logits: Tensor = self.model(inputs)
            return logits
        return self.nested(width, inputs)

    def _step(
        self,
        inputs: Tensor,
        labels: Tensor,
        width: float,
        anchor: Sequence[Tensor],
        corrections: Sequence[Tensor],
    ) -> Tensor:
        clear_gradients(self.parameters)
        logits = self._logits(inputs, width)
        loss = local_loss(logits, labels, self.present, self.config.distillation)
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


def add_proximal_gradient(parameters: Sequence[Tensor], anchor: Sequence[Tensor], mu: float) -> None:
    """Add the gradient of mu/2 * ||w - w_global||^2 (FedProx, Li et al. 2020, eq. 2)."""
    with torch.no_grad():
        for parameter, origin in zip(parameters, anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=mu)
