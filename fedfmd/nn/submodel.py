"""Parts of the global network that clients hold: which elements they are, and networks made of them.

A share is a narrower, shallower network with fewer kernels. Each of its tensors is a box cut out of the
global tensor of the same name, so a share's state is a list of places in the global state vector:

- width: HeteroFL's first ceil(r C) channels (Diao et al. 2021), or FedRolex's window of as many channels that
  moves by one a round and wraps round (Alam et al. 2022). Where a window lies follows from the two sizes of a
  dimension alone, hence layers that meet in a dimension always agree.
- kernels: some of the K kernels of every dynamic convolution, with their biases and attention rows; the
  softmax then runs over these.
- depth: the first stages with their exits (DepthFL, Kim et al. 2023).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fedfmd.nn.vector import Layout


@dataclass(frozen=True)
class Share:
    """A part of the global network; the default is all of it."""

    width: float = 1.0
    """Share of the channels."""
    kernels: tuple[int, ...] = ()
    """Kernels held, ascending; empty for all."""
    depth: int = 0
    """Stages held; 0 for all."""
    rotation: int = 0
    """First channel of the window."""

    @property
    def whole(self) -> bool:
        """Whether this is the global network."""
        return self == WHOLE

    @property
    def shape(self) -> tuple[float, int, int]:
        """What its network's structure follows from: width, kernels (0 for all) and depth."""
        return self.width, len(self.kernels), self.depth

    @property
    def key(self) -> str:
        """Name the share on the wire; the whole network's name is empty."""
        return "" if self.whole else json.dumps(list(asdict(self).values()), separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> "Share":
        """Read a name; raises ``ValueError`` when it is none."""
        if not key:
            return WHOLE
        width, kernels, depth, rotation = json.loads(key)
        return cls(width, tuple(kernels), depth, rotation)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Share":
        """Read plain data."""
        return cls(**{**document, "kernels": tuple(document["kernels"])})


WHOLE = Share()


def share_index(whole: Layout, part: Layout, share: Share, kernel_entries: Collection[str]) -> Tensor:
    """Return the places of a share's elements in the global vector, int64 (part.elements,), all different.

    ``kernel_entries`` names the tensors whose first dimension counts the kernels (``kernel_state_names``).
    """
    shapes = dict(zip(whole.names, whole.shapes, strict=True))
    offsets = dict(zip(whole.names, accumulate(whole.sizes, initial=0), strict=False))
    places = []
    for name, shape in zip(part.names, part.shapes, strict=True):
        kernels = share.kernels if name in kernel_entries else ()
        box = _box(shapes[name], shape, share.rotation, kernels)
        places.append(offsets[name] + _flat_places(shapes[name], box))
    return torch.cat(places)


def _box(whole: Sequence[int], part: Sequence[int], rotation: int, kernels: Sequence[int]) -> list[Tensor]:
    """Return the positions along every dimension."""
    box = [window(full, held, rotation) for full, held in zip(whole, part, strict=True)]
    if kernels:
        box[0] = torch.tensor(kernels)
    return box


def window(channels: int, held: int, rotation: int) -> Tensor:
    """Return the ``held`` channels from ``rotation`` on, wrapping round, int64 (held,); all in order."""
    start = 0 if held == channels else rotation
    return (start + torch.arange(held)) % channels


def _flat_places(shape: Sequence[int], box: Sequence[Tensor]) -> Tensor:
    places = torch.zeros(1, dtype=torch.int64)
    for size, positions in zip(shape, box, strict=True):
        places = (places[:, None] * size + positions).flatten()
    return places
