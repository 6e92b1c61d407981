"""The Triton kernels in their interpreter, on a processor, against PyTorch's convolution in float64.

In a process of its own: whether kernels are interpreted is decided when Triton is imported.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfmd.nn.functional import convolve_each, dynamic_conv2d

CASES: list[dict[str, Any]] = [
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"window": (2, 3), "stride": (2, 1), "padding": (3, 0), "dilation": (1, 2)},
    {"window": (1, 1), "options": (False, True, True, False)},
    {"inputs": 40, "outputs": 20, "size": (13, 12), "padding": 2, "dilation": 2},
    {"inputs": 1, "outputs": 3, "kernels": 1},
]


def main() -> None:
    """Run in the other process."""
    from test_functional import Case, assert_same

    for options in CASES:
        case = Case(**options)
        assert_same(case.run("implicit"), case.run("plain", torch.float64))
    x, kernels = torch.randn(2, 3, 6, 5), torch.randn(2, 4, 3, 3, 3)
    found, expected = (
        convolve_each(x, kernels, stride=2, padding=1, formulation=name) for name in ("implicit", "plain")
    )
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_equals_the_oracle_in_the_interpreter() -> None:
    code = "import test_implicit; test_implicit.main()"
    places = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": places}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_is_refused_on_a_processor() -> None:
    x, weight, attention = torch.randn(1, 3, 5, 5), torch.randn(2, 4, 3, 3, 3), torch.rand(1, 2)
    with pytest.raises(ValueError, match="'implicit' needs a CUDA device"):
        dynamic_conv2d(x, weight, attention, formulation="implicit")
