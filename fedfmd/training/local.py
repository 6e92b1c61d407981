"""Local training: a model, a client's images and a generator in; steps, loss and seconds out."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fedfmd.algorithms import ClientSide, Forward
from fedfmd.config.sections.client import ClientConfig
from fedfmd.costs.macs import Macs
from fedfmd.data.augment import Augment, epoch_batches
from fedfmd.errors import RunError
from fedfmd.nn.norm import needs_pairs
from fedfmd.seeds import repeated_draws
from fedfmd.training.losses import classification_loss, example_losses
from fedfmd.training.optimizers import SGD, clear_gradients, local_optimizer
from fedfmd.training.replay import ReplayedSteps
from fedfmd.training.watchdog import Deadline, advancing
from fedfmd.wire.plan import ClientPlan, Progress

CLIENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemExit,
    ValueError,
    RunError,
)
"""What can go wrong inside one client: a row in the ledger, not the loss of the whole order."""
PLAIN = ClientSide()
"""Federated averaging: no algorithm takes part."""


class LocalTrainer:
    """Trains one client after another in one model, so that nothing is built anew for each.

    The optimiser's state is cleared between clients: a client starts with fresh momentum.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ClientConfig,
        augment: Augment,
        forward: Forward | None = None,
        *,
        looks_at_losses: bool = False,
        merges: bool | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        replays: bool | None = None,
    ):
        """Take the network and its ``forward`` pass: when absent its own, whose MACs count as 0.

        With ``looks_at_losses``, progress is told the loss of each sample in the first epoch. ``merges`` says
        whether a single last sample joins the batch before it; the network tells when absent. ``options`` are
        those of an optimiser of one's own. ``replays`` says whether steps read from tables, as they do on a
        GPU.
        """
        self.looks_at_losses = looks_at_losses
        self.model = model
        self.config = config
        self.augment = augment
        self.forward = forward or PlainForward(model, Macs())
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = local_optimizer(self.parameters, config, options)
        self.merges = needs_pairs(model) if merges is None else merges
        self.settings: Hashable = None
        """What else than its state the network was prepared with: a captured step holds it."""
        self._replayed = self._replayed_steps(self.device.type == "cuda" if replays is None else replays)
        self._side: ClientSide = PLAIN
        self._captured_with: Hashable = None

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        plan: ClientPlan,
        learning_rate: float,
        generator: torch.Generator,
        progress: Progress,
        side: ClientSide = PLAIN,
    ) -> None:
        """Do the work of ``plan`` on ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,).

        It starts from the model's state; ``side`` takes part in every step, and ``progress`` is counted up.
        Raises ``DeadlinePassedError`` between two steps.
        """
        self.model.train()
        self.optimizer.restart(learning_rate)
        with repeated_draws(generator):  # of a network of the user's own
            deadline = Deadline(self.config.deadline_seconds, progress.started)
            batches = advancing(islice(self._batches(len(labels), plan, generator), plan.steps))
            if self._replayed is not None and (side.alike or not side.acts):
                self._hold(self._replayed, learning_rate, side)
                losses, sizes = self._replayed.run(images, labels, batches, plan.batch_size, generator)
                assert isinstance(self.forward, PlainForward)
                progress.count_all(losses, sizes, self.forward.macs)
                return
            for batch in batches:
                deadline.check()
                inputs = self.augment.train_batch(images.index_select(0, batch), generator).to(self.device)
                look = self.looks_at_losses and progress.samples < len(labels)
                told = progress if look else None
                loss, macs = self._step(inputs, labels[batch].to(self.device), generator, side, told)
                progress.count(loss, len(batch), macs)
            deadline.check()

    def _replayed_steps(self, wanted: bool) -> ReplayedSteps | None:
        """Return the means to replay steps, where all of them do the same to the same tensors."""
        alike = isinstance(self.forward, PlainForward) and getattr(self.optimizer, "replays", False)
        watched = self.looks_at_losses or self.config.deadline_seconds is not None or self.augment.resized
        if not wanted or not alike or watched:
            return None
        unused = torch.Generator()

        def step(inputs: Tensor, labels: Tensor) -> Tensor:
            return self._step(inputs, labels, unused, self._side, None)[0]

        return ReplayedSteps(step, self.augment, self.device, fills=not self.merges)

    def _hold(self, steps: ReplayedSteps, learning_rate: float, side: ClientSide) -> None:
        """Let ``steps`` be captured anew where something that they hold has changed."""
        self._side = side if side.acts else PLAIN
        standing = isinstance(getattr(self.optimizer, "rate", None), Tensor)
        captured_with = (None if standing else learning_rate, self.settings, self._side)
        if captured_with != self._captured_with:
            steps.forget()
            self._captured_with = captured_with

    def _batches(self, samples: int, plan: ClientPlan, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(plan.epochs):
            yield from epoch_batches(samples, plan.batch_size, generator, merge_single_tail=self.merges)

    def _step(
        self,
        inputs: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        side: ClientSide,
        told: Progress | None,
    ) -> tuple[Tensor, Macs]:
        """Return the loss of a step, and the MACs of one image; ``told`` looks at the samples' losses."""
        clear_gradients(self.parameters)
        outputs, macs = self.forward(inputs, generator)
        logits = side.logits(outputs)
        if told is not None:
            told.look(example_losses(logits, labels))
        loss = side.loss(classification_loss(logits, labels), logits, labels)
        with self._fused(side):
            loss.backward()
        side.gradient(self.parameters)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        side.direction(self.parameters)
        self.optimizer.step()
        side.stepped(self.parameters)
        return loss.detach(), macs

    def _fused(self, side: ClientSide) -> AbstractContextManager[None]:
        """Return where the backward pass takes steps of the optimiser, if nobody looks at its gradients."""
        looked_at = side.acts or self.config.clip_norm is not None
        if looked_at or not isinstance(self.optimizer, SGD):
            return nullcontext()
        return self.optimizer.fused()


@dataclass(frozen=True)
class PlainForward:
    """The forward pass of a network as it is; the same operations in every step."""

    model: nn.Module
    macs: Macs
    """Of one image."""

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Macs]:
        """Return the outputs, and the MACs of one image; nothing is drawn."""
        del generator
        return self.model(inputs), self.macs
