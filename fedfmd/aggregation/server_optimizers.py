"""Server optimisers: they turn the mean update of a round into the next global state."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fedfmd.aggregation.exact_sum import CHUNK
from fedfmd.contracts import blamed, make
from fedfmd.errors import RunError, UserError
from fedfmd.registry import register
from fedfmd.tensors import described, unstorable


class ServerOptimizer(Protocol):
    """Turns the mean update of a round into the next global state."""

    state: dict[str, Tensor]
    """All that it keeps from one step to the next, by name; checkpoints hold it."""

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Return the next state, float32 (elements,), from the current one and the float64 mean update."""
        ...


@dataclass
class FedAvg:
    """FedAvg, and with ``momentum`` FedAvgM (Hsu et al. 2019): v = momentum * v + update; w += lr * v."""

    learning_rate: float = 1.0
    momentum: float = 0.0
    state: dict[str, Tensor] = field(default_factory=dict)

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Apply one round's mean update."""
        velocity = mean_update
        if self.momentum:
            previous = self.state.get("velocity")
            velocity = mean_update if previous is None else previous.mul(self.momentum).add_(mean_update)
            self.state["velocity"] = velocity
        return _updated(weights, velocity, self.learning_rate)


@dataclass
class FedAdaptive:
    """FedAdam and FedYogi (Reddi et al. 2021, algorithm 2; no bias correction, m starts at 0, v at tau^2).

    m = b1 m + (1-b1) d;  v_adam = b2 v + (1-b2) d^2;  v_yogi = v - (1-b2) d^2 sign(v - d^2);
    w += lr * m / (sqrt(v) + tau).
    """

    kind: Literal["adam", "yogi"]
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    state: dict[str, Tensor] = field(default_factory=dict)

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Apply one round's mean update."""
        first = self.state.setdefault("first_moment", torch.zeros_like(mean_update))
        second = self.state.setdefault("second_moment", torch.full_like(mean_update, self.tau**2))
        square = mean_update.square()
        first.mul_(self.beta1).add_(mean_update, alpha=1 - self.beta1)
        if self.kind == "adam":
            second.mul_(self.beta2).add_(square, alpha=1 - self.beta2)
        else:
            second.sub_(square.mul((second - square).sign_()), alpha=1 - self.beta2)
        return (
            weights.double().addcdiv_(first, second.sqrt().add_(self.tau), value=self.learning_rate).float()
        )


@register("strategy", "fedavg")
def fedavg(learning_rate: float) -> ServerOptimizer:
    """Return plain averaging, with a step size."""
    return FedAvg(learning_rate)


@register("strategy", "fedavgm")
def fedavgm(learning_rate: float, momentum: float) -> ServerOptimizer:
    """Return averaging with server momentum."""
    return FedAvg(learning_rate, momentum)


@register("strategy", "fedadam", step_size=0.01)
def fedadam(learning_rate: float, momentum: float, beta2: float, tau: float) -> ServerOptimizer:
    """Return FedAdam; ``momentum`` is its first beta."""
    return FedAdaptive("adam", learning_rate, momentum, beta2, tau)


@register("strategy", "fedyogi", step_size=0.01)
def fedyogi(learning_rate: float, momentum: float, beta2: float, tau: float) -> ServerOptimizer:
    """Return FedYogi; ``momentum`` is its first beta."""
    return FedAdaptive("yogi", learning_rate, momentum, beta2, tau)


def server_optimizer(strategy: str, **options: Any) -> ServerOptimizer:
    """Build the optimiser that ``server.strategy`` names.

    Of ``options``, which are ``learning_rate, momentum, beta2, tau`` and those of the config's table
    ``[options.strategy]``, it gets those that it takes. Raises ``UserError`` for what is no such optimiser.
    """
    optimizer: ServerOptimizer = make("strategy", strategy, **options)
    if not isinstance(optimizer.state, dict):
        raise UserError(
            f"server.strategy = {strategy!r}: its state is a {type(optimizer.state).__name__}, and must be a "
            "dictionary of tensors"
        )
    return optimizer


def stepped(optimizer: ServerOptimizer, weights: Tensor, mean_update: Tensor) -> Tensor:
    """Return the next state, float32 (elements,), by anybody's optimiser.

    Raises ``RunError`` when it fails, or gives anything else.
    """
    what = f"server optimiser {type(optimizer).__qualname__}: step"
    with blamed(f"{what} fails", RunError):
        moved = optimizer.step(weights, mean_update)
    if not isinstance(moved, Tensor) or moved.is_complex() or moved.shape != weights.shape:
        shape = tuple(weights.shape)
        raise RunError(f"{what} gives {described(moved)}, where the next state has the shape {shape}")
    if fault := unstorable(optimizer.state):
        raise RunError(f"server optimiser {type(optimizer).__qualname__}: {fault}")
    return moved.float()


def _updated(weights: Tensor, update: Tensor, factor: float) -> Tensor:
    """Return ``weights + factor * update``, float32 (elements,), rounded once; ``update`` is float64.

    By chunks, whose float64 stays in the cache: the sum of a large model needs no memory of its own.
    """
    result = torch.empty_like(weights)
    for place, weight, change in zip(*(part.split(CHUNK) for part in (result, weights, update)), strict=True):
        place.copy_(weight.double().add_(change, alpha=factor))
    return result
