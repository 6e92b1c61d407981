"""What formulations cost on a GPU: counts by hand, and the choice that follows."""

import torch

from fedfmd.nn.gpu_costs import LayerShape, cost, fastest


def layer(channels: int, size: int, **others: int) -> LayerShape:
    """A 3x3 convolution of ResNet-18."""
    return LayerShape(
        **{"kernels": 4, "groups": 1, "copies": True, "taps": 9} | others,
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


def test_large_maps_unfold_and_large_kernels_fold() -> None:
    chosen = {
        size: fastest(layer(c, size), torch.bfloat16) for c, size in ((64, 32), (128, 16), (256, 8), (512, 4))
    }
    assert chosen == {32: "unfold", 16: "unfold", 8: "kfold", 4: "kfold"}


def test_one_kernel_needs_no_mixing() -> None:
    assert fastest(layer(64, 8, kernels=1), torch.bfloat16) == "kfold"


def test_slower_products_favour_fewer_of_them() -> None:
    """Without TF32 a GPU multiplies float32 many times more slowly, and moves it as before."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        chosen = {}
        for tf32 in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            chosen[tf32] = fastest(layer(256, 8), torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    assert chosen == {True: "kfold", False: "unfold"}
