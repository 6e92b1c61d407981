"""A worker: trains the virtual clients of a work order one after another and replies with one sum."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.algorithms import Trained, Visit, taken
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.nn import Temperatures, freeze_statistics, set_temperature
from fedfmd.nn.part_norm import take_window
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.nn.vector import Layout, bind
from fedfmd.planning.bill import measured_row, plan_in, planned_row
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
from fedfmd.records.store import LostStateError
from fedfmd.seeds import generator
from fedfmd.training.diagnostics import attention_meter, client_diagnostics
from fedfmd.training.evaluation import Evaluation, evaluate
from fedfmd.training.faults import answering, distort, fault_of, strike_before_training
from fedfmd.training.local import LocalTrainer, plain_forward
from fedfmd.training.watchdog import DeadlinePassedError, ended_when_hung
from fedfmd.wire.packages import WorkOrder, WorkResult
from fedfmd.wire.plan import ClientPlan, Progress

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
KEPT_NETWORKS = 12
"""Shapes of sub-models that a worker keeps ready."""


class LocalNetwork:
    """A network for one shape of share, reused by every client that trains one; its state is one vector."""

    def __init__(self, experiment: Experiment, share: Share):
        config = experiment.config
        model = experiment.build_part(share).to(config.backend.device)
        self.layout = Layout.of(model)
        self.vector = bind(model)
        forward = plain_forward(model, experiment.part(share).cost.macs_by_kind)
        self.trained = experiment.algorithms.network(Trained(model, forward), share, experiment)
        self.model = self.trained.model
        self.trainer = LocalTrainer(
            self.model,
            config.client,
            experiment.augment,
            self.trained.forward,
            looks_at_losses=config.selection.kind == "oort",
        )

    def prepare(self, temperatures: Temperatures, *, frozen: bool, rotation: int = 0) -> None:
        """Set what the server decides for a round, of which parts of the model begin at ``rotation``."""
        for model in (self.model, *self.trained.variants):
            take_window(model, rotation)
            set_temperature(model, temperatures)
            freeze_statistics(model, frozen=frozen)


class Worker:
    """The networks of this process, reused by every client it trains.

    All that a client's result depends on is in the order, the state and the client's own kept state: nothing
    is left over from the client before, so neither packing nor the number of workers can change a result.
    """

    def __init__(self, experiment: Experiment, *, expendable: bool = False):
        """Build the model; an ``expendable`` process is ended, and started anew by others, when it hangs."""
        self.experiment = experiment
        self.config = experiment.config
        self.networks: dict[tuple[float, int, int], LocalNetwork] = {}
        self.network = self._network(WHOLE)
        self.hang_seconds = self.config.client.deadline_seconds if expendable else None

    def train(self, order: WorkOrder, vector: Tensor, memory: Tensor | None = None) -> WorkResult:
        """Train the order's clients from ``vector``: the global state, and what algorithms send along.

        The sum is made in ``memory``, float64 and as long as ``vector``, where it is given.
        """
        if memory is None:
            total = ExactSum.zero(len(vector), order.scale)
        else:
            total = ExactSum.zero_in(memory, order.scale)
        clients = answering(self.config, order.round, order.clients)
        return WorkResult(
            total=total, rows=tuple(self._train_client(c, order, vector, total) for c in clients)
        )

    def evaluate(self, order: WorkOrder, vector: Tensor) -> Evaluation:
        """Evaluate ``vector`` on the training pictures of the order's clients."""
        network = self.network
        self._prepare(network, order)
        result = Evaluation(0, 0, 0, 0.0)
        for client in order.clients:
            kept, _ = self._kept_state(client, order)
            self._load(network, vector[: network.layout.elements], kept)
            batch_size = self.config.evaluation.batch_size
            result += evaluate(network.model, *self._data(client), self.experiment.augment, batch_size)
        return result

    def reason(self, error: Exception) -> str:
        """Return what a client's row says of why its training failed."""
        return f"{type(error).__name__}: {error}"

    def _prepare(self, network: LocalNetwork, order: WorkOrder, rotation: int = 0) -> None:
        first_frozen = self.config.model.freeze_round
        frozen = first_frozen is not None and order.round >= first_frozen
        network.prepare(order.temperatures, frozen=frozen, rotation=rotation)

    def _network(self, share: Share) -> LocalNetwork:
        shape = (share.width, len(share.kernels), share.depth)
        network = self.networks.pop(shape, None) or LocalNetwork(self.experiment, share)
        self.networks[shape] = network  # the last used one is the last to go
        if len(self.networks) > KEPT_NETWORKS:
            self.networks.pop(next(iter(self.networks)))
        return network

    def _train_client(self, client: int, order: WorkOrder, vector: Tensor, total: ExactSum) -> ClientRow:
        row, progress = planned_row(self.experiment, order, client), Progress()
        plan = plan_in(order, client, self.config)
        fault = fault_of(self.config, order.round, client)
        diagnostics: Json = {}
        sent = False
        try:
            with ended_when_hung(self.hang_seconds):
                strike_before_training(fault, self.config.faults.hang_seconds)
                kept, remark = self._kept_state(client, order)
                update, start = self._local_update(client, order, plan, vector, kept, progress, diagnostics)
            if fault is not None and start is not None:
                update, start = update - start, None
            update, examples = distort(fault, update, row.examples)
            weight = self.experiment.algorithms.weight(examples, order.staleness)
            sent = True  # what the sum rejects has arrived
            total.add(update, weight, plan.share.key, self.experiment.index(plan.share), start)
            row = replace(row, status="completed", reason=remark, diagnostics=diagnostics)
        except DeadlinePassedError as error:
            row = row.rejected("dropped", str(error))
        except CLIENT_ERRORS as error:
            row = row.rejected("failed", self.reason(error))
        return measured_row(row, plan, progress, self.experiment, sent=sent)

    def _local_update(
        self,
        client: int,
        order: WorkOrder,
        plan: ClientPlan,
        vector: Tensor,
        kept: Mapping[str, Tensor],
        progress: Progress,
        diagnostics: Json,
    ) -> tuple[Tensor, Tensor | None]:
        """Train one client; gives its update of its part, good until the next client is trained.

        Where nothing is made of the update but a sum, gives where the client ended, and where it began.
        """
        network = self._network(plan.share)
        self._prepare(network, order, plan.share.rotation)
        visit = self._visit(client, order, plan.share, network, vector, kept)
        side = self.experiment.algorithms.client(visit)
        with attention_meter(network.model, enabled=self.config.measures_attention) as meter:
            network.trainer.train(
                *self._data(client),
                plan=plan,
                learning_rate=order.learning_rate,
                generator=generator(self.config.seed, "local-training", order.stamp, client),
                progress=progress,
                side=side,
            )
        if not self.experiment.works_on_updates:
            return network.vector.cpu(), visit.start
        side.trained()
        network.vector.sub_(visit.start.to(network.vector.device))
        done = side.finish(network.vector.cpu(), progress.steps)  # on a CPU the model's own memory
        if self.experiment.keeps_state:
            self.experiment.store.save(client, order.stamp, done.kept)
        if self.config.measures_attention:
            weight = self.experiment.algorithms.weight(len(visit.labels), order.staleness)
            diagnostics |= client_diagnostics(meter, done.update, network.layout, weight)
        return done.update if done.extra is None else torch.cat([done.update, done.extra]), None

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
        places, elements = self.experiment.index(share), network.layout.elements
        sent = taken(vector, places)
        start = sent[:elements]
        self._load(network, start, kept)
        return Visit(
            network=network.trained,
            vector=network.vector,
            layout=network.layout,
            start=start,
            index=None if places is None else places[:elements],
            whole=self.network.layout,
            extra=sent[elements:],
            kept=kept,
            labels=self._data(client)[1],
            learning_rate=order.learning_rate,
        )

    def _kept_state(self, client: int, order: WorkOrder) -> tuple[Mapping[str, Tensor], str | None]:
        """Return what a client has kept, and a remark: one whose state is lost begins anew."""
        try:
            return self.experiment.store.load(client, order.state_round(client)), None
        except LostStateError as error:
            return {}, f"begins anew, its kept state is lost: {error}"

    def _load(self, network: LocalNetwork, state: Tensor, kept: Mapping[str, Tensor]) -> None:
        network.vector.copy_(state)
        self.experiment.algorithms.personalise(network.trained, network.vector, kept)

    def _data(self, client: int) -> tuple[Tensor, Tensor]:
        indices = self.experiment.partition.indices(client)
        return self.experiment.dataset.train_images[indices], self.experiment.dataset.train_labels[indices]


@lru_cache(maxsize=1)
def cached_worker(document: str) -> Worker:
    """Give this process's worker for an experiment, described as JSON; built on first use."""
    return Worker(Experiment.from_json(json.loads(document)), expendable=True)
