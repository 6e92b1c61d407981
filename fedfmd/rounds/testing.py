"""Measure the global model on the server's images: here, or by the workers, who have nothing else to do then.

A batch is measured whole, with as many threads wherever that is, and the batches' sums are added in their
order: the workers' figures are those of this process, bit by bit.
"""

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, nn

from fedfmd.experiment import Experiment
from fedfmd.nn import set_temperature
from fedfmd.rounds.packing import Executor
from fedfmd.training.evaluation import UNMEASURED, ModelEvaluation, evaluate_batch
from fedfmd.wire.evaluation import NOTHING, Batch, Evaluation, EvaluationOrder
from fedfmd.wire.packages import BadPackageError

ORDERS = 4
"""For each worker: one that is slow, or ends, holds up less."""


class GlobalTest:
    """Measures the global model; it does not change it."""

    def __init__(self, experiment: Experiment, executor: Executor, model: nn.Module, buffer: Tensor):
        """Take a network for this process, and the vector that its tensors are views of."""
        self.experiment = experiment
        self.executor = executor
        self.model = model
        self.buffer = buffer

    def measure(self, round: int, vector: Tensor) -> ModelEvaluation:
        """Measure the global ``vector`` as it is after a round."""
        if self.experiment.untested:
            return UNMEASURED
        self.buffer.copy_(vector[: len(self.buffer)])
        set_temperature(self.model, self.experiment.temperatures(round))
        batches = list(self._batches())
        found = self._by_workers(round, vector, batches) if self._spread(round, batches) else {}
        totals: dict[str, Evaluation] = {}
        for batch in batches:
            own = found[batch] if batch in found else self._here(batch)
            totals[batch.images] = totals.get(batch.images, NOTHING) + own
        return ModelEvaluation(**totals)

    def _batches(self) -> Iterator[Batch]:
        size = self.experiment.config.evaluation.batch_size
        for batch in (Batch(images="test", number=0), Batch(images="validation", number=0)):
            if (kept := self.experiment.server_images(batch.images)) is not None:
                for number in range(-(-len(kept[1]) // size)):
                    yield Batch(images=batch.images, number=number)

    def _spread(self, round: int, batches: list[Batch]) -> bool:
        """Whether workers measure: not the initial model, which is there before they are, nor on one GPU."""
        on_cpu = self.experiment.config.backend.device == "cpu"
        return self.executor.tests and on_cpu and round > 0 and len(batches) > 1

    def _by_workers(self, round: int, vector: Tensor, batches: list[Batch]) -> dict[Batch, Evaluation]:
        """Return what workers found; what one leaves out, or takes with it when it ends, is not there."""
        count = min(len(batches), ORDERS * self.executor.workers)
        orders = [
            EvaluationOrder(
                round=round,
                learning_rate=self.experiment.config.client.rate(round),
                temperatures=self.experiment.temperatures(round),
                batches=tuple(batches[first::count]),
            )
            for first in range(count)
        ]
        found: dict[Batch, Evaluation] = {}
        for order, result in self.executor.evaluate(orders, vector):
            if result is None:
                continue
            with suppress(BadPackageError):
                result.check_tests(order, lambda batch: len(self.experiment.batch(batch)[1]))
                found |= {one.batch: one.found for one in result.tested}
        return found

    def _here(self, batch: Batch) -> Evaluation:
        return evaluate_batch(self.model, *self.experiment.batch(batch), self.experiment.augment)
