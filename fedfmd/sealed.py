"""Safetensors files that notice damage: a checksum over all that they hold, arrays and text.

Everything beside the arrays is JSON under one key of the file's header, so equal contents are equal bytes.
``fedfmd.tensors`` has the same for PyTorch's tensors.
"""

import json
import zlib
from collections.abc import Mapping
from math import prod
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfmd.files import regular_file, replace_atomically

BFLOAT16 = np.dtype("V2")
"""Stands for bfloat16, which NumPy lacks: its two bytes."""
_KEY = "fedfmd"
_TYPES: dict[np.dtype[Any], tuple[str, str]] = {
    np.dtype(np.float64): ("F64", "float64"),
    np.dtype(np.float32): ("F32", "float32"),
    np.dtype(np.float16): ("F16", "float16"),
    BFLOAT16: ("BF16", "bfloat16"),
    np.dtype(np.int64): ("I64", "int64"),
    np.dtype(np.int32): ("I32", "int32"),
    np.dtype(np.int16): ("I16", "int16"),
    np.dtype(np.int8): ("I8", "int8"),
    np.dtype(np.uint8): ("U8", "uint8"),
    np.dtype(np.bool_): ("BOOL", "bool"),
}
"""What an array may hold: its names in the file and, with "torch." before it, in the checksum."""
_NAMED = {name: dtype for dtype, (name, _) in _TYPES.items()}
Arrays = Mapping[str, NDArray[Any]]


class DamagedFileError(Exception):
    """A file that is not what was written: cut off, altered, or of another format."""


def write_sealed(path: Path, arrays: Arrays, about: Mapping[str, Any], kind: str) -> None:
    """Write ``arrays`` and ``about``, JSON values, atomically, as a file of format ``kind``.

    Raises ``OSError`` as the file system does; a file that was there is then still whole.
    """
    text = json.dumps(about, allow_nan=False)
    header = {"format": kind, "about": text, "crc32": _checksum(arrays, kind, text)}
    replace_atomically(path, lambda file: _write(file, arrays, json.dumps(header)))


def read_sealed(path: Path, kind: str, *, check: bool = True) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return what ``write_sealed`` wrote, the arrays memory-mapped: what is changed in them stays here.

    Without ``check`` their content is not read. Raises ``DamagedFileError``, and ``FileNotFoundError``.
    """
    try:
        with regular_file(path).open("rb") as file:
            content = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_COPY), np.uint8)
        arrays, text = _read(content)
        header = json.loads(text)
        if header.get("format") != kind:
            raise DamagedFileError(f"its format is {header.get('format')!r}, not {kind!r}")
        about = header["about"]
        if check and _checksum(arrays, kind, about) != header["crc32"]:
            raise DamagedFileError("its content does not match its checksum")
        return arrays, json.loads(about)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(error.strerror or str(error)) from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedFileError(str(error)) from None


def _write(path: Path, arrays: Arrays, text: str) -> None:
    """Write a safetensors file with ``text`` in its header.

    The package's own writer makes a second temporary file, of a name that tells nothing of who left it there;
    or it makes all bytes in memory first, beside the arrays.
    """
    parts = sorted(arrays.items(), key=lambda part: (-part[1].itemsize, part[0]))  # all are aligned
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    end = 0
    for name, array in parts:
        start, end = end, end + array.nbytes
        shape = list(array.shape)
        header[name] = {"dtype": _TYPES[array.dtype][0], "shape": shape, "data_offsets": [start, end]}
    line = json.dumps(header).encode()
    line += b" " * (-len(line) % 8)
    with path.open("wb") as file:
        file.write(len(line).to_bytes(8, "little") + line)
        for _, array in parts:
            file.write(_bytes(array))


def _read(content: NDArray[np.uint8]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the arrays of a safetensors file, views of its ``content``, and the text in its header.

    The package's own reader for NumPy copies every array.
    """
    length = int.from_bytes(content[:8].tobytes(), "little")
    header, body = json.loads(content[8 : 8 + length].tobytes()), content[8 + length :]
    text = header.pop("__metadata__", {}).get(_KEY, "{}")
    arrays, last = dict[str, NDArray[Any]](), 0
    for name, part in header.items():
        dtype = _NAMED[part["dtype"]]
        shape, (start, end) = part["shape"], part["data_offsets"]
        if not 0 <= start <= end <= len(body) or end - start != prod(shape) * dtype.itemsize:
            raise DamagedFileError(f"{name} does not lie where its header says")
        arrays[name] = body[start:end].view(dtype).reshape(shape)
        last = max(last, end)
    if last != len(body):
        raise DamagedFileError(f"it has {len(body)} bytes behind its header, which names {last}")
    return arrays, text


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _checksum(arrays: Arrays, kind: str, about: str) -> int:
    value = zlib.crc32(f"{kind}\n{about}\n".encode())
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} torch.{_TYPES[array.dtype][1]} {list(array.shape)}\n".encode(), value)
        value = zlib.crc32(_bytes(array), value)
    return value
