"""This machine's effective MAC/s in training, by kind of operator: so device seconds know the model.

Each kind is timed on its own, forward and backward, in sizes that a ResNet meets: a convolution, the mixing
of K kernels for each sample, the attention's small layers on averaged maps, and a classifier.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fedfmd.costs.macs import TRAINING_MACS_PER_FORWARD
from fedfmd.machine.environment import describe_environment
from fedfmd.records.schema import Json

BATCH = 32
WARM_UP = 2
Operator = tuple[Callable[[], Tensor], int]
"""What to run, and the MACs of its forward pass."""


def calibrate(*, repeats: int = 30, threads: int) -> Json:
    """Measure every kind: the fastest of ``repeats`` interleaved turns after a warm-up, in MAC/s.

    The fastest, not the median: other processes can only slow an operator down.
    """
    torch.set_num_threads(threads)
    operators = {
        "conv": _conv(),
        "aggregation": _aggregation(),
        "attention": _attention(),
        "linear": _linear(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in operators}
    for repeat in range(WARM_UP + repeats):
        for name, (run, _) in operators.items():
            start = time.perf_counter()
            run().sum().backward()
            if repeat >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    rates = {
        name: TRAINING_MACS_PER_FORWARD * macs / min(seconds[name]) for name, (_, macs) in operators.items()
    }
    return {"macs_per_second": rates, "threads": threads, "environment": describe_environment()}


def _tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def _conv() -> Operator:
    x, weight = _tensor(BATCH, 64, 16, 16), _tensor(64, 64, 3, 3)
    return lambda: F.conv2d(x, weight, padding=1), BATCH * weight.numel() * 16 * 16


def _aggregation() -> Operator:
    share, kernels = _tensor(BATCH, 4), _tensor(4, 64 * 64 * 9)
    return lambda: share @ kernels, BATCH * kernels.numel()


def _attention() -> Operator:
    pooled, squeeze, excite = _tensor(BATCH, 64), _tensor(16, 64), _tensor(64, 16)
    macs = BATCH * (squeeze.numel() + excite.numel())
    return lambda: torch.sigmoid(F.linear(F.relu(F.linear(pooled, squeeze)), excite)), macs


def _linear() -> Operator:
    x, weight = _tensor(BATCH, 512), _tensor(100, 512)
    return lambda: F.linear(x, weight), BATCH * weight.numel()
