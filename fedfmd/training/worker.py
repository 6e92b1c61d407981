"""A worker: trains the virtual clients of a work order one after another and replies with one sum."""

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.algorithms import Visit, taken
from fedfmd.config.parts import origins
from fedfmd.contracts import blame
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.planning.bill import costing_in, measured_row, planned_row
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
from fedfmd.secure.sums import MaskedSum
from fedfmd.seeds import derive, generator
from fedfmd.training.contribution import (
    Contribution,
    LocalUpdate,
    Sink,
    ToMaskedSum,
    ToSum,
    ToUpload,
)
from fedfmd.training.diagnostics import attention_meter, client_diagnostics
from fedfmd.training.evaluation import evaluate_batch
from fedfmd.training.examination import Examiner
from fedfmd.training.faults import answering, distort, fault_of, strike_before_training
from fedfmd.training.local import CLIENT_ERRORS
from fedfmd.training.masking import Masker
from fedfmd.training.networks import LocalNetwork, Networks
from fedfmd.training.statistics import input_moments
from fedfmd.training.watchdog import DeadlinePassedError, advancing, ended_when_hung
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import WorkOrder, WorkResult
from fedfmd.wire.plan import ClientPlan, Progress
from fedfmd.wire.testing import BatchCounts, ServerTestOrder, ServerTestResult
from fedfmd.wire.upload import Upload

Total = ExactSum | MaskedSum | Upload


@dataclass(frozen=True)
class Own:
    """What a client has of its own as its training begins."""

    client: int
    images: Tensor
    """uint8 (n, C, H, W)"""
    labels: Tensor
    """int64 (n,)"""
    kept: Mapping[str, Tensor]
    """What it has kept of its last round, by name."""


class Worker:
    """The networks of this process, reused by every client it trains.

    All that a client's result depends on is in the order, the state and the client's own kept state: nothing
    is left over from the client before, so neither packing nor the number of workers can change a result.
    """

    def __init__(self, experiment: Experiment, *, expendable: bool = False):
        """Build the model; an ``expendable`` process is ended, and started anew by others, when it hangs."""
        self.experiment = experiment
        self.config = experiment.config
        self.networks = Networks(experiment)
        self.network = self.networks.of(WHOLE, 0, experiment.temperatures(0))
        self.examiner = Examiner(experiment, self.networks)
        self.masker = Masker(experiment)
        self.expendable = expendable

    def train(self, order: WorkOrder, vector: Tensor, memory: Tensor | None = None) -> WorkResult:
        """Train the order's clients from ``vector``: the global state, and what algorithms send along.

        The sum is made in ``memory``, float64 and as long as ``vector``, where it is given.
        """
        total = self._empty(order, len(vector), memory)
        sink = self._sink(order, total)
        clients = answering(self.config, order.round, order.clients)
        work = self._look_at_client if order.task == "statistics" else self._train_client
        return WorkResult(total=total, rows=tuple(work(c, order, vector, sink) for c in clients))

    def _empty(self, order: WorkOrder, elements: int, memory: Tensor | None) -> Total:
        """Return what the order's updates are added to."""
        kind = ExactSum if order.secure is None else MaskedSum
        return kind.zero(elements, order.scale) if memory is None else kind.zero_in(memory, order.scale)

    def _sink(self, order: WorkOrder, total: Total) -> Sink:
        """Return how updates enter that."""
        if isinstance(total, MaskedSum):
            return ToMaskedSum(total, self.masker, order)
        network = self.experiment.network
        return ToUpload(total, network) if isinstance(total, Upload) else ToSum(total, network)

    def examine(self, order: ExaminationOrder, vector: Tensor) -> ExaminationResult:
        """Let the order's clients measure the models that it asks for, on their own images.

        ``vector``, float32, begins with the global state.
        """
        with self._watched(order.allowed_seconds(self.config.client.deadline_seconds)):
            return self.examiner.examine(order, vector)

    def test(self, order: ServerTestOrder, vector: Tensor) -> ServerTestResult:
        """Test the global state, with which ``vector`` begins, on the server's images, as the server does."""
        network = self.networks.of(WHOLE, order.round, order.temperatures)
        network.vector.copy_(vector[: network.layout.elements])
        tested: list[BatchCounts] = []
        with self._watched(order.seconds):
            for batch in advancing(order.batches):
                images, labels = self.experiment.batch(batch)
                found = evaluate_batch(network.bare, images, labels, self.experiment.augment)
                if math.isfinite(found.loss_sum):
                    tested.append(BatchCounts(batch=batch, found=found))
        return ServerTestResult(tested=tuple(tested))

    def _watched(self, seconds: float | None) -> AbstractContextManager[None]:
        """End this process, if others start it anew, when work hangs that may take so many ``seconds``."""
        return ended_when_hung(seconds) if self.expendable else nullcontext()

    def reason(self, error: BaseException) -> str:
        """Return what a client's row says of why its training failed, and in which part of the user's own."""
        ours = isinstance(error, (UserError, RunError))
        found = "" if ours else blame(error, origins(self.config), seen=True)
        return found or f"{type(error).__name__}: {error}"

    def _train_client(self, client: int, order: WorkOrder, vector: Tensor, sink: Sink) -> ClientRow:
        costing = costing_in(self.experiment, order, client)
        row, progress = planned_row(costing, order, client), Progress()
        fault = fault_of(self.config, order.round, client)
        sent, unsent = False, 0
        try:
            with self._watched(self.config.client.deadline_seconds):
                strike_before_training(fault, self.config.faults.hang_seconds)
                own, remark = self._own(client, order)
                done = self._local_update(own, order, costing.plan, vector, progress)
            if done.start is not None and (fault is not None or not sink.takes_start):
                done = replace(done, update=done.update - done.start, start=None)
            told, examples = distort(fault, done.vector(), self.experiment.partition.size(client))
            contribution = Contribution(
                client=client,
                share=costing.plan.share,
                vector=told,
                start=done.start,
                extra_elements=done.extra_elements,
                sent=done.sent,
                weight=self.experiment.algorithms.weight(examples, order.staleness),
                examples=examples,
                mean_loss=progress.mean_loss,
            )
            sent = sink.shows_rejected
            added = sink.add(contribution)
            sent, unsent = True, added.unsent
            row = replace(
                row, status="completed", reason=remark, diagnostics=done.diagnostics, **added.columns
            )
        except DeadlinePassedError as error:
            row = row.rejected("dropped", str(error))
        except CLIENT_ERRORS as error:
            row = row.rejected("failed", self.reason(error))
        return measured_row(row, costing, progress, sent=sent, unsent=unsent)

    def _look_at_client(self, client: int, order: WorkOrder, vector: Tensor, sink: Sink) -> ClientRow:
        """Sum what a client's images are to the BatchNorm layers of the global model."""
        row = planned_row(costing_in(self.experiment, order, client), order, client)
        network = self.networks.of(WHOLE, order.round, order.temperatures)
        images, labels = self.experiment.trained_on(client)
        try:
            self.networks.load(network, vector[: network.layout.elements], {})
            size = self.config.evaluation.batch_size
            augment = self.experiment.augment
            with self._watched(self.config.client.deadline_seconds):
                found = input_moments(network.model, images, augment, size, network.layout, len(vector))
            weight = len(labels)
            sink.add(Contribution(client=client, share=WHOLE, vector=found, weight=weight, examples=weight))
        except CLIENT_ERRORS as error:
            return row.rejected("failed", self.reason(error))
        return replace(row, status="completed", reason=None)

    def _own(self, client: int, order: WorkOrder) -> tuple[Own, str | None]:
        """Return what a client has, and a remark where something of it is lost."""
        kept, remark = self.networks.kept_state(client, order.state_round(client))
        return Own(client, *self.experiment.trained_on(client), kept), remark

    def _local_update(
        self, own: Own, order: WorkOrder, plan: ClientPlan, vector: Tensor, progress: Progress
    ) -> LocalUpdate:
        """Train one client.

        Where nothing is made of the update but a sum, gives where the client ended, and where it began.
        """
        network = self.networks.of(plan.share, order.round, order.temperatures)
        visit = self._visit(own, order, plan.share, network, vector)
        side = self.experiment.algorithms.client(visit)
        with attention_meter(network.model, enabled=self.config.measures_attention) as meter:
            network.trainer.train(
                own.images,
                own.labels,
                plan=plan,
                learning_rate=order.learning_rate,
                generator=generator(self.config.seed, "local-training", order.stamp, own.client),
                progress=progress,
                side=side,
            )
        if not (side.ends or self.config.measures_attention):
            return LocalUpdate(update=network.vector.cpu(), start=visit.start)
        side.trained()
        network.vector.sub_(visit.start.to(network.vector.device))
        done = side.finish(network.vector.cpu(), progress.steps)  # on a CPU the model's own memory
        if self.experiment.keeps_state:
            self.experiment.store.save(own.client, order.stamp, done.kept)
        figures: Json = {}
        if self.config.measures_attention:
            weight = self.experiment.algorithms.weight(len(own.labels), order.staleness)
            figures = client_diagnostics(meter, done.update, network.layout, weight)
        return LocalUpdate(update=done.update, extra=done.extra, sent=done.sent, diagnostics=figures)

    def _visit(
        self, own: Own, order: WorkOrder, share: Share, network: LocalNetwork, vector: Tensor
    ) -> Visit:
        """Load the network with where the client begins; gives what algorithms see of its work."""
        places, elements = self.experiment.network.index(share), network.layout.elements
        sent = taken(vector, places)
        start = sent[:elements]
        self.networks.load(network, start, own.kept)
        return Visit(
            round=order.round - order.staleness,
            network=network.trained,
            vector=network.vector,
            layout=network.layout,
            start=start,
            index=None if places is None else places[:elements],
            whole=self.network.layout,
            extra=sent[elements:],
            kept=own.kept,
            labels=own.labels,
            learning_rate=order.learning_rate,
            seed=derive(self.config.seed, "visit", order.stamp, own.client),
        )


@lru_cache(maxsize=1)
def cached_worker(document: str) -> Worker:
    """Return this process's worker for an experiment, described as JSON; built on first use."""
    return Worker(Experiment.from_json(json.loads(document)), expendable=True)
