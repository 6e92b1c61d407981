"""Memory that training takes, counted from the layers."""

from fedfmd.costs.macs import FLOAT32_BYTES, ModelCost

ALLOWANCE_PERCENT = 115
WEIGHT_COPIES = 3
"""Of the parameters in training: weights, gradients, momentum."""


def training_bytes(cost: ModelCost, batch_size: int, *, compiled: bool = True) -> int:
    """Estimate the peak memory of training in float32 with momentum.

    Weights, gradients and momentum; the output of every layer, kept for the backward pass; twice the largest
    of them, as the gradients that are passed on; and an allowance for the scratch space of libraries. Without
    the ``compiled`` formulation a dynamic layer also keeps its scaled input, its unscaled output and every
    sample's own kernel; KernelWarehouse always does. A ResNet-18 was measured 5 to 13 percent above the sum
    without the allowance; networks of some 10 MB may need twice the estimate.
    """
    state = cost.state_elements + (WEIGHT_COPIES - 1) * cost.parameters
    kept = cost.activation_elements
    largest = max((layer.activation_elements for layer in cost.layers), default=0)
    storing = [d for d in cost.layers if d.kernel_elements and (d.stores_kernel or not compiled)]
    kept += sum(d.input_elements + d.activation_elements + d.kernel_elements for d in storing)
    largest = max(largest, *(d.kernel_elements for d in storing)) if storing else largest
    return FLOAT32_BYTES * (state + batch_size * (kept + 2 * largest)) * ALLOWANCE_PERCENT // 100
