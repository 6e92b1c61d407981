"""Who carries work out, and how it is spread over workers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import heapify, heapreplace
from typing import Protocol, TypeVar

from torch import Tensor

from fedfmd.experiment import Experiment
from fedfmd.rounds.secure import Members
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import (
    RESULT,
    BadPackageError,
    Package,
    Reply,
    Told,
    WorkOrder,
    most_bytes,
    read_about,
)
from fedfmd.wire.testing import ServerTestOrder, ServerTestResult

Measuring = TypeVar("Measuring", ExaminationOrder, ServerTestOrder)


class Executor(Protocol):
    """Carries orders to workers and replies back."""

    workers: int
    tests: bool
    """Whether its workers are processes of this machine, which see the images that the server tests on."""

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders on the global ``vector`` and give one reply an order, in any order."""
        ...

    def examine(
        self, orders: Sequence[ExaminationOrder], vector: Tensor
    ) -> Iterator[tuple[ExaminationOrder, ExaminationResult | None]]:
        """Let clients measure models, from ``vector``; gives what came of each order, null for one lost."""
        ...

    def test(
        self, orders: Sequence[ServerTestOrder], vector: Tensor
    ) -> Iterator[tuple[ServerTestOrder, ServerTestResult | None]]:
        """Let workers test the global ``vector`` on the server's images, where they can; null as above."""
        ...

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return how the clients of a secure sum are reached."""
        ...


class Measurer(ABC):
    """What executors have in common whose orders to measure are answered with a package."""

    def examine(
        self, orders: Sequence[ExaminationOrder], vector: Tensor
    ) -> Iterator[tuple[ExaminationOrder, ExaminationResult | None]]:
        """Let clients measure; null for an order whose worker is lost, or answers nonsense."""
        return self._told(ExaminationResult, orders, vector)

    def test(
        self, orders: Sequence[ServerTestOrder], vector: Tensor
    ) -> Iterator[tuple[ServerTestOrder, ServerTestResult | None]]:
        """Test the global model; null as for clients that measure."""
        return self._told(ServerTestResult, orders, vector)

    def _told(
        self, kind: type[Told], orders: Sequence[Measuring], vector: Tensor
    ) -> Iterator[tuple[Measuring, Told | None]]:
        """Have orders carried out that are answered with a record alone, of a ``kind``."""
        for order, package in self._packages(orders, vector):
            told: Told | None = None
            if package is not None:
                with suppress(BadPackageError):
                    told = read_about(kind, package, RESULT, most_bytes(0, order.answers))
            yield order, told

    @abstractmethod
    def _packages(
        self, orders: Sequence[Measuring], vector: Tensor
    ) -> Iterator[tuple[Measuring, Package | None]]:
        """Have orders carried out; gives what came back for each, null where nothing readable did."""


def pack_clients(costs: Mapping[int, float], workers: int) -> list[tuple[int, ...]]:
    """Spread clients over at most ``workers`` groups: longest first, each onto the least loaded group."""
    groups: list[list[int]] = [[] for _ in range(min(workers, len(costs)))]
    loads = [(0.0, index) for index in range(len(groups))]
    heapify(loads)
    for client in sorted(costs, key=lambda c: (-costs[c], c)):
        load, index = loads[0]
        groups[index].append(client)
        heapreplace(loads, (load + costs[client], index))
    return [tuple(group) for group in groups]
