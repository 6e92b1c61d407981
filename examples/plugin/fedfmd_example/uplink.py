"""What an update is sent as: quantised at random, so that it is right on average."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedfmd.wire.compression import Form


class StochasticQuantisation:
    """Round each element up or down at random, to ``levels`` steps of the largest.

    QSGD (Alistarh et al. 2017), which scales by the L2 norm; the largest element makes smaller steps.
    """

    def __init__(self, levels: int = 127):
        self.levels = levels

    def form(self, elements: int) -> Form:
        """Return a byte per element, and the size of a step."""
        return {"codes": (torch.int8, elements), "step": (torch.float32, 1)}

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the elements in steps, whose mean over the draws is the update, float32 (elements,)."""
        step = (update.abs().max() / self.levels).clamp_min(1e-38)
        codes = torch.floor(update / step + torch.rand(update.shape, generator=rng))
        return {"codes": codes.clamp_(-self.levels, self.levels).to(torch.int8), "step": step[None]}

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return steps times their size, float32 (elements,)."""
        del elements
        return tensors["codes"] * tensors["step"]
