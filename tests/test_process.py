"""Settings that every process which trains makes once."""

import pytest
import torch

from fedfmd.machine.process import prepare_process


@pytest.mark.parametrize("tf32", [True, False])
def test_products_on_a_gpu_have_the_precision_of_convolutions(tf32: bool) -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        convolutions.allow_tf32 = tf32
        prepare_process(torch.get_num_threads())
        assert products.allow_tf32 == tf32
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
