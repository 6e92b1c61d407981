"""The least time that a CPU needs for a convolution, forward and backward, by two ceilings that are measured.

A pass takes at least as long as its arithmetic at the rate of a large convolution, and at least as long as
its memory traffic at the rate of large copies. With B samples, X and Y the elements of the input and of the
output of all samples, N those of a kernel and M a sample's multiply-accumulates (none for padding):

| pass | MACs, static | MACs, dynamic | elements moved, K kernels (static: 1) |
| --- | --- | --- | --- |
| output | B M | B (M + K N) | X + K N + Y |
| gradient of the input | B M | B (M + K N) | Y + K N + X |
| gradients of kernels and mix | B M | B (M + 2 K N) | X + Y + 2 K N (static: N) |

K N: a sample's kernel is mixed for the output and again for the input's gradient; its own gradient is spread
over the K kernels and multiplied with each of them. That is what the compiled formulation does; one that
keeps the mixed kernels saves a K N and moves 2 B N elements. Attention, scales and copies between layouts are
left out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F

BYTES = 4
"""Of a float."""


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches with the threads that PyTorch has."""

    macs_per_second: float
    bytes_per_second: float

    def __str__(self) -> str:
        """Say both in the usual units."""
        return f"{self.macs_per_second / 1e9:.0f} GMAC/s and {self.bytes_per_second / 1e9:.0f} GB/s"

    def seconds(self, macs: float, elements: float) -> float:
        """Return the time of whichever takes longer."""
        return max(macs / self.macs_per_second, BYTES * elements / self.bytes_per_second)


def measure_ceilings(*, channels: int = 512, elements: int = 1 << 26, repeats: int = 9) -> Ceilings:
    """Time a large convolution and a copy, the best of ``repeats``; a copy reads and writes each element.

    The convolution is a matrix product as oneDNN computes it, which on some processors is twice as fast as
    PyTorch's own product.
    """
    x = torch.randn(32, channels, 16, 16).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 1, 1)
    source, target = torch.ones(elements), torch.zeros(elements)
    with torch.inference_mode():
        product = min(_seconds(lambda: F.conv2d(x, weight)) for _ in range(repeats))
        copy = min(_seconds(lambda: target.copy_(source)) for _ in range(repeats))
    return Ceilings(32 * channels**2 * 16**2 / product, 2 * BYTES * elements / copy)


def floor_seconds(
    ceilings: Ceilings, layer: tuple[int, int, int, int, int], *, batch: int, kernels: int
) -> float:
    """Return the least time of one convolution, forward and backward; with ``kernels`` 0 it is a static one.

    ``layer`` is its input and output channels, the side of the map, that of the kernel, and the stride.
    """
    inputs, outputs, size, window, stride = layer
    reached = F.conv2d(
        torch.ones(1, 1, size, size), torch.ones(1, 1, window, window), stride=stride, padding=window // 2
    )
    kernel = inputs * outputs * window**2
    direct = batch * inputs * outputs * int(reached.sum())
    mixing = batch * kernels * kernel
    moved = batch * (inputs * size**2 + outputs * prod(reached.shape))
    shared = max(1, kernels) * kernel
    return 2 * ceilings.seconds(direct + mixing, moved + shared) + ceilings.seconds(
        direct + 2 * mixing, moved + (2 if kernels else 1) * shared
    )


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
