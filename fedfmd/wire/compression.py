"""What an update becomes before it is sent up: fewer bits per element, or fewer elements.

- ``float16``: half precision, after one power of two that brings the largest element below half's maximum.
- ``int8``: round(x / scale) with one float32 scale, max|x| / 127, for each block of ``BLOCK`` elements
  (uniform quantisation as QSGD's, Alistarh et al. 2017, but rounded to nearest, so it needs no random bits).
- ``topk``: the k largest elements and where they are (Aji & Heafield 2017): 32-bit positions, or one bit for
  every element of the update where that is less.

What is lost can stay on the client and be added to its next update (error feedback: Seide et al. 2014;
Karimireddy et al. 2019): what is sent then sums to what was trained, only later.

All of it is deterministic: the same update gives the same bytes on every machine. A part of your own draws
from the generator that it is handed, which is the same wherever the client trains.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import frexp
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fedfmd.aggregation import RejectedUpdateError
from fedfmd.config.sections.compression import CompressionConfig
from fedfmd.contracts import make
from fedfmd.registry import register

Form = Mapping[str, tuple[torch.dtype, int]]
"""Of each tensor that is sent, by name, its dtype and how many elements it has."""

BLOCK = 256
"""Elements that share a scale under ``int8``: 1.6% more bytes than one byte an element."""
CHUNK = 1 << 15
"""Elements handled at a time, so that what lies between input and output stays in the cache."""
HALF_EXPONENT = 15
"""float16 holds values below 2**16; the largest element is brought below 2**15, so that rounding up fits."""
LARGEST_CODE = 127


class Compressor(Protocol):
    """What an update is sent as, and what the server makes of it."""

    def form(self, elements: int) -> Form:
        """Return what an update of that many elements is sent as: known before it is trained."""
        ...

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of ``form`` for an update of finite numbers, float32 (elements,), on the CPU."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return what the server makes of them, float32 (elements,)."""
        ...


def compressor(config: CompressionConfig, options: Mapping[str, Any] = MappingProxyType({})) -> Compressor:
    """Build what ``compression.uplink`` names, with those of its keys and ``options`` that it takes.

    Raises ``UserError`` for what is no such part.
    """
    made: Compressor = make("compression", config.uplink, topk_fraction=config.topk_fraction, **options)
    return made


def compress(update: Tensor, method: Compressor, rng: torch.Generator) -> dict[str, Tensor]:
    """Return what ``update``, float32 (elements,) on the CPU, is sent as.

    Raises ``RejectedUpdateError`` when it holds NaN or infinity, and ``ValueError`` when the method makes
    other tensors than those that are billed.
    """
    _largest(update)
    name, form = type(method).__name__, method.form(len(update))
    if not isinstance(form, Mapping):
        raise ValueError(f"{name}.form gives a {type(form).__name__}; needs {{NAME: (dtype, length)}}")
    tensors = method.compress(update, rng)
    if not isinstance(tensors, Mapping) or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise ValueError(f"{name}.compress gives no dict of tensors by name")
    if _form_of(tensors) != dict(form):
        raise ValueError(f"{name}.compress makes {_form_of(tensors)}, and its form says {dict(form)}")
    return dict(tensors)


def restore(tensors: Mapping[str, Tensor], method: Compressor, elements: int) -> Tensor:
    """Return the float32 vector (elements,); raises ``ValueError`` when it is of another length."""
    restored = method.restore(tensors, elements)
    if not isinstance(restored, Tensor) or restored.shape != (elements,):
        found = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise ValueError(f"compressed update of shape {found}; needs {(elements,)}")
    return restored


def received(tensors: Mapping[str, Tensor], method: Compressor, elements: int) -> Tensor:
    """Return what a client sent, float32 (elements,); raises ``ValueError`` for anything else.

    Nothing about foreign tensors is taken for granted.
    """
    expected = dict(method.form(elements))
    if _form_of(tensors) != expected or any(tensor.dim() != 1 for tensor in tensors.values()):
        raise ValueError(f"an update of {_listed(_form_of(tensors))}; needs {_listed(expected)}")
    try:
        return restore(tensors, method, elements)
    except Exception as error:  # whatever foreign numbers make of a decoder
        raise ValueError(f"an update that cannot be restored: {error}") from None


def compress_with_feedback(
    update: Tensor, residual: Tensor | None, method: Compressor, rng: torch.Generator
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Compress ``update`` and what the client's earlier updates lost, all float32 (elements,).

    Returns what is sent, what the receiver makes of it, and what it was made of: the difference of the last
    two is what is lost now. Over any number of rounds the restored vectors and the last difference sum to the
    updates, to the rounding of float32. Raises as ``compress`` does; the old residual then stays good.
    """
    whole = update if residual is None else update + residual
    tensors = compress(whole, method, rng)
    return tensors, restore(tensors, method, len(whole)), whole


def planned_uplink_bytes(elements: int, method: Compressor) -> int:
    """Return the payload of an update of that many elements: known before it is trained."""
    return sum(length * dtype.itemsize for dtype, length in method.form(elements).values())


def serialised_update_bytes(elements: int, method: Compressor, beside: Form = MappingProxyType({})) -> int:
    """Return the measured size of a compressed update, and of what goes ``beside`` it, as tensors."""
    tensors = {**method.form(elements), **beside}
    return _serialised(tuple((name, *form) for name, form in tensors.items()))


@register("compression", "none")
class Uncompressed:
    """The update as it is."""

    def form(self, elements: int) -> Form:
        """Return one tensor of float32."""
        return {"values": (torch.float32, elements)}

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the update itself."""
        del rng
        return {"values": update}

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return the update itself."""
        del elements
        return tensors["values"]


@register("compression", "float16")
class Half:
    """Half precision, and the factor that brings it back to its size."""

    def form(self, elements: int) -> Form:
        """Return the values and one factor."""
        return {"values": (torch.float16, elements), "scales": (torch.float32, 1)}

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the values, scaled by a power of two and rounded."""
        del rng
        # Powers of two change no bit of the mantissa; the limits keep factor and inverse normal numbers.
        exponent = min(max(HALF_EXPONENT - frexp(_largest(update))[1], -126), 126)
        values = torch.empty(len(update), dtype=torch.float16)
        for code, part in zip(values.split(CHUNK), update.split(CHUNK), strict=True):
            code.copy_(part * 2.0**exponent)
        return {"values": values, "scales": torch.tensor([2.0**-exponent])}

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return the values at their own size."""
        del elements
        return tensors["values"].float().mul_(tensors["scales"])


@register("compression", "int8")
class Int8:
    """One byte per element, and a scale for each block of ``BLOCK``."""

    def form(self, elements: int) -> Form:
        """Return the codes and the blocks' scales."""
        return {"values": (torch.int8, elements), "scales": (torch.float32, -(-elements // BLOCK))}

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return each block in 127ths of its largest element."""
        del rng
        values = torch.empty(len(update), dtype=torch.int8)
        scales = torch.empty(-(-len(update) // BLOCK))
        for part, code, scale in _blocks(update, values, scales):
            low, high = torch.aminmax(part, dim=1)
            torch.maximum(-low, high, out=scale).div_(LARGEST_CODE)
            # A block of zeros, or of numbers so small that their scale is 0, becomes zeros.
            inverse = (1 / scale).nan_to_num_(posinf=0)
            code.copy_((part * inverse[:, None]).round_().clamp_(-LARGEST_CODE, LARGEST_CODE))
        return {"values": values, "scales": scales}

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return codes times scales."""
        del elements
        restored = torch.empty(len(tensors["values"]))
        for part, code, scale in _blocks(restored, tensors["values"], tensors["scales"]):
            torch.mul(code, scale[:, None], out=part)
        return restored


@register("compression", "topk")
class TopK:
    """The elements of largest size, ``topk_fraction`` of all, and where they are."""

    def __init__(self, topk_fraction: float):
        self.topk_fraction = topk_fraction

    def form(self, elements: int) -> Form:
        """Return the values, and either a bit per element of the update or a position per value."""
        kept = self._kept(elements)
        values = {"values": (torch.float32, kept)}
        if _as_bitmap(kept, elements):
            return values | {"bitmap": (torch.uint8, -(-elements // 8))}
        return values | {"positions": (torch.int32, kept)}

    def compress(self, update: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the elements of largest size; of equal ones those that come first."""
        del rng
        kept = self._kept(len(update))
        sizes = update.abs().numpy()
        threshold = np.partition(sizes, len(sizes) - kept)[len(sizes) - kept]
        chosen = sizes > threshold
        equal = np.flatnonzero(sizes == threshold)
        chosen[equal[: kept - int(chosen.sum())]] = True
        values = update[torch.from_numpy(chosen)]
        if _as_bitmap(kept, len(update)):
            return {"values": values, "bitmap": torch.from_numpy(np.packbits(chosen, bitorder="little"))}
        return {"values": values, "positions": torch.from_numpy(np.flatnonzero(chosen).astype(np.int32))}

    def restore(self, tensors: Mapping[str, Tensor], elements: int) -> Tensor:
        """Return a vector that is zero where nothing was sent."""
        restored = torch.zeros(elements)
        restored[_positions(tensors, elements)] = tensors["values"]
        return restored

    def _kept(self, elements: int) -> int:
        return max(1, round(self.topk_fraction * elements))


@lru_cache(maxsize=64)
def _serialised(form: tuple[tuple[str, torch.dtype, int], ...]) -> int:
    return len(save({name: torch.zeros(length, dtype=dtype) for name, dtype, length in form}))


def _form_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, int]]:
    return {name: (tensor.dtype, tensor.numel()) for name, tensor in tensors.items()}


def _listed(form: Form) -> str:
    return ", ".join(f"{name}: {dtype} ({length},)" for name, (dtype, length) in form.items()) or "no tensors"


def _largest(update: Tensor) -> float:
    low, high = torch.aminmax(update)  # NaN spreads to both
    if not float("-inf") < float(low) <= float(high) < float("inf"):
        raise RejectedUpdateError("the update holds NaN or infinity")
    return max(-float(low), float(high))


def _blocks(vector: Tensor, codes: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield chunks of both vectors as (blocks, BLOCK) beside the blocks' scales; the last may be shorter."""
    whole = len(vector) // BLOCK * BLOCK
    pieces = [(at, min(at + CHUNK, whole), BLOCK) for at in range(0, whole, CHUNK)]
    pieces += [(whole, len(vector), len(vector) - whole)] if whole < len(vector) else []
    for start, end, width in pieces:
        blocks = scales[start // BLOCK : -(-end // BLOCK)]
        yield vector[start:end].view(-1, width), codes[start:end].view(-1, width), blocks


def _positions(tensors: Mapping[str, Tensor], elements: int) -> Tensor:
    if "positions" in tensors:
        return tensors["positions"]
    bits = np.unpackbits(tensors["bitmap"].numpy(), count=elements, bitorder="little")
    return torch.from_numpy(bits.view(bool))


def _as_bitmap(kept: int, elements: int) -> bool:
    return -(-elements // 8) < 4 * kept
