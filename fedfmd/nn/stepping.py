"""Steps of SGD within the backward pass: of what is finished there, no gradient has to be in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fedfmd.nn import kernels


@contextmanager
def stepping(
    parameters: Sequence[Tensor],
    velocities: Sequence[Tensor],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> Iterator[None]:
    """Let kernels among ``parameters`` take their step of SGD in a backward pass of this thread, done here.

    Each has its velocity, of its shape, in ``velocities``, or none has with a ``momentum`` of 0. The compiled
    dynamic convolution on the CPU makes the step, bit for bit that of PyTorch's fused SGD, and leaves the
    gradient absent, so that the optimiser leaves the parameter alone. Every other parameter gets its gradient
    as always: also kernels that are used more than once, have a gradient already, or hooks that look at it.
    """
    moved = [i for i, p in enumerate(parameters) if p.dim() == 5 and p.device.type == "cpu"]
    if not moved or not kernels.available():
        yield
        return
    weights, own = [parameters[i] for i in moved], [velocities[i] for i in moved if velocities]
    torch.ops.fedfmd.step_in_backward(weights, own, learning_rate, momentum, weight_decay, nesterov)
    try:
        yield
    finally:
        torch.ops.fedfmd.step_in_backward([], [], 0.0, 0.0, 0.0, False)
