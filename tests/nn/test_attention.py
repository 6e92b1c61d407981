"""The compiled attention branches are PyTorch's own operations in float64, in values and in all gradients."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedfmd.nn import kernels
from fedfmd.nn.attention import Head, attended, with_averages
from fedfmd.nn.functional import forced_formulation
from fedfmd.nn.norm import BatchNorm

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")
NORMS: dict[str, Any] = {"ln": nn.LayerNorm, "bn": BatchNorm, "none": lambda _: nn.Identity()}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Branch(nn.Module):
    """A branch with one head for each function, all of different sizes."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, norm: str, bias: bool, temperature: float):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(inputs, hidden, bias)
        self.norm = NORMS[norm](hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, size) for size in (outputs, outputs + 3, 1))
        self.temperature = temperature
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, pooled: Tensor) -> list[Tensor]:
        """Read (B, inputs)."""
        functions: Any = ("softmax", "sigmoid", "logits")
        heads = [Head(f, name, self.temperature) for f, name in zip(self.layers, functions, strict=True)]  # type: ignore[arg-type]
        return attended(pooled, self.fc, heads, self.norm)


def found(branch: Branch, pooled: Tensor, used: int = 3) -> list[Tensor]:
    """Return the results, and the gradients by input and parameters where only the first are used."""
    x = pooled.clone().requires_grad_()
    results = branch(x)
    loss = sum((r * random(*r.shape, seed=i).to(r)).sum() for i, r in enumerate(results[:used]))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, [x, *branch.parameters()], materialize_grads=True)
    return [*(r.detach() for r in results), *gradients]


def assert_alike(ours: list[Tensor], oracle: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(ours, oracle, strict=True):
        assert one.shape == other.shape
        assert one.dtype == torch.float32
        assert (one.double() - other).norm() <= tolerance * other.norm().clamp_min(
            0.1
        )  # LayerNorm of two has the gradient 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, 70) for _ in range(3))),
    batch=st.integers(2, 40),
    norm=st.sampled_from(sorted(NORMS)),
    bias=st.booleans(),
    temperature=st.sampled_from([1.0, 3.0, 34.0]),
    used=st.integers(1, 3),
)
def test_is_the_float64_oracle(
    sizes: tuple[int, int, int], batch: int, norm: str, bias: bool, temperature: float, used: int
) -> None:
    """Of any sizes, with heads that nothing depends on among them."""
    hidden = max(2, sizes[1])  # a single one has no deviation
    branch = Branch(sizes[0], hidden, sizes[2], norm=norm, bias=bias, temperature=temperature)
    pooled = random(batch, sizes[0], seed=9)
    oracle = found(copy.deepcopy(branch).double(), pooled, used)
    # ReLU has no slope at 0: what is nearer than rounding may fall on either side.
    assert_alike(found(branch, pooled.float(), used), oracle, 2e-4 if norm == "bn" else 5e-5)


def test_a_sample_does_not_depend_on_the_others_nor_bits_on_threads() -> None:
    branch = Branch(300, 40, 500, norm="ln", bias=False, temperature=2.0)
    pooled = random(70, 300, seed=1).float()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, one = branch(pooled[:3]), found(branch, pooled)
        torch.set_num_threads(4)
        several = found(branch, pooled)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))
    assert all(torch.equal(a, b[:3]) for a, b in zip(alone, one, strict=False))


def test_not_a_number_is_passed_on() -> None:
    branch = Branch(5, 16, 7, norm="none", bias=True, temperature=1.0)
    pooled = torch.ones(2, 5)
    pooled[0, 3] = torch.nan
    for result in branch(pooled):
        assert result[0].isnan().all()
        assert result[1].isfinite().all()


def test_extreme_logits_have_no_overflow() -> None:
    branch = Branch(4, 16, 6, norm="none", bias=False, temperature=1.0)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.mul_(1e3)
    softmax, sigmoid, _ = branch(random(8, 4, seed=2).float())
    assert torch.allclose(softmax.sum(1), torch.ones(8))
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()


@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (2, 20, 4, 4), (1, 1, 1, 1), (4, 70, 7, 9)])
def test_averages_and_their_gradient(shape: tuple[int, ...]) -> None:
    x = random(*shape, seed=3).float().requires_grad_()
    same, averages = with_averages(x)
    assert torch.equal(same, x)
    torch.testing.assert_close(averages, x.mean((2, 3)), rtol=1e-5, atol=1e-6)
    weights = random(*shape, seed=4).float(), random(*shape[:2], seed=5).float()
    both = torch.autograd.grad((same * weights[0]).sum() + (averages * weights[1]).sum(), x)[0]
    torch.testing.assert_close(both, weights[0] + weights[1][:, :, None, None] / (shape[2] * shape[3]))
    for which in (0, 1):
        result = (with_averages(x)[which] * weights[which]).sum()
        alone = torch.autograd.grad(result, x)[0]
        spread = weights[1][:, :, None, None] / (shape[2] * shape[3])
        torch.testing.assert_close(alone, (weights[0], spread.expand(shape))[which])


def test_a_gradient_that_others_see_stays_as_it_is() -> None:
    """The averages' part is added where the gradient is, unless somebody else holds that."""
    x = random(3, 5, 8, 8, seed=3).float().requires_grad_()
    weights, of_averages = random(3, 5, 8, 8, seed=4).float(), random(3, 5, seed=5).float()
    kept, spread = weights.clone(), of_averages[:, :, None, None] / 64
    same, averages = with_averages(x)
    same.retain_grad()
    torch.autograd.backward([same, averages], [weights, of_averages])
    assert torch.equal(weights, kept)
    assert same.grad is not None
    assert torch.equal(same.grad, kept)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept + spread)


def test_two_derivatives_need_the_plain_formulation() -> None:
    branch = Branch(5, 16, 7, norm="ln", bias=False, temperature=1.0)
    x = random(3, 5, seed=6).float().requires_grad_()
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(branch(x)[0].square().sum(), x, create_graph=True)
    with forced_formulation("plain"):
        first = torch.autograd.grad(branch(x)[0].square().sum(), x, create_graph=True)[0]
        assert torch.autograd.grad(first.sum(), x)[0].isfinite().all()
