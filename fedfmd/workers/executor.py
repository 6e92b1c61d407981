"""Carries orders to worker processes of this machine; vectors and sums cross in shared memory."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.records.schema import one_line
from fedfmd.rounds.packing import Measurer, Measuring
from fedfmd.rounds.secure import Members, VirtualMembers
from fedfmd.training.watchdog import LATE_SECONDS, due
from fedfmd.wire.examination import ExaminationOrder
from fedfmd.wire.packages import BadPackageError, Package, Reply, WorkOrder, WorkResult, most_bytes
from fedfmd.wire.testing import ServerTestOrder
from fedfmd.workers.exchange import Exchange
from fedfmd.workers.fork_server import ForkServer
from fedfmd.workers.pool import Answered, ProcessPool
from fedfmd.workers.process import Job

Order = TypeVar("Order", WorkOrder, ExaminationOrder, ServerTestOrder)


class PoolExecutor(Measurer):
    """An executor over worker processes; the server names the clients, a free worker gets the next order."""

    tests = True

    def __init__(self, experiment: Experiment, fork_server: ForkServer, workers: int):
        self.workers = workers
        self.deadline_seconds = experiment.config.client.deadline_seconds
        self.pool = ProcessPool(fork_server, json.dumps(experiment.to_json()), workers)
        self.exchange: Exchange | None = None

    def close(self) -> None:
        """End the workers and give the shared memory back."""
        self.pool.close()
        if self.exchange is not None:
            self.exchange.close()

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders, one at a time on each worker; replies come in order of completion."""
        for order, shared, answered in self._exchanged(orders, vector):
            yield _reply(order, shared, answered)

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return the virtual clients of a secure sum, whose keys and shares are made here."""
        return VirtualMembers(experiment, round, attempt)

    def _packages(
        self, orders: Sequence[Measuring], vector: Tensor
    ) -> Iterator[tuple[Measuring, Package | None]]:
        for order, _, answered in self._exchanged(orders, vector):
            yield order, answered.package

    def _exchanged(self, orders: Sequence[Order], vector: Tensor) -> Iterator[tuple[Order, Tensor, Answered]]:
        """Have every order carried out; gives what came of each, and its worker's sum."""
        exchange = self._written(vector)
        waiting, nodes = deque(range(len(orders))), dict[int, int]()
        while waiting or nodes:
            while waiting and self.pool.idle:
                index = waiting.popleft()
                order = orders[index]
                nodes[index] = self.pool.idle[0].place
                end = due(order.allowed_seconds(self.deadline_seconds), LATE_SECONDS)
                self.pool.submit(index, Job(order, exchange.place(nodes[index])), end)
            for answered in self.pool.wait():
                yield orders[answered.job], exchange.sum(nodes.pop(answered.job)), answered

    def _written(self, vector: Tensor) -> Exchange:
        """Put the vector where the workers look; raises ``RunError`` where there is no room for it."""
        if self.exchange is None:
            self.exchange = Exchange.create(len(vector), range(self.workers))
        if self.exchange is None:
            raise RunError(
                f"no room for what {self.workers} workers share, "
                f"{Exchange.size_bytes(len(vector), self.workers) / 1e9:.1f} GB, in /dev/shm or the folder "
                "for temporary files (TMPDIR); free some, or set backend.workers = 1"
            )
        self.exchange.write(vector)
        return self.exchange


def _reply(order: WorkOrder, shared: Tensor, answered: Answered) -> Reply:
    if answered.package is None:
        return Reply(order=order, reason=one_line(answered.reason))
    try:
        most = most_bytes(len(shared), len(order.clients))
        return Reply(order=order, result=WorkResult.unpack(answered.package, shared, most))
    except BadPackageError as error:
        return Reply(order=order, reason=str(error), arrived=True)
