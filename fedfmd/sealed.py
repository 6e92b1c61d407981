"""Safetensors files that notice damage: a checksum over all that they hold, tensors and text.

Everything beside the tensors is JSON under one key of the file's header, so equal contents are equal bytes.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedfmd.files import regular_file, replace_atomically

_KEY = "fedfmd"
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
STORED = frozenset(_TYPES)
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


class DamagedFileError(Exception):
    """A file that is not what was written: cut off, altered, or of another format."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], kind: str) -> None:
    """Write contiguous CPU ``tensors`` and ``about``, JSON values, atomically, as a file of format ``kind``.

    Raises ``OSError`` as the file system does; a file that was there is then still whole.
    """
    text = json.dumps(about, allow_nan=False)
    header = {"format": kind, "about": text, "crc32": _checksum(tensors, kind, text)}
    replace_atomically(path, lambda file: _write_tensors(file, tensors, json.dumps(header)))


def read_sealed(path: Path, kind: str, *, check: bool = True) -> tuple[dict[str, Tensor], Any]:
    """Return what ``write_sealed`` wrote, the tensors memory-mapped.

    Without ``check`` their content is not read. Raises ``DamagedFileError``, and ``FileNotFoundError``.
    """
    try:
        with safe_open(regular_file(path), "pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if header.get("format") != kind:
                raise DamagedFileError(f"its format is {header.get('format')!r}, not {kind!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        about = header["about"]
        if check and _checksum(tensors, kind, about) != header["crc32"]:
            raise DamagedFileError("its content does not match its checksum")
        return tensors, json.loads(about)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(error.strerror or str(error)) from None
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(str(error)) from None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write a safetensors file with ``text`` in its header.

    The package's own writer makes a second temporary file, of a name that tells nothing of who left it there;
    or it makes all bytes in memory first, beside the tensors.
    """
    parts = sorted(tensors.items(), key=lambda part: (-part[1].element_size(), part[0]))  # all are aligned
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    end = 0
    for name, tensor in parts:
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    line = json.dumps(header).encode()
    line += b" " * (-len(line) % 8)
    with path.open("wb") as file:
        file.write(len(line).to_bytes(8, "little") + line)
        for _, tensor in parts:
            file.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    if not tensor.numel():  # whose stride may be none that a view of bytes can have
        return memoryview(b"")
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor], kind: str, about: str) -> int:
    value = zlib.crc32(f"{kind}\n{about}\n".encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(), value)
        value = zlib.crc32(_bytes(tensor), value)
    return value
