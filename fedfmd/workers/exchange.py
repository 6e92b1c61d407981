"""Vectors in memory that the processes of one machine share, so that they cross without being copied.

A message carries bytes, and on the way through Flower and Ray a 90 MB sum is copied five times. Where all
workers are on the server's machine, the message only says where the vectors are: one file of shared memory
holds what the server sends, and each node, a place for a worker, has one for the sum that it replies with. A
node has one order at a time, and the server has added its sum before it gets the next, so nobody writes what
another still reads.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fedfmd.workers.folders import OwnFolder

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "fedfmd-shared"
VECTOR_BYTES, SUM_BYTES = 4, 8
"""An element takes so many in the float32 vector, and in a float64 sum."""


@dataclass(frozen=True)
class Place:
    """Where a worker finds the vector of an order, and where it puts the sum; as plain data in the order."""

    vector: str
    sum: str
    elements: int

    def open_vector(self) -> Tensor:
        """Return the server's float32 vector (elements,); what is written to it stays in this process."""
        return torch.from_file(self.vector, shared=False, size=self.elements, dtype=torch.float32)

    def open_sum(self) -> Tensor:
        """Return the node's float64 sum (elements,), as its last order left it."""
        return _mapped_sum(self.sum, self.elements)


@lru_cache(maxsize=1)
def _mapped_sum(file: str, elements: int) -> Tensor:
    """Map a sum for this process, once: for every order anew, each of its pages would be faulted in anew."""
    return torch.from_file(file, shared=True, size=elements, dtype=torch.float64)


class Exchange:
    """The server's side: a folder of shared memory with the vector and the nodes' sums, each mapped once."""

    def __init__(self, folder: OwnFolder, elements: int):
        self.folder = folder
        self.elements = elements
        self._sums = dict[int, Tensor]()

    @classmethod
    def create(cls, elements: int, nodes: Sequence[int]) -> "Exchange | None":
        """Reserve the memory, or files that are mapped into it; null where there is too little of both."""
        for root in (SHARED_MEMORY, Path(tempfile.gettempdir())):
            exchange = cls._created(root, elements, nodes)
            if exchange is not None:
                return exchange
        return None

    @classmethod
    def _created(cls, root: Path, elements: int, nodes: Sequence[int]) -> "Exchange | None":
        try:
            exchange = cls(OwnFolder(root, PREFIX), elements)
        except OSError:
            return None
        try:
            _reserve(exchange._vector_file, VECTOR_BYTES * elements)
            for node in nodes:
                _reserve(exchange._sum_file(node), SUM_BYTES * elements)
        except OSError:
            exchange.close()
            return None
        return exchange

    @staticmethod
    def size_bytes(elements: int, nodes: int) -> int:
        """Count the bytes of a vector and of the sums of so many nodes."""
        return (VECTOR_BYTES + SUM_BYTES * nodes) * elements

    def close(self) -> None:
        """Give the memory back, as soon as nobody holds a sum."""
        self._sums.clear()
        self.__dict__.pop("_vector", None)
        self.folder.remove()

    def write(self, vector: Tensor) -> None:
        """Put what the next orders start from where the workers look."""
        self._vector.copy_(vector)

    def sum(self, node: int) -> Tensor:
        """Return the float64 sum (elements,) that the node's last order left."""
        if node not in self._sums:
            file = str(self._sum_file(node))
            self._sums[node] = torch.from_file(file, shared=True, size=self.elements, dtype=torch.float64)
        return self._sums[node]

    def place(self, node: int) -> Place:
        """Say where the node finds its vector, and where it puts its sum."""
        return Place(str(self._vector_file), str(self._sum_file(node)), self.elements)

    @cached_property
    def _vector(self) -> Tensor:
        file = str(self._vector_file)
        return torch.from_file(file, shared=True, size=self.elements, dtype=torch.float32)

    @property
    def _vector_file(self) -> Path:
        return self.folder.path / "vector"

    def _sum_file(self, node: int) -> Path:
        return self.folder.path / f"sum-{node}"


def _reserve(file: Path, size: int) -> None:
    """Make a file whose memory is there: to write beyond what is left would end the process."""
    with file.open("xb") as opened:
        os.posix_fallocate(opened.fileno(), 0, max(1, size))
