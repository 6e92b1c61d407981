"""This machine's effective MAC/s in training, by kind of operator: so device seconds know the model.

Each kind is timed on its own, forward and backward, in shapes that a ResNet meets: convolutions, the mixing
of K kernels for each sample, the attention's small layers on averaged maps, and a classifier. With one thread
the time is the processor's own, which other processes disturb less, divided by the share of a processor that
the control group allows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from fedfmd.costs.conventions import TRAINING_MACS_PER_FORWARD
from fedfmd.machine.environment import describe_environment
from fedfmd.records.schema import Json

BATCH = 32
WARM_UP = 2


@dataclass(frozen=True)
class OperatorCase:
    """What to run in one shape, and the MACs of its forward pass."""

    kind: str
    shape: str
    run: Callable[[], Tensor]
    macs: int


@dataclass(frozen=True)
class MeasuredOperator:
    """What was measured of an operator."""

    kind: str
    shape: str
    macs_per_second: float
    """By the fastest turn: other processes can only slow an operator down."""
    spread: float
    """Of the turns' seconds: the median above the fastest, as a share of it."""


def calibrate(*, repeats: int = 30, threads: int) -> Json:
    """Measure one shape of every kind in ``repeats`` interleaved turns after a warm-up, in MAC/s."""
    torch.set_num_threads(threads)
    rates = measured_rates([_conv(64, 16), _aggregation(64), _attention(64), _linear(512)], repeats=repeats)
    return {
        "macs_per_second": {rate.kind: rate.macs_per_second for rate in rates},
        "threads": threads,
        "environment": describe_environment(),
    }


def measured_rates(
    operators: Sequence[OperatorCase], *, repeats: int, share: float = 1.0
) -> list[MeasuredOperator]:
    """Time operators in interleaved turns; a second of the clock has ``share`` seconds of the processor."""
    seconds: list[list[float]] = [[] for _ in operators]
    for repeat in range(WARM_UP + repeats):
        for operator, turns in zip(operators, seconds, strict=True):
            start = clock()
            operator.run().sum().backward()
            if repeat >= WARM_UP:
                turns.append((clock() - start) / share)
    return [
        MeasuredOperator(
            operator.kind,
            operator.shape,
            TRAINING_MACS_PER_FORWARD * operator.macs / min(turns),
            median(turns) / min(turns) - 1,
        )
        for operator, turns in zip(operators, seconds, strict=True)
    ]


def clock() -> float:
    """Return seconds: of one thread its processor time, of several the wall's."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def shapes() -> Mapping[str, Sequence[OperatorCase]]:
    """Return every kind's operators from narrow to wide, as the stages of ResNets have them."""
    return {
        "conv": [_conv(16, 32), _conv(32, 16), _conv(64, 16), _conv(128, 16), _conv(256, 8)],
        "aggregation": [_aggregation(16), _aggregation(64), _aggregation(128)],
        "attention": [_attention(16), _attention(64), _attention(256)],
        "linear": [_linear(64), _linear(512)],
    }


def _tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def _conv(channels: int, side: int) -> OperatorCase:
    x, weight = _tensor(BATCH, channels, side, side), _tensor(channels, channels, 3, 3)
    macs = BATCH * weight.numel() * side * side
    return OperatorCase(
        "conv", f"{channels} channels, {side} pixels", lambda: F.conv2d(x, weight, padding=1), macs
    )


def _aggregation(channels: int) -> OperatorCase:
    share, kernels = _tensor(BATCH, 4), _tensor(4, channels * channels * 9)
    macs = BATCH * kernels.numel()
    return OperatorCase("aggregation", f"4 kernels of {channels} channels", lambda: share @ kernels, macs)


def _attention(channels: int) -> OperatorCase:
    hidden = max(channels // 4, 16)
    pooled, squeeze, excite = _tensor(BATCH, channels), _tensor(hidden, channels), _tensor(channels, hidden)
    macs = BATCH * (squeeze.numel() + excite.numel())

    def run() -> Tensor:
        return torch.sigmoid(F.linear(F.relu(F.linear(pooled, squeeze)), excite))

    return OperatorCase("attention", f"{channels} channels", run, macs)


def _linear(features: int) -> OperatorCase:
    x, weight = _tensor(BATCH, features), _tensor(100, features)
    return OperatorCase("linear", f"{features} features", lambda: F.linear(x, weight), BATCH * weight.numel())
