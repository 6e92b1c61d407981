"""A model's state as one flat float32 vector: what is sent, summed, checked and saved.

One vector means one copy to load a model, one subtraction for an update and one buffer on the wire,
whatever the number of layers.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedfmd.errors import UserError

NO_LAZY = "has no shape yet: build no lazy layer, but one with its sizes"


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors in a state vector: first what is trained, then the rest.

    The order lets a server optimiser move the parameters and average the buffers, as two slices. Frozen
    parameters are among the rest.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    """How many elements, from the front, belong to trainable parameters."""

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Describe the state of ``model`` that is carried; raises ``UserError`` as ``carried`` does."""
        state = carried(model)
        parameters = sum(t.numel() for t in state.values() if _is_trained(t))
        return cls(tuple(state), tuple(tuple(t.shape) for t in state.values()), parameters)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def elements(self) -> int:
        """Elements of the whole vector."""
        return sum(self.sizes)

    def mask(self, names: Collection[str]) -> Tensor:
        """Mark the elements of the named tensors, bool (elements,)."""
        named = torch.tensor([name in names for name in self.names])
        return named.repeat_interleave(torch.tensor(self.sizes))

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the named tensors as views of ``vector`` (elements,)."""
        parts = vector.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}


def carried(model: nn.Module) -> dict[str, Tensor]:
    """Return what crosses and is kept of a model's state, by name: its floats, those that are trained first.

    A tensor that has several names, as tied weights have, counts once, by its first. Whole numbers and
    Booleans, such as a table of positions, are taken for constants that building the network makes again.
    Raises ``UserError`` for a tensor without a shape, and for numbers of another precision.
    """
    state: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            raise UserError(f"model: its {name} {NO_LAZY}")
        if tensor.dtype == torch.float32:
            state.setdefault(id(tensor), (name, tensor))
        elif tensor.is_floating_point() or tensor.is_complex():
            raise UserError(
                f"model: its {name} is {tensor.dtype}, and a state that is averaged holds float32 alone: end "
                "its __init__ by self.float(), or make it a buffer that is not persistent"
            )
    return dict(sorted(state.values(), key=lambda item: not _is_trained(item[1])))


def _is_trained(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad


def bind(model: nn.Module) -> Tensor:
    """Move the state of ``model`` into one new vector and let its tensors be views of it.

    From then on ``vector.copy_(other)`` loads the model. Returns the vector, float32 (elements,).
    """
    layout = Layout.of(model)
    state = carried(model)
    vector = torch.empty(layout.elements, dtype=torch.float32, device=next(iter(state.values())).device)
    for name, view in layout.views(vector).items():
        view.copy_(state[name].detach())
        state[name].data = view
    return vector
