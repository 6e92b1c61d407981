"""One try at a round: who works on what, packed into an order a worker, and how that is done."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from torch import Tensor

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE
from fedfmd.nn.vector import Layout
from fedfmd.planning.bill import unsent_row
from fedfmd.planning.demand import demand
from fedfmd.planning.evaluation import statistics_cost
from fedfmd.planning.policy import Planner
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow
from fedfmd.registry import takes
from fedfmd.rounds.collection import Attempt, Collector
from fedfmd.rounds.journeys import Journeys
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.packing import Executor, pack_clients
from fedfmd.rounds.roster import Roster
from fedfmd.selection.cohort import Selector
from fedfmd.selection.oort import Profiles
from fedfmd.training.statistics import with_statistics
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.plan import ClientPlan


@dataclass(frozen=True)
class Try:
    """A try at a round, before anybody is asked."""

    round: int
    attempt: int
    """Counts the round's repetitions."""
    vector: Tensor
    """What the server sends, float32."""
    absent: frozenset[int] = frozenset()
    """Clients that are not there."""


class Dispatcher(ABC):
    """Decides who works on what in a round, and has it done; it does not touch the model."""

    def __init__(self, experiment: Experiment, executor: Executor, knowledge: Knowledge):
        self.experiment = experiment
        self.config = experiment.config
        self.executor = executor
        self.knowledge = knowledge
        self.collector = Collector(experiment, executor)
        self.planner = Planner(experiment)
        self.journeys = Journeys(experiment.config)

    def attempt(self, round: int, attempt: int, vector: Tensor, now: float = 0.0) -> Attempt:
        """Let the clients of a round train on ``vector``, from ``now`` on the simulated clock.

        ``attempt`` counts a round's repetitions.
        """
        absent = self.experiment.absent(round, self.config.least_completed)
        tried = self._tried(Try(round, attempt, vector, absent or frozenset()), now)
        tried.rows.sort(key=lambda row: row.client)
        tried.present = None if absent is None else self.config.partition.clients - len(absent)
        return tried

    @abstractmethod
    def _tried(self, this: Try, now: float) -> Attempt:
        """Let clients train; gives their rows in any order."""

    def static_norms(self, round: int, clients: Sequence[int], vector: Tensor) -> tuple[Tensor, Cost]:
        """Return the ``vector`` with BatchNorm statistics of some clients' images, and what that cost.

        It stays as it is when none of them answers.
        """
        started = time.perf_counter()
        sizes = {client: self.experiment.partition.size(client) for client in clients}
        loads = {client: float(size) for client, size in sizes.items()}
        roster = Roster(dict.fromkeys(clients, self.planner.full), loads, [])
        scale = self._scale(vector, sum(sizes.values()))
        seen = Attempt(ExactSum.zero(len(vector), scale), [])
        orders = self._orders(Try(round, 0, vector), roster, scale)
        self.collector.collect([replace(order, task="statistics") for order in orders], vector, seen)
        answered = {row.client for row in seen.rows if row.used}
        costs = (statistics_cost(self.experiment, c, answered=c in answered) for c in clients)
        cost = replace(Cost.total(costs), evaluation_seconds=time.perf_counter() - started)
        return (with_statistics(vector, seen.total.mean(), self._layout) if answered else vector), cost

    @property
    def _layout(self) -> Layout:
        """Where in a vector the parameters, the buffers, and what algorithms send along are."""
        return self.experiment.network.part(WHOLE).layout

    def _scale(self, vector: Tensor, total_weight: float) -> Scale:
        return Scale.for_round(vector, total_weight, self._layout.parameters, self._layout.elements)

    def observe(self, tried: Attempt) -> None:
        """Remember how good and fast the clients of an attempt were, where the selection asks for it."""
        if self.config.selection.learns:
            self.knowledge.history.update(tried.rows, tried.outrun, tried.drawn)

    @cached_property
    def selector(self) -> Selector:
        """Who draws the cohorts."""
        return Selector(self.config, self.knowledge.history, self._profiles(), self.experiment.cohort_seed)

    def _profiles(self) -> Profiles | None:
        """Return what is known of all clients before they are used, where the selection asks for it."""
        if not takes("selection", self.config.selection.kind, "profiles"):
            return None
        everybody = map(self.experiment.participant, range(self.config.partition.clients))
        known = [
            (p.examples, demand(self.experiment, self.planner.full, p).device_seconds) for p in everybody
        ]
        return Profiles([n for n, _ in known], [seconds for _, seconds in known])

    def _unsent(self, this: Try, client: int, plan: ClientPlan, reason: str) -> ClientRow:
        """Return the row of a client to whom nothing is sent."""
        return unsent_row(self.experiment, this.round, this.attempt, client, plan, reason)

    def _orders(
        self, this: Try, roster: Roster, scale: Scale, newer: Mapping[int, int] = MappingProxyType({})
    ) -> list[WorkOrder]:
        """Give each worker its share of the cohort; ``newer`` are states kept since the round began."""
        template = WorkOrder(
            round=this.round,
            attempt=this.attempt,
            clients=(),
            learning_rate=self.config.client.rate(this.round),
            temperatures=self.experiment.temperatures(this.round),
            scale=scale,
        )
        keeps = self.experiment.keeps_state
        groups = len(roster.loads) if self.collector.apart else self.executor.workers
        return [
            replace(
                template,
                clients=group,
                state_rounds=self.knowledge.kept_states(group, newer) if keeps else (),
                plans=self._plans(group, roster.plans),
            )
            for group in pack_clients(roster.loads, groups)
        ]

    def _plans(self, clients: Sequence[int], plans: Mapping[int, ClientPlan]) -> tuple[ClientPlan, ...]:
        """Return the plans as orders carry them: not at all if all of the cohort have the full one."""
        return () if set(plans.values()) <= {self.planner.full} else tuple(plans[c] for c in clients)
