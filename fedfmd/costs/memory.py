"""Memory that training and inference take, followed layer by layer through a step.

What a step holds is known: weights, the optimiser's copies of them, gradients as the backward pass makes
them, every layer's output until the backward pass has used it, and what a layer needs while it runs. The peak
is where their sum is largest, and for large networks that is the end of the backward pass, where the
gradients are complete and the activations gone.

A convolution reads and writes blocked copies of its maps (oneDNN's layout, or the compiled kernels' own): in
the backward pass its gradient by the input stands beside blocked copies of the input and of the output's
gradient. A dynamic convolution that is not compiled, and KernelWarehouse always, also stores every sample's
own kernel.

The heap of the C library is larger than what lies in it. An aligned block does not fit into a hole of its own
size, and small blocks that live longer settle in the holes of large ones; a dynamic layer, with its attention
vectors, leaves more of them. ``STATIC_HEAP`` and ``DYNAMIC_HEAP`` are by how much the heap outgrows the bytes
that come and go in a training step, ``INFERENCE_HEAP`` in inference, where blocks go in the order in which
they came: measured with glibc (``benchmarks/memory.py``). Which holes there are is chance: the same inference
of 32 images by a static ResNet-8 took 10.4 to 15.3 MB in five processes, and over networks and batches it is
1.0 to 2.0 times what lies there. Weights and the like take no more than their size.
"""

import math
from itertools import accumulate

from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import LayerCost, ModelCost

STATIC_HEAP, DYNAMIC_HEAP, INFERENCE_HEAP = 1.5, 1.85, 1.3
CODE_BYTES = 180_000
"""Machine code and descriptors that oneDNN makes for the three passes of a convolution in training."""


def training_bytes(
    cost: ModelCost, batch_size: int, *, compiled: bool = True, optimizer_copies: int = 1
) -> int:
    """Estimate the peak memory of training steps in float32 on a CPU.

    ``optimizer_copies`` is how many numbers the optimiser keeps per parameter: 1 with momentum, 2 for AdamW.
    Without the ``compiled`` formulation a dynamic layer also keeps its scaled input, its unscaled output and
    every sample's own kernel.
    """
    layers = cost.layers
    heap = DYNAMIC_HEAP if any(layer.kernel_elements for layer in layers) else STATIC_HEAP
    kept = accumulate((_kept(layer, compiled) for layer in layers), initial=math.prod(cost.input_shape))
    gradients = accumulate((layer.parameters for layer in reversed(layers)), initial=0)
    moments = zip(layers, list(kept)[1:], list(gradients)[:0:-1], strict=True)
    peak = max(
        (
            heap * batch_size * (before + _working(layer, compiled)) + after
            for layer, before, after in moments
        ),
        default=0.0,
    )
    standing = cost.state_elements + optimizer_copies * cost.parameters
    convolutions = sum(layer.forward_macs.conv > 0 for layer in layers)
    return int(FLOAT32_BYTES * (standing + peak)) + CODE_BYTES * convolutions


def inference_bytes(cost: ModelCost, batch_size: int, *, compiled: bool = True) -> int:
    """Estimate the peak memory of classifying a batch in float32 on a CPU.

    Beside what a layer works on, the input of the block that it is in waits for the block's end.
    """
    peak = max((layer.input_elements + _working(layer, compiled) for layer in cost.layers), default=0)
    moving = INFERENCE_HEAP * batch_size * (math.prod(cost.input_shape) + peak)
    return int(FLOAT32_BYTES * (cost.state_elements + moving))


def _kept(layer: LayerCost, compiled: bool) -> int:
    """Count the elements of one sample that a layer leaves for the backward pass."""
    if not _stores_kernel(layer, compiled):
        return layer.activation_elements
    return layer.input_elements + 2 * layer.activation_elements + layer.kernel_elements


def _working(layer: LayerCost, compiled: bool) -> int:
    """Count the elements of one sample that a layer works on, in either direction.

    They are its input and output, or the gradients of both, the blocked copies of a convolution, and kernels
    of the sample's own with their gradient.
    """
    maps = layer.input_elements + layer.activation_elements
    kernels = 2 * layer.kernel_elements if _stores_kernel(layer, compiled) else 0
    return (2 if layer.forward_macs.conv else 1) * maps + kernels


def _stores_kernel(layer: LayerCost, compiled: bool) -> bool:
    return bool(layer.kernel_elements) and (layer.stores_kernel or not compiled)
