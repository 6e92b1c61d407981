"""The formulations on a CUDA device against the float64 oracle on the CPU."""

import pytest
import torch
from torch import Tensor

from fedfmd.nn.functional import choose, dynamic_conv2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SHAPES = [(64, 64, 32, 3, 1), (128, 256, 16, 3, 2), (512, 512, 4, 3, 1), (256, 64, 8, 1, 1)]


def run(shape: tuple[int, ...], device: str, dtype: torch.dtype, formulation: str) -> list[Tensor]:
    inputs, outputs, size, window, stride = shape
    rng = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=rng, dtype=torch.float64).to(device, dtype).requires_grad_()

    x, weight, attention = (
        normal(4, inputs, size, size),
        normal(4, outputs, inputs, window, window),
        normal(4, 4),
    )
    c, f = normal(4, inputs), normal(4, outputs)
    options = {"stride": stride, "padding": window // 2, "formulation": formulation}
    y = dynamic_conv2d(x, weight, attention, input_scale=c, output_scale=f, **options)
    gradients = torch.autograd.grad(y.square().sum(), [x, weight, attention, c, f])
    return [t.detach().double().cpu() for t in (y, *gradients)]


@pytest.mark.parametrize("formulation", ["plain", "unfold", "auto"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_oracle(shape: tuple[int, ...], formulation: str) -> None:
    oracle = run(shape, "cpu", torch.float64, "plain")
    with torch.backends.cudnn.flags(allow_tf32=False):
        results = run(shape, "cuda", torch.float32, formulation)
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(results, oracle, strict=True)]
    assert max(errors) < 1e-5


def test_auto_runs_under_autocast() -> None:
    x = torch.randn(4, 64, 8, 8, device="cuda", requires_grad=True)
    weight = torch.randn(4, 64, 64, 3, 3, device="cuda", requires_grad=True)
    assert choose(x, weight) == "unfold"
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = dynamic_conv2d(x, weight, torch.rand(4, 4, device="cuda"), padding=1)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert weight.grad.isfinite().all()
