"""ReLU and max-pooling in one pass, with the bits of PyTorch's own operations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedfmd.nn import kernels


def relu_pool(x: Tensor) -> Tensor:
    """Return ``max_pool2d(relu(x), 2)`` of images (B, C, H, W): (B, C, H // 2, W // 2).

    Training in float32 on the CPU takes a compiled pass: PyTorch's pooling costs as much there as a small
    convolution.
    """
    trained = torch.is_grad_enabled() and x.requires_grad
    if trained and x.device.type == "cpu" and x.dtype == torch.float32 and kernels.available():
        y: Tensor = _ReluPool.apply(x)
        return y
    return F.max_pool2d(F.relu(x), 2)


class _ReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.fedfmd.relu_pool(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        spread: Tensor = torch.ops.fedfmd.relu_pool_backward(gradient, *ctx.saved_tensors)
        return spread
