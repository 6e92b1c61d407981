"""PyTorch's tensors in sealed files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfmd.sealed import BFLOAT16, read_sealed, write_sealed

STORED = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
"""What the tensors of a file may hold."""


def unstorable(state: Mapping[Any, Any]) -> str:
    """Say what there is in a state, tensors by name, that no file can hold; nothing where all is fine."""
    for name, value in state.items():
        if not isinstance(name, str):
            return f"its state has the key {name!r}, where checkpoints hold names"
        if not isinstance(value, Tensor) or value.dtype not in STORED:
            found = str(value.dtype) if isinstance(value, Tensor) else repr(value)[:40]
            return f"its state[{name!r}] is {found}, where checkpoints hold tensors of real numbers"
    return ""


def described(value: object) -> str:
    """Return what messages call a value that is no tensor of the kind that is asked for."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return repr(value)[:40]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], kind: str) -> None:
    """Write CPU ``tensors`` and ``about``, as ``write_sealed`` does arrays."""
    write_sealed(path, {name: _array(tensor.detach()) for name, tensor in tensors.items()}, about, kind)


def read_tensors(path: Path, kind: str, *, check: bool = True) -> tuple[dict[str, Tensor], Any]:
    """Return what ``write_tensors`` wrote, memory-mapped, as ``read_sealed`` returns arrays."""
    arrays, about = read_sealed(path, kind, check=check)
    return {name: _tensor(array) for name, array in arrays.items()}, about


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view("<i2")).view(torch.bfloat16)
    return torch.from_numpy(array)
