"""The floors of a convolution on a CPU, by closed forms."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from floors import Ceilings, floor_seconds, measure_ceilings

ARITHMETIC = Ceilings(macs_per_second=1.0, bytes_per_second=float("inf"))
TRAFFIC = Ceilings(macs_per_second=float("inf"), bytes_per_second=4.0)
"""Seconds are MACs with the one, and elements with the other."""


@pytest.mark.parametrize("stride", [1, 2])
def test_a_static_1x1_convolution_has_three_passes(stride: int) -> None:
    layer, pixels = (3, 5, 8, 1, stride), (8 // stride) ** 2
    assert floor_seconds(ARITHMETIC, layer, batch=2, kernels=0) == 3 * 2 * 3 * 5 * pixels
    assert floor_seconds(TRAFFIC, layer, batch=2, kernels=0) == 3 * (2 * (3 * 64 + 5 * pixels) + 15)


def test_taps_on_the_padding_are_no_work() -> None:
    # Of the nine taps the middle row and column reach all 4 pixels a side, the others 3: (4 + 3 + 3)**2.
    assert floor_seconds(ARITHMETIC, (1, 1, 4, 3, 1), batch=1, kernels=0) == 3 * 100


def test_mixing_adds_four_times_the_kernels_of_each_sample() -> None:
    layer, kernel = (6, 4, 8, 3, 1), 6 * 4 * 9
    for kernels in (1, 4):
        static, mixed = (floor_seconds(ARITHMETIC, layer, batch=5, kernels=k) for k in (0, kernels))
        assert mixed - static == 4 * 5 * kernels * kernel
        static, mixed = (floor_seconds(TRAFFIC, layer, batch=5, kernels=k) for k in (0, kernels))
        assert mixed - static == (4 * kernels - 3) * kernel


def test_a_pass_takes_the_longer_of_both() -> None:
    slow = Ceilings(macs_per_second=1.0, bytes_per_second=4.0)
    layer = (16, 16, 8, 3, 1)
    assert floor_seconds(slow, layer, batch=2, kernels=4) == floor_seconds(
        ARITHMETIC, layer, batch=2, kernels=4
    )


def test_a_machine_has_ceilings() -> None:
    found = measure_ceilings(channels=16, elements=4096, repeats=2)
    assert 0 < found.macs_per_second < 1e15
    assert 0 < found.bytes_per_second < 1e14
