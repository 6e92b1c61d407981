"""The executors of this process: a plain loop, the oracle of the others, and on a GPU a thread per worker."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from fedfmd.experiment import Experiment
from fedfmd.machine.process import prepare_process
from fedfmd.rounds.secure import Members, VirtualMembers
from fedfmd.training.worker import Worker
from fedfmd.wire.evaluation import EvaluationOrder, EvaluationResult
from fedfmd.wire.packages import Reply, WorkOrder

Order = TypeVar("Order")
Result = TypeVar("Result")


class InlineExecutor:
    """Workers in this process.

    One, and on a GPU as many as ``backend.workers`` says: its small kernels leave room for each other, and
    each worker has a stream of its own.
    """

    def __init__(self, experiment: Experiment):
        prepare_process(experiment.config.backend.threads)
        self.workers = experiment.config.backend.workers or 1
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(Worker(experiment))

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders; gives a reply each, as they come."""

        def work(order: WorkOrder) -> Reply:
            with self._worker() as worker:
                return Reply(order=order, result=worker.train(order, vector))

        yield from self._each(orders, work)

    def evaluate(
        self, orders: Sequence[EvaluationOrder], vector: Tensor
    ) -> Iterator[tuple[EvaluationOrder, EvaluationResult | None]]:
        """Let the clients of each order measure."""

        def work(order: EvaluationOrder) -> tuple[EvaluationOrder, EvaluationResult]:
            with self._worker() as worker:
                return order, worker.evaluate(order, vector)

        yield from self._each(orders, work)

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return the virtual clients, who answer in this process."""
        return VirtualMembers(experiment, round, attempt)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def _each(self, orders: Sequence[Order], work: Callable[[Order], Result]) -> Iterator[Result]:
        if self.workers == 1:
            yield from map(work, orders)
            return
        with ThreadPoolExecutor(self.workers) as threads:
            for done in as_completed([threads.submit(work, order) for order in orders]):
                yield done.result()
