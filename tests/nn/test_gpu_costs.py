"""What formulations cost on a GPU: counts by hand, and the choice that follows."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fedfmd.nn.gpu_costs import CANDIDATES, LayerShape, cost, fastest

FIGURES = Path(__file__).parents[2] / "benchmarks" / "figures" / "gpu.json"


def layer(channels: int, size: int, **others: int) -> LayerShape:
    """A 3x3 convolution of ResNet-18."""
    return LayerShape(
        **{"kernels": 4, "groups": 1, "copies": True, "taps": 9} | cast(dict[str, Any], others),
        outputs=channels,
        inputs=channels,
        input_pixels=size**2,
        pixels=size**2,
    )


def test_counts_of_the_smallest_layer() -> None:
    """Two inputs, two outputs, one tap, one pixel: 4 elements of a kernel, 2 of input, output and column."""
    tiny = layer(2, 1, kernels=3, taps=1)
    assert tiny.kernel_elements == 4
    assert cost(tiny, "static").operations == 6 * 4
    assert cost(tiny, "static").elements == 3 * 2 + 3 * 2
    assert cost(tiny, "plain").elements == 6 * 4 + 3 * 2 + 3 * 2
    assert cost(tiny, "unfold").elements == 6 * 4 + 2 * 2 + 3 * 2 + 5 * 2
    assert cost(tiny, "kfold").operations == 3 * 6 * 4
    assert cost(tiny, "kfold").elements == 2 * 2 + 3 * 2 + 5 * 2 + 8 * 3 * 2


def test_without_a_copy_there_are_no_columns() -> None:
    apart = [cost(layer(8, 4, taps=1, copies=copies), "unfold").elements for copies in (True, False)]
    assert apart[0] - apart[1] == 5 * 8 * 16


@pytest.fixture(autouse=True)
def tf32_products() -> Iterator[None]:
    """As whatever trains in fedfmd has them on a GPU."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def measured_rows() -> list[dict[str, Any]]:
    document = json.loads(FIGURES.read_text())
    rows: list[dict[str, Any]] = document["sections"]["layers"]["rows"]
    return rows


@pytest.mark.parametrize("row", measured_rows(), ids=lambda row: f"{row['layer']}-{row['precision']}")
@pytest.mark.parametrize("conv", ["fmdconv", "odconv"])
def test_the_choice_is_the_fastest_that_was_measured(row: dict[str, Any], conv: str) -> None:
    inputs, outputs, size, stride = map(int, re.findall(r"\d+", row["layer"]))
    shape = replace(layer(inputs, size), outputs=outputs, pixels=(size // stride) ** 2, input_pixels=size**2)
    dtype = {"tf32": torch.float32, "bf16": torch.bfloat16}[row["precision"]]
    times = {name: row[f"{conv} {name} ms"] for name in CANDIDATES}
    assert fastest(shape, dtype) == min(times, key=times.__getitem__)


def test_without_triton_large_maps_unfold_and_large_kernels_fold() -> None:
    sizes = ((64, 32), (128, 16), (256, 8), (512, 4))
    chosen = {size: fastest(layer(c, size), torch.bfloat16, ("unfold", "kfold")) for c, size in sizes}
    assert chosen == {32: "unfold", 16: "unfold", 8: "kfold", 4: "kfold"}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (layer(16, 32), torch.bfloat16),
        (layer(64, 8), torch.bfloat16),
        (layer(128, 16, groups=2), torch.bfloat16),
        (layer(128, 16, taps=1, copies=False), torch.bfloat16),
        (layer(128, 16), torch.float64),
    ],
    ids=["narrow", "few pixels", "groups", "no columns", "double"],
)
def test_implicit_is_not_taken_beyond_its_measurement(shape: LayerShape, dtype: torch.dtype) -> None:
    assert fastest(layer(128, 16), torch.bfloat16) == "implicit"
    assert fastest(shape, dtype) != "implicit"


def test_one_kernel_needs_no_mixing() -> None:
    assert fastest(layer(64, 8, kernels=1), torch.bfloat16) == "kfold"


def test_slower_products_favour_fewer_of_them() -> None:
    """Without TF32 a GPU multiplies float32 many times more slowly, and moves it as before."""
    assert fastest(layer(256, 8), torch.float32) == "kfold"
    torch.backends.cuda.matmul.allow_tf32 = False
    assert fastest(layer(256, 8), torch.float32) == "unfold"
