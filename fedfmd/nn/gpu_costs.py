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
summed, and their gradients likewise. `unfold` therefore wins where pixels are many and `kfold` where kernels
are large: for K = 4 and 3x3 taps the line lies between 64 and 256 pixels with TF32 or bfloat16, and below 64
in plain float32.

`plain` and `implicit` are counted as if they ran at the rate of large products, which `plain` does not and of
`implicit` is not known: only what is in `CANDIDATES` is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

GpuFormulation = Literal["unfold", "kfold", "implicit"]

CANDIDATES: tuple[GpuFormulation, ...] = ("unfold", "kfold")
"""What a layer may take by the counts; of two alike the first."""

BYTES_PER_SECOND = 3.0e12
"""Of device memory: an H100's large copy, reads and writes counted."""
OPERATIONS_PER_SECOND = {"half": 6.0e14, "tf32": 3.0e14, "single": 4.5e13, "double": 4.5e13}
"""Of large matrix products on an H100, by what they are computed in: half is bfloat16 or float16.

Three quarters of the peak, which is assumed, not measured.
"""


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

    def seconds(self, dtype: torch.dtype) -> float:
        """Return the time of both, one after the other, with products in ``dtype``."""
        moved = self.elements * dtype.itemsize / BYTES_PER_SECOND
        return moved + self.operations / OPERATIONS_PER_SECOND[_unit(dtype)]

    def floor_seconds(self, dtype: torch.dtype) -> float:
        """Return the time of whichever takes longer: nothing that does and moves as much is faster."""
        moved = self.elements * dtype.itemsize / BYTES_PER_SECOND
        return max(moved, self.operations / OPERATIONS_PER_SECOND[_unit(dtype)])


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


def fastest(shape: LayerShape, dtype: torch.dtype) -> GpuFormulation:
    """Return the formulation of the least time by the counts, with products in ``dtype``."""
    return min(CANDIDATES, key=lambda name: cost(shape, name).seconds(dtype))


def _unit(dtype: torch.dtype) -> str:
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "double"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "single"
