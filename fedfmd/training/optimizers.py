"""The clients' optimisers: PyTorch's own steps, by its functional interface.

The classes of ``torch.optim`` load the whole of PyTorch's compiler when the first one is made: a second and a
half, and 150 MB, in every process that trains. The arithmetic here is theirs, the state is ours.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fedfmd.config.sections.client import ClientConfig
from fedfmd.contracts import make
from fedfmd.errors import UserError
from fedfmd.nn.stepping import stepping
from fedfmd.registry import register


class LocalOptimizer(Protocol):
    """Steps along the gradients of its parameters; the next client starts it afresh.

    One with an attribute ``replays`` that is true does the same to the same tensors in every step, without a
    look at their values, so that on a GPU a step can be captured once; and once for all learning rates if
    ``rate`` is a tensor. ``copies(config)``, if there is one, says how many numbers are kept for a parameter,
    which estimates of memory count; else it is 2.
    """

    def restart(self, learning_rate: float) -> None:
        """Forget every step, and take another learning rate."""
        ...

    def step(self) -> None:
        """Move the parameters by their gradients; those without one stay."""
        ...


@register("optimizer", "sgd")
class SGD:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    The velocity and, on a GPU, the learning rate stay where they are, so that steps can be replayed.
    """

    replays = True

    @staticmethod
    def copies(config: ClientConfig) -> int:
        """Return how many numbers are kept for a parameter."""
        return 1 if config.momentum else 0

    def __init__(self, parameters: Sequence[Tensor], config: ClientConfig):
        self.parameters = parameters
        self.config = config
        self.rate = _standing_rate(parameters)
        self.velocity: list[Tensor] = []

    def restart(self, learning_rate: float) -> None:
        """Forget every step, and take another learning rate."""
        self.rate = _moved_rate(self.rate, learning_rate)
        if self.velocity:
            _clear(self.velocity)
        elif self.config.momentum:
            self.velocity = _zeros(self.parameters)

    def fused(self) -> AbstractContextManager[None]:
        """Let a backward pass that is done here take as many of the steps as it can."""
        if isinstance(self.rate, Tensor):  # on a GPU, where none are taken so
            return nullcontext()
        return stepping(
            self.parameters,
            self.velocity,
            learning_rate=self.rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            nesterov=self.config.nesterov,
        )

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients; those without one stay."""
        moved = _with_gradient(self.parameters)
        sgd(
            [self.parameters[i] for i in moved],
            _gradients(self.parameters),
            [self.velocity[i] for i in moved if self.velocity],
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            lr=self.rate,
            dampening=0.0,
            nesterov=self.config.nesterov,
            maximize=False,
            fused=True,
        )


@register("optimizer", "adamw")
class AdamW:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``; beta1 is the config's momentum."""

    replays = True
    BETA2 = 0.999
    EPSILON = 1e-8

    @staticmethod
    def copies(config: ClientConfig) -> int:
        """Return how many numbers are kept for a parameter: means and squares."""
        del config
        return 2

    def __init__(self, parameters: Sequence[Tensor], config: ClientConfig):
        self.parameters = parameters
        self.config = config
        self.rate = _standing_rate(parameters)
        self.means, self.squares = _zeros(parameters), _zeros(parameters)
        self.steps = [torch.zeros((), device=p.device) for p in parameters]

    def restart(self, learning_rate: float) -> None:
        """Forget every step, and take another learning rate."""
        self.rate = _moved_rate(self.rate, learning_rate)
        _clear([*self.means, *self.squares, *self.steps])

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients; those without one stay."""
        moved = _with_gradient(self.parameters)
        adamw(
            [self.parameters[i] for i in moved],
            _gradients(self.parameters),
            [self.means[i] for i in moved],
            [self.squares[i] for i in moved],
            [],
            [self.steps[i] for i in moved],
            amsgrad=False,
            beta1=self.config.momentum,
            beta2=self.BETA2,
            lr=self.rate,
            weight_decay=self.config.weight_decay,
            eps=self.EPSILON,
            maximize=False,
            fused=True,
        )


class PyTorchOptimizer:
    """Any optimiser of PyTorch, made to forget between clients."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def restart(self, learning_rate: float) -> None:
        """Forget every step, and take another learning rate."""
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self) -> None:
        """Move the parameters by their gradients; those without one stay."""
        self.optimizer.step()


def local_optimizer(
    parameters: Sequence[Tensor],
    config: ClientConfig,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> LocalOptimizer:
    """Build the optimiser that ``client.optimizer`` names.

    It is called with the parameters and those of ``config``, ``lr``, ``momentum``, ``weight_decay``,
    ``nesterov`` and its ``options`` that it takes, and may be one of ``torch.optim``. Raises ``UserError``
    for what is no such part.
    """
    known = {key: getattr(config, key) for key in ("momentum", "weight_decay", "nesterov")}
    given = {"config": config, "lr": config.learning_rate, **known, **options}
    made = make("optimizer", config.optimizer, parameters, **given)
    if isinstance(made, torch.optim.Optimizer):
        return PyTorchOptimizer(made)
    if not hasattr(made, "restart"):
        raise UserError(
            f"client.optimizer = {config.optimizer!r}: makes a {type(made).__name__}, which is none of "
            "torch.optim and has no restart(learning_rate)"
        )
    optimizer: LocalOptimizer = made
    return optimizer


def clear_gradients(parameters: Sequence[Tensor]) -> None:
    """Drop the gradients, so that the next ones are written and not added."""
    for parameter in parameters:
        parameter.grad = None


def _standing_rate(parameters: Sequence[Tensor]) -> float | Tensor:
    """Return where a learning rate stands: on a GPU in its memory, where captured steps read it."""
    return torch.zeros((), device=parameters[0].device) if parameters[0].is_cuda else 0.0


def _moved_rate(rate: float | Tensor, new: float) -> float | Tensor:
    return rate.fill_(new) if isinstance(rate, Tensor) else new


def _zeros(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) for p in parameters]


@torch.no_grad()
def _clear(tensors: Sequence[Tensor]) -> None:
    torch._foreach_zero_(list(tensors))


def _with_gradient(parameters: Sequence[Tensor]) -> list[int]:
    return [i for i, p in enumerate(parameters) if p.grad is not None]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
