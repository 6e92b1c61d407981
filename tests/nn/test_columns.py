"""The columns of a convolution are those of PyTorch's unfold, in either order, with their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedfmd.nn.columns import Window, columns, pixels_first, rows

WINDOWS = [
    pytest.param((3, 3), Window(padding=(1, 1)), id="3x3"),
    pytest.param((3, 3), Window(stride=(2, 2), padding=(1, 1)), id="every second pixel"),
    pytest.param((2, 3), Window((2, 1), (3, 0), (1, 2), 2), id="uneven"),
    pytest.param((1, 1), Window(groups=2), id="the input itself"),
    pytest.param((1, 1), Window(stride=(2, 2)), id="1x1, every second pixel"),
]


def image(*, channels_last: bool = False) -> Tensor:
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("by_pixel", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kernel", "window"), WINDOWS)
def test_rows_times_columns_is_the_convolution(
    kernel: tuple[int, int], window: Window, channels_last: bool, by_pixel: bool
) -> None:
    x, weight = image(channels_last=channels_last), torch.randn(6, 4 // window.groups, *kernel).double()
    seen = columns(x, kernel, window, by_pixel=by_pixel)
    by_group = rows(weight, by_pixel=by_pixel).unflatten(0, (window.groups, -1))
    y = by_group @ (seen.mT if by_pixel else seen)
    oracle = F.conv2d(x, weight, None, *window)
    assert torch.allclose(y.flatten(1, 2), oracle.flatten(2))
    mine, theirs = (torch.autograd.grad(t.square().sum(), x)[0] for t in (y, oracle))
    assert torch.allclose(mine, theirs)


@pytest.mark.parametrize(("kernel", "window"), WINDOWS[:3])
def test_order_by_channel_is_that_of_unfold(kernel: tuple[int, int], window: Window) -> None:
    x = image()
    expected = F.unfold(x, kernel, window.dilation, window.padding, window.stride)
    assert torch.equal(columns(x, kernel, window, by_pixel=False).flatten(1, 2), expected)


@pytest.mark.parametrize("by_pixel", [False, True])
def test_is_differentiable_twice(by_pixel: bool) -> None:
    kernel, window = (3, 2), Window((2, 1), (1, 1), (1, 2), 2)

    def squares(x: Tensor) -> Tensor:
        return columns(x, kernel, window, by_pixel=by_pixel).square()

    assert torch.autograd.gradgradcheck(squares, image())


def test_half_precision_sums_are_rounded_once() -> None:
    """A pixel in nine columns: nine times a number whose odd multiples bfloat16 cannot hold."""
    x = torch.zeros(1, 1, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    for by_pixel in (False, True):
        seen = columns(x, (3, 3), Window(padding=(1, 1)), by_pixel=by_pixel)
        (grad,) = torch.autograd.grad(seen, x, torch.full_like(seen, 1 + 2**-7))
        exact = torch.tensor(9 * (1 + 2**-7), dtype=torch.bfloat16)
        assert grad[0, 0, 2, 2] == exact


def test_memory_says_which_order_is_read_in_one_go() -> None:
    assert pixels_first(image(channels_last=True))
    assert not pixels_first(image())
    assert not pixels_first(torch.zeros(2, 1, 5, 5))  # both orders are one
