"""One try at a round: draw the cohort, pack its work into an order a worker, and have it summed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow
from fedfmd.registry import takes
from fedfmd.rounds.buffered import Arrival, grouped
from fedfmd.rounds.collection import Attempt, Collector
from fedfmd.rounds.journeys import Journeys
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.packing import Executor, pack_clients
from fedfmd.rounds.roster import Roster, RosterMaker, part_in
from fedfmd.rounds.secure import SecureRound, leavers
from fedfmd.secure import VoidSumError
from fedfmd.secure.sums import MaskedSum
from fedfmd.selection.cohort import Selector
from fedfmd.selection.oort import Profiles
from fedfmd.training.statistics import with_statistics
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.plan import ClientPlan


class Dispatcher:
    """Decides who works on what in a round, and has it done; it does not touch the model."""

    def __init__(self, experiment: Experiment, executor: Executor, knowledge: Knowledge):
        self.experiment = experiment
        self.config = experiment.config
        self.executor = executor
        self.knowledge = knowledge
        self.collector = Collector(experiment, executor)
        self.planner = Planner(experiment)
        self.journeys = Journeys(experiment.config)
        self.rosters = RosterMaker(experiment, self.planner, self.journeys)

    def attempt(self, round: int, attempt: int, vector: Tensor, now: float = 0.0) -> Attempt:
        """Let the clients of a round train on ``vector``, from ``now`` on the simulated clock.

        ``attempt`` counts a round's repetitions.
        """
        absent = self.experiment.absent(round, self.config.least_completed)
        tried = self._tried(round, attempt, vector, now, absent or frozenset())
        tried.present = None if absent is None else self.config.partition.clients - len(absent)
        return tried

    def _tried(self, round: int, attempt: int, vector: Tensor, now: float, absent: frozenset[int]) -> Attempt:
        if self.config.server.mode == "buffered":
            return self._buffered(round, attempt, vector, absent)
        drawn, begins = self.selector.draw_from_those_there(
            round, attempt, needed=self.config.least_completed, now=now, exclude=absent
        )
        roster = self.rosters.make(round, attempt, drawn.chosen, self.knowledge.usage, begins)
        layout = self._layout
        scale = self.experiment.algorithms.scale(
            self._scale(vector, sum(self.collector.weights(roster.plans).values())),
            vector[layout.elements :],
            layout,
        )
        total = ExactSum.zero(len(vector), scale)
        collected = Attempt(total, roster.unused, roster.clock_seconds, drawn=drawn)
        if roster.clock_seconds is not None:
            collected.device_clock_seconds = begins - now + roster.clock_seconds
            collected.outrun = roster.outrun
        stays = self._without_leavers(round, attempt, roster, collected)
        if self.experiment.secure:
            collected.masked = MaskedSum.zero(len(vector), scale)
            self._train_securely(round, attempt, roster, stays, vector, collected)
        else:
            self.collector.collect(self._orders(round, attempt, stays, scale), vector, collected)
        collected.rows.sort(key=lambda row: row.client)
        return collected

    def _without_leavers(self, round: int, attempt: int, roster: Roster, into: Attempt) -> Roster:
        """Return those who stay until they train; ``into`` gets the rows of the others."""
        return self._without(leavers(self.experiment, round, roster.plans), round, attempt, roster, into)

    def _without(
        self, left: Mapping[int, str], round: int, attempt: int, roster: Roster, into: Attempt
    ) -> Roster:
        """Return the roster without those who ``left``; ``into`` gets their rows, with the reasons."""
        into.rows += [
            unsent_row(self.experiment, round, attempt, client, roster.plans[client], reason)
            for client, reason in left.items()
        ]
        return roster.without(left)

    def _train_securely(
        self, round: int, attempt: int, roster: Roster, stays: Roster, vector: Tensor, into: Attempt
    ) -> None:
        """Let clients train under masks, and take these off; rows of a sum that is void are of no use."""
        parts = {client: plan.share.key for client, plan in roster.plans.items()}
        parts |= {row.client: part_in(row) for row in roster.unused if row.downlink_bytes}  # too late
        members = self.executor.members(self.experiment, round, attempt)
        secure = SecureRound(self.experiment, members, round, attempt, parts)
        assert into.masked is not None
        try:
            session = secure.open()
            stays = self._without(secure.left(stays.plans), round, attempt, stays, into)
            orders = self._orders(round, attempt, stays, into.masked.scale)
            orders = [replace(order, secure=members.order(session, order.clients)) for order in orders]
            self.collector.collect(orders, vector, into)
            used = [row.client for row in into.rows if row.used]
            into.opened = secure.close(into.masked, self.collector.weights(used))
            into.total = into.opened.total
        except VoidSumError as error:
            self._void(round, attempt, stays, f"secure sum: {error}", into)
        into.rows[:] = map(secure.billed, into.rows)

    def _void(self, round: int, attempt: int, roster: Roster, reason: str, into: Attempt) -> None:
        """Take the rows of all who stayed as those of a round that is repeated, with the reason."""
        into.rows[:] = [row.rejected("dropped", reason) if row.used else row for row in into.rows]
        known = {row.client for row in into.rows}
        into.rows += [
            unsent_row(self.experiment, round, attempt, client, plan, reason)
            for client, plan in roster.plans.items()
            if client not in known
        ]

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
        orders = self._orders(round, 0, roster, scale)
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

    def _buffered(self, round: int, attempt: int, vector: Tensor, absent: frozenset[int]) -> Attempt:
        """Let as many clients be at work as allowed at any time, until the buffer is full."""
        buffered = self.knowledge.buffered
        buffered.share(self.journeys)
        before = buffered.clock.now
        rows, arrivals = self._fill_buffer(round, attempt, vector, absent)
        groups = grouped(arrivals)
        weights = [
            self.collector.weights(plans, round - 1 - version) for (version, _), plans in groups.items()
        ]
        scale = self._scale(vector, sum(sum(w.values()) for w in weights))
        collected = Attempt(ExactSum.zero(len(vector), scale), rows)
        for (version, turn), plans in groups.items():
            orders = self._stale_orders(version, turn, round, attempt, plans, scale, collected.states)
            self.collector.collect(orders, buffered.versions[version], collected)
        collected.began = buffered.versions[min(groups)[0]] if len(groups) == 1 else None
        buffered.forget()
        collected.rows.sort(key=lambda row: row.client)
        collected.device_clock_seconds = buffered.clock.now - before
        return collected

    def _fill_buffer(
        self, round: int, attempt: int, vector: Tensor, absent: frozenset[int]
    ) -> tuple[list[ClientRow], list[Arrival]]:
        """Let clients start and arrive until ``server.buffer`` are done; gives rows of those over budget.

        Whenever one arrives another starts on the present model, but for the last, whose place is filled
        once the server has stepped.
        """
        arrivals: list[Arrival] = []
        refused: dict[int, ClientRow] = {}
        while len(arrivals) < self.config.server.buffer:
            self._depart(round, attempt, len(arrivals), vector, refused, absent)
            arrival = self.knowledge.buffered.arrive()
            if arrival is None:
                break
            arrivals.append(arrival)
        return list(refused.values()), arrivals

    def _depart(
        self,
        round: int,
        attempt: int,
        arrived: int,
        vector: Tensor,
        refused: dict[int, ClientRow],
        absent: frozenset[int],
    ) -> None:
        """Fill the free places; ``refused`` takes in those over budget, who are asked once a round.

        A place that stays empty, for want of clients who are there, is filled after the next arrival.
        """
        buffered = self.knowledge.buffered
        for draw in range(self.config.partition.clients):
            busy = buffered.at_work
            places = self.config.server.cohort - len(busy)
            drawn, buffered.clock.now = self.selector.draw_from_those_there(
                round,
                attempt,
                needed=0 if busy else 1,
                now=buffered.clock.now,
                count=places,
                exclude=busy | refused.keys() | absent,
                turn=(arrived, draw),
            )
            for client in drawn.chosen:
                self._start(client, round, attempt, vector, refused)
            if len(buffered.at_work) - len(busy) == len(drawn.chosen):
                return  # nobody was refused: the places are full, or nobody is left

    def _start(
        self, client: int, round: int, attempt: int, vector: Tensor, refused: dict[int, ClientRow]
    ) -> None:
        """Let a client start on the present model, or refuse it when it is over budget."""
        buffered = self.knowledge.buffered
        plan = self.planner.plan(client, round, self.knowledge.usage)
        if isinstance(plan, OverBudget):
            refused[client] = unsent_row(self.experiment, round, attempt, client, plan.plan, plan.reason)
            return
        participant = self.experiment.participant(client)
        needed = demand(self.experiment, plan, participant)
        buffered.depart(client, plan, needed, participant, round - 1)
        buffered.versions[round - 1] = vector

    def _orders(
        self,
        round: int,
        attempt: int,
        roster: Roster,
        scale: Scale,
        newer: Mapping[int, int] = MappingProxyType({}),
    ) -> list[WorkOrder]:
        """Give each worker its share of the cohort; ``newer`` are states kept since the round began."""
        template = WorkOrder(
            round=round,
            attempt=attempt,
            clients=(),
            learning_rate=self.config.client.rate(round),
            temperatures=self.experiment.temperatures(round),
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

    def _stale_orders(
        self,
        version: int,
        turn: int,
        round: int,
        attempt: int,
        plans: dict[int, ClientPlan],
        scale: Scale,
        newer: Mapping[int, int],
    ) -> list[WorkOrder]:
        """Give the orders of clients that started from an older version, with all that belonged to it."""
        loads = {client: float(self.experiment.partition.size(client)) for client in plans}
        orders = self._orders(round, attempt, Roster(plans, loads, []), scale, newer)
        return [
            replace(
                order,
                turn=turn,
                staleness=round - 1 - version,
                learning_rate=self.config.client.rate(version + 1),
                temperatures=self.experiment.temperatures(version + 1),
            )
            for order in orders
        ]

    def _plans(self, clients: Sequence[int], plans: Mapping[int, ClientPlan]) -> tuple[ClientPlan, ...]:
        """Give the plans as orders carry them: not at all if all of the cohort have the full one."""
        return () if set(plans.values()) <= {self.planner.full} else tuple(plans[c] for c in clients)
