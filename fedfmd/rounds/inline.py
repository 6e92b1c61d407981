"""The executor of this process: a plain loop, the oracle of the others."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fedfmd.experiment import Experiment
from fedfmd.rounds.secure import Members, VirtualMembers
from fedfmd.training.worker import Worker
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import Reply, WorkOrder
from fedfmd.wire.testing import ServerTestOrder, ServerTestResult


class InlineExecutor:
    """A plain loop in this process."""

    workers = 1
    tests = False

    def __init__(self, experiment: Experiment):
        self.worker = Worker(experiment)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders one after another."""
        for order in orders:
            yield Reply(order=order, result=self.worker.train(order, vector))

    def examine(
        self, orders: Sequence[ExaminationOrder], vector: Tensor
    ) -> Iterator[tuple[ExaminationOrder, ExaminationResult | None]]:
        """Let the clients of one order after another measure."""
        for order in orders:
            yield order, self.worker.examine(order, vector)

    def test(
        self, orders: Sequence[ServerTestOrder], vector: Tensor
    ) -> Iterator[tuple[ServerTestOrder, ServerTestResult | None]]:
        """Test the global model; whoever leads a run does that without orders."""
        for order in orders:
            yield order, self.worker.test(order, vector)

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Return the virtual clients, who answer in this process."""
        return VirtualMembers(experiment, round, attempt)
