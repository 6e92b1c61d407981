"""What an update becomes before it is sent up: fewer bits an element, or fewer elements.

- ``float16``: half precision, after one power of two that brings the largest element below half's maximum.
- ``int8``: round(x / scale) with one float32 scale, max|x| / 127, for each block of ``BLOCK`` elements
  (uniform quantisation as QSGD's, Alistarh et al. 2017, but rounded to nearest, so it needs no random bits).
- ``topk``: the k largest elements and where they are (Aji & Heafield 2017): 32-bit positions, or one bit for
  every element of the update where that is less.

What is lost can stay on the client and be added to its next update (error feedback: Seide et al. 2014;
Karimireddy et al. 2019): what is sent then sums to what was trained, only later.

All of it is deterministic: the same update gives the same bytes on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import frexp

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fedfmd.aggregation import RejectedUpdateError
from fedfmd.config.sections import CompressionConfig

BLOCK = 256
"""Elements that share a scale under ``int8``: 1.6% more bytes than one byte an element."""
CHUNK = 1 << 15
"""Elements handled at a time, so that what lies between input and output stays in the cache."""
HALF_EXPONENT = 15
"""float16 holds values below 2**16; the largest element is brought below 2**15, so that rounding up fits."""
LARGEST_CODE = 127


@dataclass(frozen=True)
class Compressed:
    """An update as it is sent.

    ``tensors`` are ``values`` and, for ``float16`` and ``int8``, ``scales`` float32 (blocks,); for ``topk``
    either ``positions`` int32 (k,) or ``bitmap`` uint8 (elements / 8,), lowest bit first.
    """

    tensors: dict[str, Tensor]

    @property
    def payload_bytes(self) -> int:
        """Size of all that is needed to restore the update: codes, scales and positions."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def compress(update: Tensor, config: CompressionConfig) -> Compressed:
    """Compress ``update``, float32 (elements,), on the CPU.

    Raises ``RejectedUpdateError`` when it holds NaN or infinity, which ``none`` leaves to the sum.
    """
    if config.uplink == "none":
        return Compressed({"values": update})
    largest = _largest(update)
    if config.uplink == "float16":
        return _to_half(update, largest)
    if config.uplink == "int8":
        return _to_int8(update)
    return _to_largest(update, _kept(len(update), config))


def decompress(compressed: Compressed, elements: int) -> Tensor:
    """Restore the float32 vector (elements,); raises ``ValueError`` when it is of another length."""
    tensors = compressed.tensors
    values = tensors["values"]
    if "scales" in tensors:
        restored = _scaled(values, tensors["scales"])
    elif "bitmap" in tensors or "positions" in tensors:
        restored = torch.zeros(elements)
        restored[_positions(tensors, elements)] = values
    else:
        restored = values
    if restored.shape != (elements,):
        raise ValueError(f"compressed update of {len(restored)} elements; needs {elements}")
    return restored


def compress_with_feedback(
    update: Tensor, residual: Tensor | None, config: CompressionConfig
) -> tuple[Compressed, Tensor, Tensor | None]:
    """Compress ``update`` and what the client's earlier updates lost, all float32 (elements,).

    Returns what is sent, what the receiver makes of it, and the new residual: null where nothing is kept.
    Over any number of rounds the restored vectors and the last residual sum to the updates, to the rounding
    of float32. Raises as ``compress`` does; the old residual then stays good.
    """
    whole = update if residual is None else update + residual
    compressed = compress(whole, config)
    sent = decompress(compressed, len(whole))
    keeps = config.error_feedback and config.uplink != "none"
    return compressed, sent, whole - sent if keeps else None


def planned_uplink_bytes(elements: int, config: CompressionConfig) -> int:
    """Payload of an update of that many elements: known before it is trained, whatever it will be."""
    return sum(length * dtype.itemsize for dtype, length in _form(elements, config).values())


@lru_cache(maxsize=64)
def serialised_update_bytes(elements: int, config: CompressionConfig) -> int:
    """Measured size of a compressed update as a package's tensors."""
    form = _form(elements, config)
    return len(save({name: torch.zeros(length, dtype=dtype) for name, (dtype, length) in form.items()}))


def _form(elements: int, config: CompressionConfig) -> dict[str, tuple[torch.dtype, int]]:
    """Give dtype and length of each tensor that an update of that many elements becomes."""
    if config.uplink == "none":
        return {"values": (torch.float32, elements)}
    if config.uplink == "float16":
        return {"values": (torch.float16, elements), "scales": (torch.float32, 1)}
    if config.uplink == "int8":
        return {"values": (torch.int8, elements), "scales": (torch.float32, -(-elements // BLOCK))}
    kept = _kept(elements, config)
    values = {"values": (torch.float32, kept)}
    if _as_bitmap(kept, elements):
        return values | {"bitmap": (torch.uint8, -(-elements // 8))}
    return values | {"positions": (torch.int32, kept)}


def _largest(update: Tensor) -> float:
    low, high = torch.aminmax(update)  # NaN spreads to both
    if not float("-inf") < float(low) <= float(high) < float("inf"):
        raise RejectedUpdateError("the update holds NaN or infinity")
    return max(-float(low), float(high))


def _to_half(update: Tensor, largest: float) -> Compressed:
    # Powers of two change no bit of the mantissa; the limits keep the factor and its inverse normal numbers.
    exponent = min(max(HALF_EXPONENT - frexp(largest)[1], -126), 126)
    values = torch.empty(len(update), dtype=torch.float16)
    for code, part in zip(values.split(CHUNK), update.split(CHUNK), strict=True):
        code.copy_(part * 2.0**exponent)
    return Compressed({"values": values, "scales": torch.tensor([2.0**-exponent])})


def _to_int8(update: Tensor) -> Compressed:
    values = torch.empty(len(update), dtype=torch.int8)
    scales = torch.empty(-(-len(update) // BLOCK))
    for part, code, scale in _blocks(update, values, scales):
        low, high = torch.aminmax(part, dim=1)
        torch.maximum(-low, high, out=scale).div_(LARGEST_CODE)
        # A block of zeros, or of numbers so small that their scale is 0, becomes zeros.
        inverse = (1 / scale).nan_to_num_(posinf=0)
        code.copy_((part * inverse[:, None]).round_().clamp_(-LARGEST_CODE, LARGEST_CODE))
    return Compressed({"values": values, "scales": scales})


def _scaled(values: Tensor, scales: Tensor) -> Tensor:
    if len(scales) == 1:
        return values.float().mul_(scales)
    restored = torch.empty(len(values))
    for part, code, scale in _blocks(restored, values, scales):
        torch.mul(code, scale[:, None], out=part)
    return restored


def _blocks(vector: Tensor, codes: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give chunks of both vectors as (blocks, BLOCK) beside the blocks' scales; the last may be shorter."""
    whole = len(vector) // BLOCK * BLOCK
    pieces = [(at, min(at + CHUNK, whole), BLOCK) for at in range(0, whole, CHUNK)]
    pieces += [(whole, len(vector), len(vector) - whole)] if whole < len(vector) else []
    for start, end, width in pieces:
        blocks = scales[start // BLOCK : -(-end // BLOCK)]
        yield vector[start:end].view(-1, width), codes[start:end].view(-1, width), blocks


def _to_largest(update: Tensor, kept: int) -> Compressed:
    """Keep the ``kept`` elements of largest size; of equal ones those that come first."""
    sizes = update.abs().numpy()
    threshold = np.partition(sizes, len(sizes) - kept)[len(sizes) - kept]
    chosen = sizes > threshold
    equal = np.flatnonzero(sizes == threshold)
    chosen[equal[: kept - int(chosen.sum())]] = True
    values = update[torch.from_numpy(chosen)]
    if _as_bitmap(kept, len(update)):
        bitmap = torch.from_numpy(np.packbits(chosen, bitorder="little"))
        return Compressed({"values": values, "bitmap": bitmap})
    positions = torch.from_numpy(np.flatnonzero(chosen).astype(np.int32))
    return Compressed({"values": values, "positions": positions})


def _positions(tensors: dict[str, Tensor], elements: int) -> Tensor:
    if "positions" in tensors:
        return tensors["positions"]
    bits = np.unpackbits(tensors["bitmap"].numpy(), count=elements, bitorder="little")
    return torch.from_numpy(bits.view(bool))


def _kept(elements: int, config: CompressionConfig) -> int:
    return max(1, round(config.topk_fraction * elements))


def _as_bitmap(kept: int, elements: int) -> bool:
    return -(-elements // 8) < 4 * kept
