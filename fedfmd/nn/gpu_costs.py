"""What a dynamic convolution costs on a GPU, counted: bytes of memory, operations, and a choice by both.

Counted for one sample of a training step, forward and backward, and without what a batch shares: the K
kernels, their gradients, the optimiser. So a choice does not depend on the batch. Each part of a formulation
is a kernel of its own that is bound by memory or by arithmetic; the time is taken to be the sum of both.

N are the elements of a mixed kernel, P the output pixels, K the kernels, C the elements of the columns, X
and Y those of the input and the output:

| | operations | elements moved |
| --- | --- | --- |
| `static` | 6 N P | 3 X + 3 Y |
| `plain`, `implicit` | 6 N P | 3 X + 3 Y + 6 N |
| `unfold` | 6 N P | 2 X + 3 Y + 6 N + 5 C |
| `kfold` | 6 K N P | 2 X + 3 Y + 5 C + 8 K Y |

6 N: a mixed kernel is written, read for the output and for the input's gradient; its own gradient is
written, and read for the gradients of the shared kernels and of the attention. 5 C: columns are written and
read twice, their gradient written and read. 8 K Y: the K results are written, scaled (a read and a write) and
summed, and their gradients likewise.

Bytes are taken to move as fast as a large copy, and each formulation to compute at the rate that its measured
times leave for the operations (`RATES`): a twentieth to a fifth of large products for one product per
sample, a sixth to two fifths for `kfold`'s one product of the batch. So `implicit` wins where pixels are many
and `kfold` where kernels are large.

Measured on an H100 (`benchmarks/figures/gpu.json`): the 3x3 layers of ResNet-18, 64 to 512 channels, K = 4,
batch 128, in TF32; of those in bfloat16 the first three. The choice is the fastest candidate in each of these
rows. Not measured by layer: other networks, float32 without TF32, other GPUs, K other than 4. Therefore
`implicit` is taken only where its tiles are as full as in the measured layers (`_suits_implicit`): networks
of 16 to 64 channels on 32 x 32 images keep `unfold` and `kfold`.

`plain` is no candidate, although it is the fastest for 64 channels at 32 x 32 in TF32 (0.73 ms, `implicit`
0.92): that is the algorithm that cuDNN finds by trying, which local training does not let it; with a stride,
on smaller maps and in bfloat16 `plain` takes up to 9 times as long as the choice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch

GpuFormulation = Literal["unfold", "kfold", "implicit"]

CANDIDATES: tuple[GpuFormulation, ...] = ("implicit", "unfold", "kfold")
"""What a layer may take by the counts; of two alike the first."""

BYTES_PER_SECOND = 3.03e12
"""Of device memory: a large copy on an H100, reads and writes counted; measured."""
LARGE_PRODUCTS = {"half": 7.45e14, "tf32": 3.845e14, "single": 4.5e13, "double": 4.5e13}
"""Operations a second of large matrix products on an H100; half (bfloat16, float16) and TF32 measured.

The others are three quarters of the peak, which is assumed.
"""
RATES: dict[GpuFormulation, dict[str, float]] = {
    "unfold": {"half": 4.0e13, "tf32": 4.7e13, "single": 4.5e13, "double": 4.5e13},
    "kfold": {"half": 1.27e14, "tf32": 1.61e14, "single": 4.5e13, "double": 4.5e13},
    "implicit": {"half": 1.38e14, "tf32": 4.3e13},
}
"""Operations a second beside the moving of bytes: means over the layers that are named above.

For `implicit` over those that fill its tiles. Plain float32 and float64 are assumed to be bound by large
products' rate; `implicit`, which sums in float32, does not take part there.
"""
TILE_PIXELS, TILE_CHANNELS = 128, 64
"""Fewer pixels leave a tile of `implicit` partly empty; fewer channels were not measured."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A dynamic convolution as one sample meets it."""

    kernels: int
    outputs: int
    inputs: int
    taps: int
    """Height times width of a kernel."""
    groups: int
    input_pixels: int
    pixels: int
    """Of the output."""
    copies: bool
    """Whether columns are a copy: with one tap at every pixel they are the input itself."""

    @property
    def kernel_elements(self) -> int:
        """Elements of a mixed kernel."""
        return self.outputs * self.inputs // self.groups * self.taps


@dataclass(frozen=True)
class GpuCost:
    """Of one sample's part in a training step."""

    operations: int
    """Multiplications and additions, counted as two."""
    elements: int
    """Read or written in device memory."""

    def floor_seconds(self, dtype: torch.dtype) -> float:
        """Return the time of whichever takes longer: nothing that does and moves as much is faster."""
        moved = self.elements * dtype.itemsize / BYTES_PER_SECOND
        return max(moved, self.operations / LARGE_PRODUCTS[_unit(dtype)])


def cost(shape: LayerShape, formulation: str) -> GpuCost:
    """Count one sample of a training step in a formulation of the table above."""
    operations = 6 * shape.kernel_elements * shape.pixels
    outputs, inputs = shape.outputs * shape.pixels, shape.inputs * shape.input_pixels
    columns = 5 * shape.inputs * shape.taps * shape.pixels * shape.copies
    if formulation == "static":
        return GpuCost(operations, 3 * inputs + 3 * outputs)
    if formulation in ("plain", "implicit"):
        return GpuCost(operations, 6 * shape.kernel_elements + 3 * inputs + 3 * outputs)
    if formulation == "unfold":
        return GpuCost(operations, 6 * shape.kernel_elements + 2 * inputs + 3 * outputs + columns)
    folds = 8 * shape.kernels * outputs
    return GpuCost(shape.kernels * operations, 2 * inputs + 3 * outputs + columns + folds)


def seconds(shape: LayerShape, formulation: GpuFormulation, dtype: torch.dtype) -> float:
    """Return the expected time of one sample of a training step, with products in ``dtype``."""
    counted = cost(shape, formulation)
    moved = counted.elements * dtype.itemsize / BYTES_PER_SECOND
    return moved + counted.operations / RATES[formulation][_unit(dtype)]


def fastest(
    shape: LayerShape, dtype: torch.dtype, candidates: Collection[GpuFormulation] = CANDIDATES
) -> GpuFormulation:
    """Return the candidate of the least expected time, with products in ``dtype``."""
    suited = [name for name in candidates if name != "implicit" or _suits_implicit(shape, dtype)]
    return min(suited, key=lambda name: seconds(shape, name, dtype))


def _suits_implicit(shape: LayerShape, dtype: torch.dtype) -> bool:
    """Whether its kernels can run, have columns to spare, and full tiles."""
    full = shape.pixels >= TILE_PIXELS and min(shape.inputs, shape.outputs) >= TILE_CHANNELS
    return shape.groups == 1 and shape.copies and full and _unit(dtype) in RATES["implicit"]


def _unit(dtype: torch.dtype) -> str:
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "double"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "single"
