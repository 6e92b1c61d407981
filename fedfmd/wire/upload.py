"""One client's update on its way to the server: as it is sent, before the server makes anything of it.

A worker of a simulation adds up many clients and sends one exact sum, of 8 bytes an element. A real client
has one update, and sends what its row is billed for: what ``compression.uplink`` makes of it, by default its
float32 numbers. The server makes of that the exact sum that the client would have made, to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum, Scale, check_update
from fedfmd.wire.compression import Compressor, received

VALUES = "values"
"""An update that is not compressed, as ``compression.uplink = "none"`` has it."""
EXTRA = "fedfmd.extra"
"""What algorithms send beside the update; it is never compressed."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the server expects of one client's update."""

    scale: Scale
    part: str
    """Key of the part of the model; empty for the whole."""
    index: Tensor | None
    """Places of the part, and of what goes along with it, in the sum; null for all."""
    method: Compressor
    extra: int
    """Elements that go along with the part, and are not compressed."""
    local: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Places of the part's state that stay on the client, int64: no update of them is sent."""


def sent_part(update: Tensor, local: Tensor) -> Tensor:
    """Return an update (elements,) without the places ``local``, int64 (l,): (elements - l,)."""
    return update[_travels(len(update), local)] if len(local) else update


def whole_update(sent: Tensor, local: Tensor) -> Tensor:
    """Return the update (elements,) whose ``sent_part`` that is, with zeros in the places ``local``."""
    if not len(local):
        return sent
    whole = sent.new_zeros(len(sent) + len(local))
    whole[_travels(len(whole), local)] = sent
    return whole


def _travels(elements: int, local: Tensor) -> Tensor:
    return torch.ones(elements, dtype=torch.bool).index_fill_(0, local, value=False)


@dataclass
class Upload:
    """What one client sends, in the place of a sum over clients."""

    scale: Scale
    elements: int
    """Of the whole vector."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    """Those of the sum: the client's weight, by the part of the model that it holds; empty without an update
    to use."""

    def add(
        self,
        update: Tensor,
        weight: int,
        part: str = "",
        index: Tensor | None = None,
        sent: Mapping[str, Tensor] | None = None,
        extra: int = 0,
        local: Tensor | None = None,
    ) -> None:
        """Take the client's update, float32 (elements of its part,); the last ``extra`` elements go along.

        ``sent`` is what the others were compressed to; without it all are sent but those in the places
        ``local``. Raises ``RejectedUpdateError`` as ``ExactSum.add`` does; such an update travels all the
        same, and counts for nothing.
        """
        own = len(update) - extra
        if sent is None:
            sent = {VALUES: update[:own] if local is None else sent_part(update[:own], local)}
        self.tensors = dict(sent)
        if extra:
            self.tensors[EXTRA] = update[own:].clone()  # safetensors takes no two views of one memory
        check_update(update, weight, self.elements, self.scale, index)
        self.weights[part] = self.weights.get(part, 0) + weight

    def summed(self, expected: Expected) -> ExactSum:
        """Return the exact sum of this update alone; raises ``ValueError`` for what is not ``expected``."""
        if self.scale != expected.scale:
            raise ValueError("the reply answers another order")
        total = ExactSum.zero(self.elements, self.scale)
        if not self.weights:
            return total
        if set(self.weights) != {expected.part}:
            raise ValueError("the update's weight is not that of its part")
        tensors = dict(self.tensors)
        beside = tensors.pop(EXTRA) if expected.extra and EXTRA in tensors else torch.zeros(0)
        if beside.shape != (expected.extra,) or beside.dtype != torch.float32:
            raise ValueError(
                f"{tuple(beside.shape)} {beside.dtype} beside the update; needs ({expected.extra},)"
            )
        length = self.elements if expected.index is None else len(expected.index)
        sent = received(tensors, expected.method, length - expected.extra - len(expected.local))
        update = whole_update(sent, expected.local)
        whole = torch.cat([update, beside]) if expected.extra else update
        total.add(whole, self.weights[expected.part], expected.part, expected.index)
        return total
