"""The executor of this process: a plain loop, the oracle of the others."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fedfmd.experiment import Experiment
from fedfmd.machine.process import prepare_process
from fedfmd.rounds.secure import Members, VirtualMembers
from fedfmd.training.worker import Worker
from fedfmd.wire.evaluation import EvaluationOrder, EvaluationResult
from fedfmd.wire.packages import Reply, WorkOrder


class InlineExecutor:
    """A plain loop in this process."""

    workers = 1
    tests = False

    def __init__(self, experiment: Experiment):
        prepare_process(experiment.config.backend.threads)
        self.worker = Worker(experiment)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders one after another."""
        for order in orders:
            yield Reply(order=order, result=self.worker.train(order, vector))

    def evaluate(
        self, orders: Sequence[EvaluationOrder], vector: Tensor
    ) -> Iterator[tuple[EvaluationOrder, EvaluationResult | None]]:
        """Let the clients of one order after another measure."""
        for order in orders:
            yield order, self.worker.evaluate(order, vector)

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return the virtual clients, who answer in this process."""
        return VirtualMembers(experiment, round, attempt)
