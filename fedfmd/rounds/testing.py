"""Measure the global model on the server's images: here, or by the workers, who have nothing else to do then.

A batch is measured whole, with as many threads wherever that is, and the batches' sums are added in their
order: the workers' figures are those of this process, bit by bit.
"""

import time
from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, nn

from fedfmd.experiment import Experiment
from fedfmd.nn import set_temperature
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.places import MOST_PER_CORE
from fedfmd.training.evaluation import UNMEASURED, ModelEvaluation, evaluate_batch
from fedfmd.wire.packages import BadPackageError
from fedfmd.wire.testing import NOTHING, Batch, Evaluation, ServerTestOrder

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
        self.batch_seconds: float | None = None
        """What the slowest batch took here; null before the first."""

    def measure(self, round: int, vector: Tensor) -> ModelEvaluation:
        """Measure the global ``vector`` as it is after a round."""
        if self.experiment.untested:
            return UNMEASURED
        self.buffer.copy_(vector[: len(self.buffer)])
        set_temperature(self.model, self.experiment.temperatures(round))
        batches = list(self._batches())
        found = self._by_workers(round, vector, batches)
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

    def _by_workers(self, round: int, vector: Tensor, batches: list[Batch]) -> dict[Batch, Evaluation]:
        """Return what workers found; what one leaves out, or takes with it when it ends, is not there.

        They are asked once this process has measured a model, the initial one or that of a resumed run, by
        itself: it is there before they are, and tells how long they may take.
        """
        on_cpu = self.experiment.config.backend.device == "cpu"
        if self.batch_seconds is None or not self.executor.tests or not on_cpu or len(batches) < 2:
            return {}
        found: dict[Batch, Evaluation] = {}
        for order, result in self.executor.test(self._orders(round, batches, self.batch_seconds), vector):
            if result is None:
                continue
            with suppress(BadPackageError):
                result.check(order, lambda batch: len(self.experiment.batch(batch)[1]))
                found |= {one.batch: one.found for one in result.tested}
        return found

    def _orders(self, round: int, batches: list[Batch], batch_seconds: float) -> list[ServerTestOrder]:
        """Spread the batches; the time for them is that of one of all the workers that may share a core."""
        count = min(len(batches), ORDERS * self.executor.workers)
        return [
            ServerTestOrder(
                round=round,
                temperatures=self.experiment.temperatures(round),
                batches=tuple(own),
                seconds=MOST_PER_CORE * batch_seconds * len(own),
            )
            for own in (batches[first::count] for first in range(count))
        ]

    def _here(self, batch: Batch) -> Evaluation:
        started = time.perf_counter()
        found = evaluate_batch(self.model, *self.experiment.batch(batch), self.experiment.augment)
        self.batch_seconds = max(self.batch_seconds or 0.0, time.perf_counter() - started)
        return found
