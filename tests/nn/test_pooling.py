"""ReLU and pooling at once: the bits of PyTorch's own operations, gradients included."""

import pytest
import torch
import torch.nn.functional as F

from fedfmd.nn import kernels
from fedfmd.nn.pooling import relu_pool

needs_kernel = pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")


def results(pool: object, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = pool(x)  # type: ignore[operator]
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, x, gradient)]


@needs_kernel
@pytest.mark.parametrize("size", [(2, 2), (5, 7), (10, 10), (16, 17), (28, 28), (33, 40), (3, 64)])
@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_has_the_bits_of_relu_and_pooling_ties_included(size: tuple[int, int], steps: int) -> None:
    """The fewer steps there are between whole numbers, the more elements of a window are equal."""
    x = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(0)).mul(steps).round().div(steps)
    x = x.transpose(0, 1)  # not contiguous
    expected = results(lambda x: F.max_pool2d(F.relu(x), 2), x)
    for ours, theirs in zip(results(relu_pool, x), expected, strict=True):
        assert torch.equal(ours, theirs)


@needs_kernel
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("columns", [2, 16])
def test_not_a_number_is_passed_on(place: int, columns: int) -> None:
    x = torch.ones(1, 1, 2, columns)
    x[0, 0, place // 2, place % 2] = torch.nan
    y = relu_pool(x.requires_grad_())
    assert y[0, 0, 0, 0].isnan()
    assert (y[0, 0, 0, 1:] == 1).all()


def test_without_a_gradient_it_is_pytorch_s_own() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(relu_pool(x), F.max_pool2d(F.relu(x), 2))
