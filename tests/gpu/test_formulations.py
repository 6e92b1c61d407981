"""The formulations on a CUDA device against the float64 oracle on the CPU, and captured in a graph."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fedfmd.nn import FMDConv2d, ODConv2d
from fedfmd.nn.columns import Window
from fedfmd.nn.functional import Formulation, choose, convolve_each, dynamic_conv2d, implicit_runs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

Shape = tuple[int, int, int, int, int]
SHAPES: list[Shape] = [
    (64, 64, 32, 3, 1),
    (128, 256, 16, 3, 2),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (256, 64, 8, 1, 1),
]
FORMULATIONS: list[Formulation] = ["plain", "unfold", "kfold", "auto"]
SAME_PADDING = Window(padding=(1, 1))


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Products and convolutions without TF32: an error is then the code's."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


def run(
    shape: Shape,
    device: str,
    dtype: torch.dtype,
    formulation: Formulation,
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """The result and all gradients, float64 on the CPU."""
    inputs, outputs, size, window, stride = shape
    rng = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=rng, dtype=torch.float64).to(device, dtype).requires_grad_()

    x, weight, attention = (
        normal(4, inputs, size, size),
        normal(4, outputs, inputs, window, window),
        normal(4, 4),
    )
    c, f, s = normal(4, inputs), normal(4, outputs), normal(4, window * window)
    y = dynamic_conv2d(
        x.contiguous(memory_format=layout),
        weight,
        attention,
        input_scale=c,
        output_scale=f,
        spatial_scale=s,
        stride=stride,
        padding=window // 2,
        formulation=formulation,
    )
    gradients = torch.autograd.grad(y.square().sum(), [x, weight, attention, c, f, s])
    return [t.detach().double().cpu() for t in (y, *gradients)]


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}to{s[1]}at{s[2]}k{s[3]}")
def test_equals_the_oracle(shape: Shape, layout: torch.memory_format) -> None:
    oracle = run(shape, "cpu", torch.float64, "plain")
    errors = {}
    for formulation in FORMULATIONS:
        results = run(shape, "cuda", torch.float32, formulation, layout)
        errors[formulation] = max(
            ((a - b).norm() / b.norm()).item() for a, b in zip(results, oracle, strict=True)
        )
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[4]], ids=str)
def test_triton_equals_the_oracle(shape: Shape) -> None:
    oracle = run(shape, "cpu", torch.float64, "plain")
    results = run(shape, "cuda", torch.float32, "implicit")
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(results, oracle, strict=True)]
    assert max(errors) < 1e-5, errors


@pytest.mark.parametrize("formulation", [*FORMULATIONS, "implicit"])
def test_autocast_computes_in_its_type(formulation: Formulation) -> None:
    rng = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(4, 64, 8, 8, device="cuda", generator=rng, requires_grad=True)
    weight = torch.randn(4, 64, 64, 3, 3, device="cuda", generator=rng, requires_grad=True)
    attention = torch.rand(4, 4, device="cuda", generator=rng)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = dynamic_conv2d(x, weight, attention, padding=1, formulation=formulation)
    assert y.dtype == torch.bfloat16
    oracle = dynamic_conv2d(x.double(), weight.double(), attention.double(), padding=1, formulation="plain")
    assert ((y - oracle).norm() / oracle.norm()).item() < 0.02
    found, expected = (torch.autograd.grad(t.double().square().sum(), weight)[0] for t in (y, oracle))
    assert ((found - expected).norm() / expected.norm()).item() < 0.03


def test_auto_unfolds_large_maps_and_folds_small_ones() -> None:
    large, small = torch.empty(1, 64, 32, 32, device="cuda"), torch.empty(1, 512, 4, 4, device="cuda")
    unfolds = "implicit" if implicit_runs(large.device) else "unfold"
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert choose(large, torch.empty(4, 64, 64, 3, 3, device="cuda"), SAME_PADDING) == unfolds
        assert choose(small, torch.empty(4, 512, 512, 3, 3, device="cuda"), SAME_PADDING) == "kfold"


def test_kernels_of_each_sample_are_convolved_alike_in_any_batch() -> None:
    chosen = set()
    for batch in (1, 2, 64):
        x, kernels = torch.empty(batch, 64, 4, 4), torch.empty(batch, 64, 64, 3, 3)
        chosen.add(choose(x.cuda(), kernels.cuda(), SAME_PADDING, shared=False))
    assert chosen == {"unfold"}


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("formulation", ["unfold", "implicit"])
def test_kernels_of_each_sample(formulation: Formulation) -> None:
    """As KernelWarehouse has them; under autocast they arrive in float32."""
    rng = torch.Generator().manual_seed(0)
    x, kernels = torch.randn(4, 64, 16, 16, generator=rng), torch.randn(4, 64, 64, 3, 3, generator=rng)
    oracle = convolve_each(x.double(), kernels.double(), padding=1, formulation="plain")
    y = convolve_each(x.cuda(), kernels.cuda(), padding=1, formulation=formulation)
    assert ((y.double().cpu() - oracle).norm() / oracle.norm()).item() < 1e-5
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rough = convolve_each(x.cuda(), kernels.cuda(), padding=1, formulation=formulation)
    assert rough.dtype == torch.bfloat16
    assert ((rough.double().cpu() - oracle).norm() / oracle.norm()).item() < 0.02


@pytest.mark.parametrize("size", [4, 16], ids=["small", "large"])
@pytest.mark.parametrize("layer", [FMDConv2d, ODConv2d])
def test_a_captured_layer_repeats_its_gradients(layer: type[FMDConv2d], size: int) -> None:
    """Capture fails where the host waits for the device or a kernel is launched elsewhere."""
    torch.manual_seed(0)
    module = layer(64, 64, 3, padding=1).cuda()
    x = torch.randn(8, 64, size, size, device="cuda")
    parameters = list(module.parameters())

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(module(x).square().mean(), parameters))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    for replayed, eager in zip(captured, step(), strict=True):
        assert torch.allclose(replayed, eager, rtol=1e-3, atol=1e-6)
