"""Sums of client updates that no order can change, and the server optimisers that apply their mean.

Floating-point addition depends on order and grouping, so two runs with other workers would drift apart.
Here every weighted update is first rounded to a multiple of one quantum that all workers know beforehand;
sums of such multiples below 2**53 quanta are exact in float64, hence equal in any order and grouping (the
pre-rounding idea of Demmel & Nguyen's reproducible summation, 2013). The rounding error of one addend is at
most half a quantum, 2**-53 of the allowed range: far below the float32 resolution of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, frexp, log2
from typing import Literal, Protocol

import torch
from torch import Tensor

CHUNK = 1 << 15
"""Elements handled at a time, so that the float64 intermediates stay in the cache."""
HEADROOM_BITS = 6
"""A client's update may be this many powers of two larger than the largest global weight."""
MANTISSA_BITS = 52


class RejectedUpdateError(ValueError):
    """An update that must not enter the sum: not finite, or beyond the range of the exact sum."""


@dataclass(frozen=True)
class Scale:
    """What every worker must agree on before a round: the sum's range and the weights' unit.

    ``range_exponent``: weighted updates stay below 2**range_exponent in size.
    ``weight_exponent``: weights are multiplied by 2**-weight_exponent, so that they sum to at most 1.
    """

    range_exponent: int
    weight_exponent: int

    @classmethod
    def for_round(cls, state: Tensor, total_weight: float) -> "Scale":
        """Choose the scale from the global ``state`` (elements,) and the cohort's total weight."""
        largest = max(1.0, float(state.abs().max()))
        return cls(frexp(largest)[1] + HEADROOM_BITS, ceil(log2(max(1.0, total_weight))))

    @property
    def quantum(self) -> float:
        """Unit that weighted updates are rounded to."""
        return 2.0 ** (self.range_exponent - MANTISSA_BITS)


@dataclass
class ExactSum:
    """Sum of weighted updates, bit-identical for every order and grouping of the same clients.

    ``quanta`` (elements,) float64 holds integers; ``weight`` is the sum of the integer weights.
    """

    scale: Scale
    quanta: Tensor
    weight: int = 0

    @classmethod
    def zero(cls, elements: int, scale: Scale) -> "ExactSum":
        """Start an empty sum."""
        return cls(scale, torch.zeros(elements, dtype=torch.float64))

    def add(self, update: Tensor, weight: int) -> None:
        """Add ``weight * update``; ``update`` is float32 (elements,), ``weight`` a positive integer.

        Raises ``RejectedUpdateError``, with the sum unchanged, when the update cannot be summed exactly.
        """
        self._check(update, weight)
        factor = weight * 2.0 ** (-self.scale.weight_exponent)
        factor /= self.scale.quantum
        for total, part in zip(self.quanta.split(CHUNK), update.split(CHUNK), strict=True):
            total.add_(part.double().mul_(factor).round_())
        self.weight += weight

    def merge(self, other: "ExactSum") -> None:
        """Add another worker's sum of the same round; an empty sum takes over the other's tensor."""
        if other.scale != self.scale or other.quanta.shape != self.quanta.shape:
            raise ValueError("sums of different rounds or models cannot be merged")
        self.quanta = self.quanta.add_(other.quanta) if self.weight else other.quanta
        self.weight += other.weight

    def mean(self) -> Tensor:
        """Weighted mean update, float64 (elements,); zero when nothing was added."""
        if self.weight == 0:
            return torch.zeros_like(self.quanta)
        return self.quanta * (self.scale.quantum * 2.0**self.scale.weight_exponent / self.weight)

    def _check(self, update: Tensor, weight: int) -> None:
        if update.shape != self.quanta.shape or update.dtype != torch.float32:
            expected = tuple(self.quanta.shape)
            raise RejectedUpdateError(
                f"the update is {update.dtype} {tuple(update.shape)}, the model float32 {expected}"
            )
        if not 0 < weight <= 2**self.scale.weight_exponent:
            raise RejectedUpdateError(f"the weight {weight} is not in 1 .. {2**self.scale.weight_exponent}")
        low, high = torch.aminmax(update)
        largest = max(-float(low), float(high))
        if not float("-inf") < float(low) <= float(high) < float("inf"):
            raise RejectedUpdateError("the update holds NaN or infinity")
        if largest * weight >= 2.0 ** (self.scale.range_exponent + self.scale.weight_exponent):
            raise RejectedUpdateError(
                f"the update's largest element, {largest:.3g}, exceeds the range of the exact sum"
            )


class ServerOptimizer(Protocol):
    """Turns the mean update of a round into the next global state."""

    state: dict[str, Tensor]

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Give the next state, float32 (elements,), from the current one and the float64 mean update."""
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
        return weights.double().add_(velocity, alpha=self.learning_rate).float()


@dataclass
class FedAdaptive:
    """FedAdam and FedYogi (Reddi et al. 2021, algorithm 2; no bias correction, both moments start at 0).

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
        second = self.state.setdefault("second_moment", torch.zeros_like(mean_update))
        square = mean_update.square()
        first.mul_(self.beta1).add_(mean_update, alpha=1 - self.beta1)
        if self.kind == "adam":
            second.mul_(self.beta2).add_(square, alpha=1 - self.beta2)
        else:
            second.sub_(square.mul((second - square).sign_()), alpha=1 - self.beta2)
        return (
            weights.double().addcdiv_(first, second.sqrt().add_(self.tau), value=self.learning_rate).float()
        )


def server_optimizer(
    strategy: str,
    *,
    learning_rate: float,
    momentum: float,
    beta2: float,
    tau: float,
    state: Mapping[str, Tensor] | None = None,
) -> ServerOptimizer:
    """Build the optimiser named by ``server.strategy``, continuing from a checkpoint's ``state``."""
    kept = dict(state or {})
    if strategy == "fedavg":
        return FedAvg(learning_rate, state=kept)
    if strategy == "fedavgm":
        return FedAvg(learning_rate, momentum, state=kept)
    kinds: dict[str, Literal["adam", "yogi"]] = {"fedadam": "adam", "fedyogi": "yogi"}
    return FedAdaptive(kinds[strategy], learning_rate, momentum, beta2, tau, kept)
