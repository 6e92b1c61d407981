"""Steps of SGD in the backward pass: PyTorch's own, bit for bit, or none."""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedfmd.nn import kernels
from fedfmd.nn.functional import dynamic_conv2d
from fedfmd.nn.stepping import stepping

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")

RATE = 0.05
SHAPES = [  # kernels, outputs, inputs, groups, window, size of the input
    (1, 8, 16, 2, 3, 6),
    (2, 40, 72, 1, 1, 5),
    (3, 17, 24, 1, 3, 9),
    (4, 100, 70, 1, 3, 4),
    (4, 12, 20, 4, 3, 6),
    (4, 130, 132, 2, 3, 3),
]


def random_kernels(shape: tuple[int, ...] = (2, 8, 8, 3, 3)) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 10)


def convolved(
    weight: Tensor, seed: int = 1, *, groups: int = 1, size: int = 5, **options: Any
) -> list[Tensor]:
    """Return the result for five samples, and what else it was computed from."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(5, weight.shape[2] * groups, size, size, generator=rng).requires_grad_()
    attention = torch.rand(5, len(weight), generator=rng).requires_grad_()
    scale = torch.rand(5, x.shape[1], generator=rng).requires_grad_()
    padding = weight.shape[3] // 2
    y = dynamic_conv2d(x, weight, attention, input_scale=scale, padding=padding, groups=groups, **options)
    return [y, x, attention, scale]


def three_steps(shape: tuple[int, ...], rates: dict[str, Any], *, fused: bool) -> list[Tensor]:
    """Return the kernels, their velocity and all other gradients after three steps."""
    count, outputs, inputs, groups, window, size = shape
    weight = random_kernels((count, outputs, inputs // groups, window, window))
    optimizer = torch.optim.SGD([weight], lr=RATE, **rates, fused=True)
    velocities = [torch.zeros_like(weight, requires_grad=False)] if rates["momentum"] else []
    if velocities:
        optimizer.state[weight]["momentum_buffer"] = velocities[0]
    seen = list[Tensor]()
    for step in range(3):
        optimizer.zero_grad()
        y, *given = convolved(weight, step, groups=groups, size=size)
        with stepping([weight], velocities, learning_rate=RATE, **rates) if fused else nullcontext():
            (y**2).sum().backward()
        moved_already = fused and weight.numel() % 8 == 0
        assert (weight.grad is None) == moved_already
        optimizer.step()
        seen += [t.grad for t in given if t.grad is not None]
    return [weight.detach(), *velocities, *seen]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="PyTorch's SGD rounds in its own way there")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_bits_are_those_of_pytorch_for_any_number_of_threads(
    shape: tuple[int, ...], momentum: float, nesterov: bool, weight_decay: float
) -> None:
    rates = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    before = torch.get_num_threads()
    expected = three_steps(shape, rates, fused=False)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fused = three_steps(shape, rates, fused=True)
            assert all(torch.equal(a, b) for a, b in zip(expected, fused, strict=True))
    finally:
        torch.set_num_threads(before)


def steps_of(weight: Tensor) -> AbstractContextManager[None]:
    rates: dict[str, Any] = {
        "learning_rate": RATE,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "nesterov": False,
    }
    return stepping([weight], [torch.zeros_like(weight, requires_grad=False)], **rates)


def backward(weight: nn.Parameter) -> None:
    convolved(weight)[0].sum().backward()


def twice(weight: nn.Parameter) -> None:
    (convolved(weight)[0].sum() + convolved(weight, 2)[0].sum()).backward()


def in_the_loss(weight: nn.Parameter) -> None:
    (convolved(weight)[0].sum() + (weight**2).sum()).backward()


def after_another_pass(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    backward(weight)


def one_of_two_graphs(weight: nn.Parameter) -> None:
    first, second = (convolved(weight, seed)[0].sum() for seed in (1, 2))
    first.backward()
    second.backward()


def watched(weight: nn.Parameter) -> None:
    weight.register_hook(lambda gradient: 2 * gradient)
    backward(weight)


def watched_afterwards(weight: nn.Parameter) -> None:
    weight.register_post_accumulate_grad_hook(lambda parameter: None)
    backward(weight)


def of_chosen_inputs(weight: nn.Parameter) -> None:
    y, x, *_ = convolved(weight)
    weight.grad, _ = torch.autograd.grad(y.sum(), [weight, x])


def kept_graph(weight: nn.Parameter) -> None:
    y = convolved(weight)[0].sum()
    y.backward(retain_graph=True)
    y.backward()


def in_plain_operations(weight: nn.Parameter) -> None:
    convolved(weight, formulation="plain")[0].sum().backward()


def of_a_view(weight: nn.Parameter) -> None:
    convolved(weight[:, :4])[0].sum().backward()


@pytest.mark.parametrize(
    "work",
    [
        twice,
        in_the_loss,
        after_another_pass,
        one_of_two_graphs,
        watched,
        watched_afterwards,
        of_chosen_inputs,
        kept_graph,
        in_plain_operations,
        of_a_view,
    ],
)
def test_what_needs_the_gradient_gets_it_as_always(work: Callable[[nn.Parameter], None]) -> None:
    usual, weight = random_kernels(), random_kernels()
    start = weight.detach().clone()
    work(usual)
    with steps_of(weight):
        work(weight)
    assert torch.equal(weight, start)
    assert usual.grad is not None
    assert weight.grad is not None
    assert torch.equal(weight.grad, usual.grad)


def test_other_kernels_and_later_passes_get_their_gradients() -> None:
    moved, other = random_kernels(), random_kernels()
    with suppress(KeyError), steps_of(moved):
        backward(other)
        backward(moved)
        raise KeyError
    assert other.grad is not None
    assert moved.grad is None
    backward(moved)
    assert moved.grad is not None


def test_a_graph_that_remembers_the_kernels_is_refused_once_they_moved() -> None:
    weight, factor = random_kernels(), torch.ones(1, requires_grad=True)
    remembers = (weight.detach() * factor).sum()
    with steps_of(weight):
        backward(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        remembers.backward()
