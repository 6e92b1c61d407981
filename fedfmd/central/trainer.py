"""Centralised training of one network: an epoch, an evaluation, and the state between them.

All randomness of an epoch follows from (seed, epoch), so the state after a whole epoch is the weights, the
momentum and the moving average, and a resumed run goes on with the same bits (on the CPU).
"""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.building import initial_network, temperature_schedule
from fedfmd.central.images import Pictures
from fedfmd.central.schedule import learning_rate
from fedfmd.central.world import World
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.central import TrainConfig
from fedfmd.data.augment import epoch_batches, merged_tail
from fedfmd.data.dataset import Dataset
from fedfmd.errors import UserError
from fedfmd.nn import Temperatures, set_temperature
from fedfmd.nn.starting import load_initial
from fedfmd.nn.stepping import stepping
from fedfmd.nn.vector import Layout, carried
from fedfmd.seeds import generator, repeated_draws
from fedfmd.training.evaluation import evaluate
from fedfmd.training.graphs import CapturedStep
from fedfmd.wire.testing import NOTHING, Evaluation

MOMENTUM, AVERAGE = "momentum", "average"
OnStep = Callable[[int, int], None]
"""Called after each step with the epoch and the images seen in it."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What an epoch of training did."""

    loss: float
    """Mean over the images, each at the step that used it; not finite when training diverged."""
    samples: int
    steps: int
    seconds: float
    learning_rate: float
    """Of the last step."""


class CentralTrainer:
    """Trains the config's network on a dataset, on one device of each process of the ``world``.

    The gradient is the mean over the global batch for any number of processes. BatchNorm normalises within a
    process's part of the batch, as usual, and the leader's statistics are the ones kept.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        train: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        world: World,
    ):
        self.config, self.recipe, self.world, self.device = config, train, world, device
        self.pictures, self.test_pictures = Pictures.of(dataset, device, augment=train.augment)
        if len(self.pictures) < 2 * world.size:
            needed = f"at least {2 * world.size}, two for each process"
            raise UserError(f"{dataset.name}: {len(self.pictures)} training images; needed: {needed}")
        self.model: nn.Module = initial_network(config, dataset).to(device)
        if train.channels_last:
            _put_channels_last(self.model, device)
        self.layout = Layout.of(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False) if train.ema else None
        self.network = world.wrap(self.model)
        self.parameters = list(self.model.parameters())
        self.optimizer = _sgd(self.parameters, train)
        self.rate = train.learning_rate
        self.captured = self._captured_step()
        self.steps = 0
        self._temperature = temperature_schedule(config.temperature, train.epochs)
        torch.backends.cudnn.benchmark = True

    def begin_from(self, file: Path) -> None:
        """Take what fits of the weights in a file, before the first step."""
        load_initial(self.model, file)
        if self.average is not None:
            self.average.load_state_dict(self.model.state_dict())

    @property
    def evaluated_model(self) -> nn.Module:
        """The moving average if there is one, else the network that is trained."""
        return self.average if self.average is not None else self.model

    def temperatures(self, epoch: int) -> Temperatures:
        """Return the temperatures of the last step of an epoch, the first of which is 1.

        What has been trained is what is measured: the next step may be a stair further down, at which a
        network that has never been there guesses.
        """
        steps = self.steps_per_epoch
        return self._temperatures_at(epoch, (steps - 1) / steps)

    def _temperatures_at(self, epoch: int, progress: float) -> Temperatures:
        """Return the temperatures when a share of the epoch's steps is done."""
        moves = self.recipe.temperature_every == "step"
        return self._temperature(epoch - 1 + (progress if moves else 0))

    def train_epoch(self, epoch: int, on_step: OnStep) -> EpochResult:
        """Train for one epoch, the first of which is 1."""
        rng = generator(self.config.seed, "train-epoch", epoch)
        with nullcontext() if self.captured is None else self.captured.graphs.beside(), repeated_draws(rng):
            return self._train_epoch(epoch, rng, on_step)

    def _train_epoch(self, epoch: int, rng: torch.Generator, on_step: OnStep) -> EpochResult:
        self.network.train()
        batches = self._batches(rng)
        loss, seen = torch.zeros((), device=self.device), 0
        started = time.perf_counter()
        for number, batch in enumerate(batches):
            self._set_learning_rate(epoch - 1 + number / len(batches))
            set_temperature(self.model, self._temperatures_at(epoch, number / len(batches)))
            loss += self._step(batch, rng) * len(batch)
            seen += len(batch)
            on_step(epoch, seen)
        mean = float(self.world.total(loss)) / seen  # waits for the device
        return EpochResult(
            loss=mean,
            samples=seen,
            steps=len(batches),
            seconds=time.perf_counter() - started,
            learning_rate=self.rate,
        )

    def evaluate(self, epoch: int, pictures: Pictures | None = None) -> tuple[Evaluation, float]:
        """Measure on ``pictures``, by default the test set.

        Returns the counts of all processes, and the seconds it took. In float32 whatever the training's
        precision: the file holds the very network that is measured.
        """
        pictures = pictures or self.test_pictures
        model = self.evaluated_model
        set_temperature(model, self.temperatures(epoch))
        self.world.align(model.buffers())
        start, stop = self.world.share(len(pictures))
        images, labels = pictures.images[start:stop], pictures.labels[start:stop]
        size = self.config.evaluation.batch_size
        own = NOTHING
        started = time.perf_counter()
        if len(labels):
            own = evaluate(model, images, labels, pictures.augment, size)
        sums = [own.examples, own.correct, own.correct_top5, own.loss_sum]
        counts = torch.tensor(sums, dtype=torch.float64, device=self.device)
        examples, correct, correct_top5, loss_sum = self.world.total(counts).tolist()
        seconds = time.perf_counter() - started
        return Evaluation(int(examples), int(correct), int(correct_top5), loss_sum), seconds

    def state(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the network as a vector, and what else training needs to go on: momentum, moving average."""
        rest = {}
        if self.recipe.momentum:
            buffers = [self.optimizer.state[p]["momentum_buffer"] for p in self.parameters]
            rest[MOMENTUM] = _flat(buffers)
        if self.average is not None:
            rest[AVERAGE] = self._vector(self.average)
        rest["steps"] = torch.tensor([self.steps])
        return self._vector(self.model), rest

    def load(self, vector: Tensor, rest: dict[str, Tensor]) -> None:
        """Take over what ``state`` gave."""
        self._fill(self.model, vector)
        if self.average is not None:
            self._fill(self.average, rest[AVERAGE])
        if self.recipe.momentum:
            parts = rest[MOMENTUM].split([p.numel() for p in self.parameters])
            for parameter, part in zip(self.parameters, parts, strict=True):
                buffer = torch.empty_like(parameter).copy_(part.view_as(parameter))
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        self.steps = int(rest["steps"])

    @cached_property
    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return len(self._batches(torch.Generator()))

    def _batches(self, rng: torch.Generator) -> list[Tensor]:
        batches = epoch_batches(len(self.pictures), self.recipe.batch_size, rng)
        return merged_tail(batches, 2 * self.world.size)  # BatchNorm needs two images in every process

    def _step(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        """Make a step; gives this process's part of the batch's mean loss."""
        inputs, labels = self.pictures.batch(batch, rng, self.world.share(len(batch)))
        if self.captured is not None and len(batch) == self.recipe.batch_size:
            loss = self.captured(inputs, labels)
        else:
            loss = self._learn(inputs, labels, len(batch))
        self.steps += 1
        self._follow()
        return loss

    def _captured_step(self) -> CapturedStep | None:
        """Return what replays full batches on a GPU, where it is the only one; the rate is in its memory."""
        if self.device.type != "cuda" or self.world.size > 1:
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(self.rate, device=self.device)
        return CapturedStep(lambda inputs, labels: self._learn(inputs, labels, len(labels)), self.device)

    def _learn(self, inputs: Tensor, labels: Tensor, images: int) -> Tensor:
        """Move the network by this process's part of a batch of ``images``; gives its part of the loss."""
        with self._precision():
            scores = self.network(inputs)
        smoothing = self.recipe.label_smoothing
        loss = cross_entropy(scores.float(), labels, label_smoothing=smoothing, reduction="sum") / images
        self.optimizer.zero_grad(set_to_none=True)
        with self._stepping():
            (loss * self.world.size).backward()  # the processes' gradients are averaged, not summed
        self.optimizer.step()
        return loss.detach()

    def _stepping(self) -> AbstractContextManager[None]:
        """Return where the backward pass of the only process takes steps of the optimiser, on the CPU."""
        if self.device.type != "cpu" or self.world.size > 1:
            return nullcontext()
        recipe, state = self.recipe, self.optimizer.state
        return stepping(
            self.parameters,
            [state[p]["momentum_buffer"] for p in self.parameters] if recipe.momentum else [],
            learning_rate=self.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the network, faster at first: then it holds little yet but the start."""
        if self.average is None:
            return
        decay = min(self.recipe.ema, (1 + self.steps) / (10 + self.steps))
        states = (carried(m) for m in (self.average, self.model))
        average, state = ([own[name] for name in self.layout.names] for own in states)
        torch._foreach_lerp_(average, state, 1 - decay)

    def _set_learning_rate(self, epochs_done: float) -> None:
        self.rate = learning_rate(self.recipe, epochs_done)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.rate)
            else:
                group["lr"] = self.rate

    def _precision(self) -> AbstractContextManager[object]:
        enabled = self.recipe.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _vector(self, model: nn.Module) -> Tensor:
        state = carried(model)
        return _flat([state[name].detach() for name in self.layout.names])

    def _fill(self, model: nn.Module, vector: Tensor) -> None:
        state = model.state_dict()
        for name, view in self.layout.views(vector).items():
            state[name].copy_(view)


def _put_channels_last(model: nn.Module, device: torch.device) -> None:
    """Change the static kernels' layout in memory; the five dimensions of dynamic ones know none.

    Raises ``UserError`` where a processor's oneDNN would write past its memory: in the gradient of a strided
    1x1 convolution of fewer than 8 channels in this layout (seen with PyTorch 2.14.1).
    """
    if device.type == "cpu" and any(map(_narrow_shortcut, model.modules())):
        raise UserError(
            "train.channels_last = true: crashes PyTorch on a processor where a strided 1x1 convolution has "
            "fewer than 8 channels; set a larger model.width, or leave train.channels_last out"
        )
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _narrow_shortcut(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and module.in_channels < 8


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).cpu() for t in tensors])


def _sgd(parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.SGD:
    """Return the optimiser, with a velocity of zero from the first step on."""
    optimizer = torch.optim.SGD(
        parameters,
        lr=train.learning_rate,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        fused=True,
    )
    if train.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer
