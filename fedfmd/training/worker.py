"""A worker: trains the virtual clients of a work order one after another and replies with one sum."""

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.algorithms import Finished, Visit, taken
from fedfmd.config.parts import origins
from fedfmd.contracts import blame
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.planning.bill import measured_row, plan_in, planned_row
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
from fedfmd.secure.sums import MaskedSum, SummedFigures
from fedfmd.seeds import derive, generator
from fedfmd.training.diagnostics import attention_meter, client_diagnostics
from fedfmd.training.evaluation import evaluate_batch
from fedfmd.training.examination import Examiner
from fedfmd.training.faults import answering, distort, fault_of, strike_before_training
from fedfmd.training.local import CLIENT_ERRORS
from fedfmd.training.masking import MaskedUpdate, Masker
from fedfmd.training.networks import LocalNetwork, Networks
from fedfmd.training.statistics import input_moments
from fedfmd.training.watchdog import DeadlinePassedError, ended_when_hung
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import WorkOrder, WorkResult
from fedfmd.wire.plan import ClientPlan, Progress
from fedfmd.wire.testing import BatchCounts, ServerTestOrder, ServerTestResult
from fedfmd.wire.upload import Upload

Total = ExactSum | MaskedSum | Upload


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
        clients = answering(self.config, order.round, order.clients)
        work = self._look_at_client if order.task == "statistics" else self._train_client
        return WorkResult(total=total, rows=tuple(work(c, order, vector, total) for c in clients))

    def _empty(self, order: WorkOrder, elements: int, memory: Tensor | None) -> Total:
        """Return what the order's updates are added to."""
        kind = ExactSum if order.secure is None else MaskedSum
        return kind.zero(elements, order.scale) if memory is None else kind.zero_in(memory, order.scale)

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
            for batch in order.batches:
                images, labels = self.experiment.batch(batch)
                found = evaluate_batch(network.bare, images, labels, self.experiment.augment)
                if math.isfinite(found.loss_sum):
                    tested.append(BatchCounts(batch=batch, found=found))
        return ServerTestResult(tested=tuple(tested))

    def _watched(self, seconds: float | None) -> AbstractContextManager[None]:
        """End this process, if others start it anew, when work hangs that may take so many ``seconds``."""
        return ended_when_hung(seconds if self.expendable else None)

    def reason(self, error: BaseException) -> str:
        """Return what a client's row says of why its training failed, and in which part of the user's own."""
        ours = isinstance(error, (UserError, RunError))
        found = "" if ours else blame(error, origins(self.config), seen=True)
        return found or f"{type(error).__name__}: {error}"

    def _train_client(self, client: int, order: WorkOrder, vector: Tensor, total: Total) -> ClientRow:
        row, progress = planned_row(self.experiment, order, client), Progress()
        plan = plan_in(order, client, self.config)
        fault = fault_of(self.config, order.round, client)
        diagnostics: Json = {}
        sent, masked = False, None
        try:
            with self._watched(self.config.client.deadline_seconds):
                strike_before_training(fault, self.config.faults.hang_seconds)
                kept, remark = self.networks.kept_state(client, order.state_round(client))
                done, start = self._local_update(client, order, plan, vector, kept, progress, diagnostics)
            update = done.update if done.extra is None else torch.cat([done.update, done.extra])
            if start is not None and (fault is not None or not isinstance(total, ExactSum)):
                update, start = update - start, None
            update, examples = distort(fault, update, self.experiment.partition.size(client))
            weight = self.experiment.algorithms.weight(examples, order.staleness)
            if isinstance(total, MaskedSum):
                figures = SummedFigures.of(weight, examples, progress.mean_loss)
                masked = self.masker.add(client, order, plan.share, update, figures, total)
                row = _with_masking(row, masked)
            else:
                sent = True  # what the sum rejects has arrived
                part, index = plan.share.key, self.experiment.network.index(plan.share)
                if isinstance(total, Upload):
                    extra = 0 if done.extra is None else len(done.extra)
                    total.add(update, weight, part, index, done.sent, extra)
                else:
                    total.add(update, weight, part, index, start)
            row, sent = replace(row, status="completed", reason=remark, diagnostics=diagnostics), True
        except DeadlinePassedError as error:
            row = row.rejected("dropped", str(error))
        except CLIENT_ERRORS as error:
            row = row.rejected("failed", self.reason(error))
        unsent = masked.unsent if masked else 0
        return measured_row(row, plan, progress, self.experiment, sent=sent, unsent=unsent)

    def _look_at_client(self, client: int, order: WorkOrder, vector: Tensor, total: Total) -> ClientRow:
        """Sum what a client's images are to the BatchNorm layers of the global model."""
        row = planned_row(self.experiment, order, client)
        network = self.networks.of(WHOLE, order.round, order.temperatures)
        images, labels = self.experiment.trained_on(client)
        try:
            self.networks.load(network, vector[: network.layout.elements], {})
            size = self.config.evaluation.batch_size
            augment = self.experiment.augment
            found = input_moments(network.model, images, augment, size, network.layout, len(vector))
            assert not isinstance(total, MaskedSum)  # moments are not masked
            total.add(found, len(labels))
        except CLIENT_ERRORS as error:
            return row.rejected("failed", self.reason(error))
        return replace(row, status="completed", reason=None)

    def _local_update(
        self,
        client: int,
        order: WorkOrder,
        plan: ClientPlan,
        vector: Tensor,
        kept: Mapping[str, Tensor],
        progress: Progress,
        diagnostics: Json,
    ) -> tuple[Finished, Tensor | None]:
        """Train one client; gives its update of its part, good until the next client is trained.

        Where nothing is made of the update but a sum, gives where the client ended, and where it began.
        """
        network = self.networks.of(plan.share, order.round, order.temperatures)
        visit = self._visit(client, order, plan.share, network, vector, kept)
        side = self.experiment.algorithms.client(visit)
        with attention_meter(network.model, enabled=self.config.measures_attention) as meter:
            network.trainer.train(
                *self.experiment.trained_on(client),
                plan=plan,
                learning_rate=order.learning_rate,
                generator=generator(self.config.seed, "local-training", order.stamp, client),
                progress=progress,
                side=side,
            )
        if not (side.ends or self.config.measures_attention):
            return Finished(update=network.vector.cpu()), visit.start
        side.trained()
        network.vector.sub_(visit.start.to(network.vector.device))
        done = side.finish(network.vector.cpu(), progress.steps)  # on a CPU the model's own memory
        if self.experiment.keeps_state:
            self.experiment.store.save(client, order.stamp, done.kept)
        if self.config.measures_attention:
            weight = self.experiment.algorithms.weight(len(visit.labels), order.staleness)
            diagnostics |= client_diagnostics(meter, done.update, network.layout, weight)
        return done, None

    def _visit(
        self,
        client: int,
        order: WorkOrder,
        share: Share,
        network: LocalNetwork,
        vector: Tensor,
        kept: Mapping[str, Tensor],
    ) -> Visit:
        """Load the network with where the client begins; gives what algorithms see of its work."""
        places, elements = self.experiment.network.index(share), network.layout.elements
        sent = taken(vector, places)
        start = sent[:elements]
        self.networks.load(network, start, kept)
        return Visit(
            round=order.round - order.staleness,
            network=network.trained,
            vector=network.vector,
            layout=network.layout,
            start=start,
            index=None if places is None else places[:elements],
            whole=self.network.layout,
            extra=sent[elements:],
            kept=kept,
            labels=self.experiment.labels(client),
            learning_rate=order.learning_rate,
            seed=derive(self.config.seed, "visit", order.stamp, client),
        )


def _with_masking(row: ClientRow, masked: MaskedUpdate) -> ClientRow:
    seconds = masked.seconds
    return replace(row, secure_seconds=seconds, secure_stage_seconds={"masks": seconds})


@lru_cache(maxsize=1)
def cached_worker(document: str) -> Worker:
    """Give this process's worker for an experiment, described as JSON; built on first use."""
    return Worker(Experiment.from_json(json.loads(document)), expendable=True)
