"""A worker: trains the virtual clients of a work order one after another and replies with one sum."""

import json
from dataclasses import replace
from functools import lru_cache
from math import isfinite

from torch import Tensor

from fedfmd.accounting import ClientRow
from fedfmd.aggregation import ExactSum, RejectedUpdateError
from fedfmd.evaluation import Evaluation, evaluate
from fedfmd.experiment import Experiment
from fedfmd.nn import Temperatures, set_temperature
from fedfmd.packages import WorkOrder, WorkResult, serialised_bytes
from fedfmd.plan import planned_row, training_macs
from fedfmd.seeds import generator
from fedfmd.training import LocalResult, LocalTrainer
from fedfmd.vector import bind

CLIENT_ERRORS = (ArithmeticError, AssertionError, LookupError, MemoryError, OSError, RuntimeError, ValueError)
"""What can go wrong inside one client: a row in the ledger, not the loss of the whole order."""


class Worker:
    """One model, reused by every client this process trains.

    All that a client's result depends on is in the order and the state: nothing is left over from the
    client before, so neither packing nor the number of workers can change a result.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.model = experiment.build_model()
        self.local = bind(self.model)
        self.trainer = LocalTrainer(self.model, experiment.config.client, experiment.augment)

    def train(self, order: WorkOrder, state: Tensor) -> WorkResult:
        """Train the order's clients from ``state``, float32 (elements,)."""
        set_temperature(self.model, order.temperatures)
        total = ExactSum.zero(len(state), order.scale)
        rows = tuple(self._train_client(client, order, state, total) for client in order.clients)
        return WorkResult(total=total, rows=rows)

    def evaluate(self, clients: tuple[int, ...], temperatures: Temperatures, state: Tensor) -> Evaluation:
        """Evaluate ``state`` on these clients' own training pictures."""
        set_temperature(self.model, temperatures)
        self.local.copy_(state)
        batch_size = self.experiment.config.evaluation.batch_size
        result = Evaluation(0, 0, 0, 0.0)
        for client in clients:
            images, labels = self._data(client)
            result += evaluate(self.model, images, labels, self.experiment.augment, batch_size)
        return result

    def _train_client(self, client: int, order: WorkOrder, state: Tensor, total: ExactSum) -> ClientRow:
        row = planned_row(self.experiment, order, client)
        try:
            result = self._local_training(client, order, state)
        except CLIENT_ERRORS as error:
            return row.rejected("failed", f"{type(error).__name__}: {error}"[:500])
        row = _completed(row, result, self.experiment)
        try:
            total.add(self.local.sub_(state), row.examples)
        except RejectedUpdateError as error:
            return row.rejected("failed", str(error))
        return row

    def _local_training(self, client: int, order: WorkOrder, state: Tensor) -> LocalResult:
        self.local.copy_(state)
        images, labels = self._data(client)
        rng = generator(self.experiment.config.seed, "local-training", order.round, client)
        return self.trainer.train(images, labels, learning_rate=order.learning_rate, generator=rng)

    def _data(self, client: int) -> tuple[Tensor, Tensor]:
        indices = self.experiment.partition.indices(client)
        return self.experiment.dataset.train_images[indices], self.experiment.dataset.train_labels[indices]


def _completed(row: ClientRow, result: LocalResult, experiment: Experiment) -> ClientRow:
    reply = replace(
        row,
        status="completed",
        reason=None,
        steps=result.steps,
        macs=training_macs(experiment.model_cost.forward_macs, result.samples),
        uplink_bytes=row.downlink_bytes,
        train_seconds=result.seconds,
        train_loss=result.mean_loss if isfinite(result.mean_loss) else None,
    )
    meta_bytes = len(json.dumps(reply.to_json(), separators=(",", ":")))
    elements = experiment.model_cost.state_elements
    return replace(reply, uplink_wire_bytes=meta_bytes + serialised_bytes(elements))


@lru_cache(maxsize=1)
def cached_worker(document: str) -> Worker:
    """Give this process's worker for an experiment, described as JSON; built on first use."""
    return Worker(Experiment.from_json(json.loads(document)))
