"""Initial weights. One on `meta` is left alone: PyTorch would load its compiler to draw nothing."""

from torch import Tensor, nn


def he_normal_(weight: Tensor) -> None:
    """Draw ``weight`` from N(0, 2 / fan-out) (He et al. 2015)."""
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def he_uniform_(weight: Tensor, *, slope: float = 0.0) -> None:
    """Draw a weight (Co, ...) of U(-b, b), b^2 = 6 / ((1 + slope^2) fan-in) (He et al. 2015, leaky ReLU)."""
    if not weight.is_meta:
        nn.init.kaiming_uniform_(weight, a=slope)


def normal_(weight: Tensor, *, std: float) -> None:
    """Draw ``weight`` from N(0, std^2)."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)
