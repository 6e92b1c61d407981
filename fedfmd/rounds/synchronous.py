"""Rounds of clients who all begin together: a cohort is drawn, trains, and is summed, masked or not."""

from collections.abc import Mapping
from dataclasses import replace

from fedfmd.aggregation import ExactSum
from fedfmd.experiment import Experiment
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.dispatch import Dispatcher, Try
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.roster import Roster, RosterMaker, part_in
from fedfmd.rounds.secure import SecureRound, leavers
from fedfmd.secure import VoidSumError
from fedfmd.secure.sums import MaskedSum


class SynchronousDispatcher(Dispatcher):
    """Waits for all of a cohort, or until the round closes on the simulated clock."""

    def __init__(self, experiment: Experiment, executor: Executor, knowledge: Knowledge):
        super().__init__(experiment, executor, knowledge)
        self.rosters = RosterMaker(experiment, self.planner, self.journeys)

    def _tried(self, this: Try, now: float) -> Attempt:
        drawn, begins = self.selector.draw_from_those_there(
            this.round,
            this.attempt,
            needed=self.config.least_completed,
            now=now,
            exclude=this.absent,
        )
        roster = self.rosters.make(this.round, this.attempt, drawn.chosen, self.knowledge.usage, begins)
        layout = self._layout
        scale = self.experiment.algorithms.scale(
            self._scale(this.vector, sum(self.collector.weights(roster.plans).values())),
            this.vector[layout.elements :],
            layout,
        )
        total = ExactSum.zero(len(this.vector), scale)
        collected = Attempt(total, roster.unused, roster.clock_seconds, drawn=drawn)
        if roster.clock_seconds is not None:
            collected.device_clock_seconds = begins - now + roster.clock_seconds
            collected.outrun = roster.outrun
        stays = self._without(leavers(self.experiment, this.round, roster.plans), this, roster, collected)
        if self.experiment.secure:
            collected.masked = MaskedSum.zero(len(this.vector), scale)
            self._train_securely(this, roster, stays, collected)
        else:
            self.collector.collect(self._orders(this, stays, scale), this.vector, collected)
        return collected

    def _without(self, left: Mapping[int, str], this: Try, roster: Roster, into: Attempt) -> Roster:
        """Return the roster without those who ``left``; ``into`` gets their rows, with the reasons."""
        into.rows += [
            self._unsent(this, client, roster.plans[client], reason) for client, reason in left.items()
        ]
        return roster.without(left)

    def _train_securely(self, this: Try, roster: Roster, stays: Roster, into: Attempt) -> None:
        """Let clients train under masks, and take these off; rows of a sum that is void are of no use."""
        parts = {client: plan.share.key for client, plan in roster.plans.items()}
        parts |= {row.client: part_in(row) for row in roster.unused if row.downlink_bytes}  # too late
        members = self.executor.members(self.experiment, this.round, this.attempt)
        secure = SecureRound(self.experiment, members, this.round, this.attempt, parts)
        assert into.masked is not None
        try:
            session = secure.open()
            stays = self._without(secure.left(stays.plans), this, stays, into)
            orders = self._orders(this, stays, into.masked.scale)
            orders = [replace(order, secure=members.order(session, order.clients)) for order in orders]
            self.collector.collect(orders, this.vector, into)
            used = [row.client for row in into.rows if row.used]
            into.opened = secure.close(into.masked, self.collector.weights(used))
            into.total = into.opened.total
        except VoidSumError as error:
            self._void(this, stays, f"secure sum: {error}", into)
        into.rows[:] = map(secure.billed, into.rows)

    def _void(self, this: Try, roster: Roster, reason: str, into: Attempt) -> None:
        """Take the rows of all who stayed as those of a round that is repeated, with the reason."""
        into.rows[:] = [row.rejected("dropped", reason) if row.used else row for row in into.rows]
        known = {row.client for row in into.rows}
        into.rows += [
            self._unsent(this, client, plan, reason)
            for client, plan in roster.plans.items()
            if client not in known
        ]
