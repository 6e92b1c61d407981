"""A worker: trains the virtual clients of a work order one after another and replies with one sum."""

import json
from dataclasses import replace
from functools import lru_cache
from math import isfinite

import torch
from torch import Tensor

from fedfmd.accounting import ClientRow
from fedfmd.aggregation import ExactSum
from fedfmd.errors import RunError
from fedfmd.evaluation import Evaluation, evaluate
from fedfmd.experiment import Experiment
from fedfmd.faults import answering, distort, fault_of, strike_before_training
from fedfmd.nn import freeze_statistics, local_state_names, set_temperature
from fedfmd.packages import WorkOrder, WorkResult, serialised_bytes
from fedfmd.plan import client_weight, planned_row, training_macs
from fedfmd.seeds import generator
from fedfmd.training import LocalTrainer, Progress
from fedfmd.vector import Layout, bind
from fedfmd.watchdog import DeadlinePassedError, ended_when_hung

CLIENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    RunError,
)
"""What can go wrong inside one client: a row in the ledger, not the loss of the whole order."""
NORMS, CONTROL = "norms", "control"


class Worker:
    """One model, reused by every client this process trains.

    All that a client's result depends on is in the order, the state and the client's own kept state: nothing
    is left over from the client before, so neither packing nor the number of workers can change a result.
    """

    def __init__(self, experiment: Experiment, *, expendable: bool = False):
        """Build the model; an ``expendable`` process is ended, and started anew by others, when it hangs."""
        self.experiment = experiment
        self.config = experiment.config
        self.model = experiment.build_model().to(self.config.backend.device)
        self.layout = Layout.of(self.model)
        self.local = bind(self.model)
        self.own = self.layout.mask(local_state_names(self.model)).nonzero().flatten().to(self.local.device)
        self.trainer = LocalTrainer(self.model, self.config.client, experiment.augment)
        self.hang_seconds = self.config.client.deadline_seconds if expendable else None

    def train(self, order: WorkOrder, vector: Tensor) -> WorkResult:
        """Train the order's clients from ``vector``: the global state and, for SCAFFOLD, the control."""
        self._prepare(order)
        total = ExactSum.zero(len(vector), order.scale)
        clients = answering(self.config, order.round, order.clients)
        return WorkResult(
            total=total, rows=tuple(self._train_client(c, order, vector, total) for c in clients)
        )

    def evaluate(self, order: WorkOrder, vector: Tensor) -> Evaluation:
        """Evaluate ``vector`` on the training pictures of the order's clients."""
        self._prepare(order)
        result = Evaluation(0, 0, 0, 0.0)
        for client in order.clients:
            self._load(vector, self.experiment.store.load(client, order.state_round(client)))
            batch_size = self.config.evaluation.batch_size
            result += evaluate(self.model, *self._data(client), self.experiment.augment, batch_size)
        return result

    def _prepare(self, order: WorkOrder) -> None:
        set_temperature(self.model, order.temperatures)
        first_frozen = self.config.model.freeze_round
        freeze_statistics(self.model, frozen=first_frozen is not None and order.round >= first_frozen)

    def _train_client(self, client: int, order: WorkOrder, vector: Tensor, total: ExactSum) -> ClientRow:
        row, progress = planned_row(self.experiment, order, client), Progress()
        fault = fault_of(self.config, order.round, client)
        try:
            with ended_when_hung(self.hang_seconds):
                strike_before_training(fault, self.config.faults.hang_seconds)
                update = self._local_update(client, order, vector, progress)
            row = replace(row, uplink_bytes=row.downlink_bytes)
            update, examples = distort(fault, update, row.examples)
            total.add(update, client_weight(self.config, examples))
            row = replace(row, status="completed", reason=None)
        except DeadlinePassedError as error:
            row = row.rejected("dropped", str(error))
        except CLIENT_ERRORS as error:
            row = row.rejected("failed", f"{type(error).__name__}: {error}"[:500])
        return _measured(row, progress, self.experiment)

    def _local_update(self, client: int, order: WorkOrder, vector: Tensor, progress: Progress) -> Tensor:
        """Train one client; gives its update (len(vector),), good until the next client is trained."""
        state, control = vector[: self.layout.elements], vector[self.layout.elements :]
        kept = self.experiment.store.load(client, order.state_round(client))
        self._load(vector, kept)
        own_control = kept.get(CONTROL, torch.zeros_like(control))
        correction = (control - own_control).to(self.local.device) if len(control) else None
        self.trainer.train(
            *self._data(client),
            learning_rate=order.learning_rate,
            generator=generator(self.config.seed, "local-training", order.round, client),
            progress=progress,
            correction=correction,
        )
        norms = self.local[self.own].cpu()
        self.local.sub_(state.to(self.local.device))[self.own] = 0
        update = self.local.cpu()  # on a CPU the model's own memory
        moved = update[: len(control)]  # the parameters come first, and the control is as long as they are
        new_control = next_control(own_control, control, moved, progress.steps, order.learning_rate)
        if self.experiment.keeps_state:
            self.experiment.store.save(client, order.round, {NORMS: norms, CONTROL: new_control})
        return torch.cat([update, new_control - own_control]) if len(control) else update

    def _load(self, vector: Tensor, kept: dict[str, Tensor]) -> None:
        self.local.copy_(vector[: self.layout.elements])
        if NORMS in kept:
            self.local[self.own] = kept[NORMS].to(self.local.device)

    def _data(self, client: int) -> tuple[Tensor, Tensor]:
        indices = self.experiment.partition.indices(client)
        return self.experiment.dataset.train_images[indices], self.experiment.dataset.train_labels[indices]


def next_control(own: Tensor, control: Tensor, moved: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Give a client's next control variate: c_i - c + (x - y_i) / (K lr).

    Karimireddy et al. 2020 (SCAFFOLD), algorithm 1, line 12, option II; ``moved`` is y_i - x after K
    ``steps``. All are (parameters,).
    """
    return own - control - moved / (max(steps, 1) * learning_rate)


def _measured(row: ClientRow, progress: Progress, experiment: Experiment) -> ClientRow:
    """Write into the row what was done, of use or not."""
    loss = progress.mean_loss
    measured = replace(
        row,
        steps=progress.steps,
        macs=training_macs(experiment.model_cost.forward_macs, progress.samples),
        train_seconds=progress.seconds,
        train_loss=loss if loss is not None and isfinite(loss) else None,
    )
    if not measured.uplink_bytes:
        return measured
    meta_bytes = len(json.dumps(measured.to_json(), separators=(",", ":")))
    wire_bytes = meta_bytes + serialised_bytes(experiment.exchanged_elements)
    return replace(measured, uplink_wire_bytes=wire_bytes)


@lru_cache(maxsize=1)
def cached_worker(document: str) -> Worker:
    """Give this process's worker for an experiment, described as JSON; built on first use."""
    return Worker(Experiment.from_json(json.loads(document)), expendable=True)
