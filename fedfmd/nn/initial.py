"""Initial weights. One on `meta` is left alone: PyTorch would load its compiler to draw nothing."""

from torch import Tensor, nn


def he_normal_(weight: Tensor) -> None:
    """Draw ``weight`` from N(0, 2 / fan-out) (He et al. 2015)."""
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def normal_(weight: Tensor, *, std: float) -> None:
    """Draw ``weight`` from N(0, std^2)."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)
