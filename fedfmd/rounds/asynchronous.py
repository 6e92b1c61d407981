"""Asynchronous rounds on the simulated clock: FedBuff (Nguyen et al. 2022).

``server.cohort`` clients are at work at any time, each on the model of the moment it started: whenever one is
done, another starts, on the version the server has then. The server steps when ``server.buffer`` of them are
done. Training itself is done at the simulated finish, on the version that the client started from, so a run
is reproducible. Weights are normalised, where the paper divides by the buffer's size, so that stale buffers
do not shorten the server's step.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.planning.demand import demand
from fedfmd.planning.policy import OverBudget
from fedfmd.records.rows import ClientRow
from fedfmd.rounds.buffered import Arrival, Group, grouped
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.dispatch import Dispatcher, Try
from fedfmd.rounds.roster import Roster
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.plan import ClientPlan


class BufferedDispatcher(Dispatcher):
    """Keeps places filled; a round ends when a buffer of clients is done."""

    def _tried(self, this: Try, now: float) -> Attempt:
        """Let as many clients be at work as allowed at any time, until the buffer is full."""
        del now  # the clients at work have a clock of their own
        buffered = self.knowledge.buffered
        buffered.share(self.journeys)
        before = buffered.clock.now
        rows, arrivals = self._fill_buffer(this)
        groups = grouped(arrivals)
        weights = [
            self.collector.weights(plans, this.round - 1 - version) for (version, _), plans in groups.items()
        ]
        scale = self._scale(this.vector, sum(sum(w.values()) for w in weights))
        collected = Attempt(ExactSum.zero(len(this.vector), scale), rows)
        for group, plans in groups.items():
            orders = self._stale_orders(this, group, plans, scale, collected.states)
            self.collector.collect(orders, buffered.versions[group[0]], collected)
        collected.began = buffered.versions[min(groups)[0]] if len(groups) == 1 else None
        buffered.forget()
        collected.device_clock_seconds = buffered.clock.now - before
        return collected

    def _fill_buffer(self, this: Try) -> tuple[list[ClientRow], list[Arrival]]:
        """Let clients start and arrive until ``server.buffer`` are done; gives rows of those over budget.

        Whenever one arrives another starts on the present model, but for the last, whose place is filled
        once the server has stepped.
        """
        arrivals: list[Arrival] = []
        refused: dict[int, ClientRow] = {}
        while len(arrivals) < self.config.server.buffer:
            self._depart(this, len(arrivals), refused)
            arrival = self.knowledge.buffered.arrive()
            if arrival is None:
                break
            arrivals.append(arrival)
        return list(refused.values()), arrivals

    def _depart(self, this: Try, arrived: int, refused: dict[int, ClientRow]) -> None:
        """Fill the free places; ``refused`` takes in those over budget, who are asked once a round.

        A place that stays empty, for want of clients who are there, is filled after the next arrival.
        """
        buffered = self.knowledge.buffered
        for draw in range(self.config.partition.clients):
            busy = buffered.at_work
            places = self.config.server.cohort - len(busy)
            drawn, buffered.clock.now = self.selector.draw_from_those_there(
                this.round,
                this.attempt,
                needed=0 if busy else 1,
                now=buffered.clock.now,
                count=places,
                exclude=busy | refused.keys() | this.absent,
                turn=(arrived, draw),
            )
            for client in drawn.chosen:
                self._start(this, client, refused)
            if len(buffered.at_work) - len(busy) == len(drawn.chosen):
                return  # nobody was refused: the places are full, or nobody is left

    def _start(self, this: Try, client: int, refused: dict[int, ClientRow]) -> None:
        """Let a client start on the present model, or refuse it when it is over budget."""
        buffered = self.knowledge.buffered
        plan = self.planner.plan(client, this.round, self.knowledge.usage)
        if isinstance(plan, OverBudget):
            refused[client] = self._unsent(this, client, plan.plan, plan.reason)
            return
        participant = self.experiment.participant(client)
        needed = demand(self.experiment, plan, participant)
        buffered.depart(client, plan, needed, participant, this.round - 1)
        buffered.versions[this.round - 1] = this.vector

    def _stale_orders(
        self,
        this: Try,
        group: Group,
        plans: dict[int, ClientPlan],
        scale: Scale,
        newer: Mapping[int, int],
    ) -> list[WorkOrder]:
        """Return the orders of clients that started from an older version, with all that belonged to it."""
        version, turn = group
        loads = {client: float(self.experiment.partition.size(client)) for client in plans}
        orders = self._orders(this, Roster(plans, loads, []), scale, newer)
        return [
            replace(
                order,
                turn=turn,
                staleness=this.round - 1 - version,
                learning_rate=self.config.client.rate(version + 1),
                temperatures=self.experiment.temperatures(version + 1),
            )
            for order in orders
        ]
