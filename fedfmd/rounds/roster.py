"""Who of a cohort takes part in a round, with what plan, and how long that takes on the simulated clock."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from fedfmd.experiment import Experiment
from fedfmd.planning.bill import late_row, unsent_row
from fedfmd.planning.demand import Costing, Demand
from fedfmd.planning.policy import OverBudget, Planner, Usage
from fedfmd.records.rows import ClientRow
from fedfmd.rounds.clock import sync_round
from fedfmd.rounds.journeys import Journeys
from fedfmd.wire.plan import ClientPlan


@dataclass(frozen=True)
class Roster:
    """The clients of a round."""

    plans: dict[int, ClientPlan]
    """Those who train, and what."""
    loads: dict[int, float]
    """Their work, to be spread over the workers."""
    unused: list[ClientRow]
    """Rows of those whose work is not waited for: over budget, or too late."""
    clock_seconds: float | None = None
    """Simulated length of the round; null without devices."""
    outrun: frozenset[int] = frozenset()
    """Those too late because others were faster, and not because the deadline had passed."""

    def without(self, clients: Collection[int]) -> "Roster":
        """Return the roster in which these clients do not train."""
        return replace(
            self,
            plans={client: plan for client, plan in self.plans.items() if client not in clients},
            loads={client: load for client, load in self.loads.items() if client not in clients},
        )


def part_in(row: ClientRow) -> str:
    """Return the name of the part of the model that a client's row tells of."""
    return ClientPlan.from_row(row.plan, row.steps).share.key


class Network(Protocol):
    """What the simulated clock makes of clients that all begin at one time."""

    def finish_seconds(self, demands: Mapping[int, Demand], now: float) -> Mapping[int, float]:
        """Return after how many seconds each of the clients is done who all begin ``now``."""
        ...

    def worked_seconds(
        self, demands: Mapping[int, Demand], now: float, seconds: float
    ) -> Mapping[int, float]:
        """Return how much of their work those have done after some seconds who are not done then."""
        ...


class IdleNetwork:
    """A network on which nobody waits for another: a client takes as long as its plan, while it is there."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment

    def finish_seconds(self, demands: Mapping[int, Demand], now: float) -> dict[int, float]:
        """Return after how many seconds each of the clients is done who all begin ``now``."""
        return {
            client: self.experiment.participant(client).elapsed(now, needed.device_seconds or 0.0)
            for client, needed in demands.items()
        }

    def worked_seconds(self, demands: Mapping[int, Demand], now: float, seconds: float) -> dict[int, float]:
        """Return how many of some seconds the clients are there."""
        return {client: self.experiment.participant(client).worked(now, seconds) for client in demands}


class RosterMaker:
    """Plans the rounds of cohorts whose clients begin together."""

    def __init__(self, experiment: Experiment, planner: Planner, journeys: Journeys):
        self.experiment = experiment
        self.planner = planner
        self.network: Network = journeys if journeys.needed else IdleNetwork(experiment)

    def make(
        self, round: int, attempt: int, cohort: Iterable[int], usage: Mapping[int, Usage], now: float
    ) -> Roster:
        """Plan a cohort's round, which begins at ``now`` on the simulated clock.

        Device seconds follow from the plan alone, so who is late is known before anybody trains: late clients
        are billed for what they do until the round closes, and are not trained for nothing.
        """
        plans: dict[int, ClientPlan] = {}
        unused: list[ClientRow] = []
        for client in cohort:
            plan = self.planner.plan(client, round, usage)
            if isinstance(plan, OverBudget):
                row = unsent_row(self.experiment, round, attempt, client, plan.plan, plan.reason)
                unused.append(row)
            else:
                plans[client] = plan
        costings = {c: Costing.of(self.experiment, plan, c) for c, plan in plans.items()}
        demands = {c: costing.demand() for c, costing in costings.items()}
        roster = Roster(plans, {c: float(needed.macs) for c, needed in demands.items()}, unused)
        if all(needed.device_seconds is None for needed in demands.values()):
            return roster
        seconds, late = self._close(demands, now)
        unused += [late_row(costings[c], round, attempt, c, seconds, worked) for c, worked in late.items()]
        too_late = seconds == self.experiment.config.selection.deadline_seconds
        outrun = frozenset[int]() if too_late else frozenset(late)
        return replace(roster.without(late), clock_seconds=seconds, outrun=outrun)

    def _close(self, demands: Mapping[int, Demand], now: float) -> tuple[float, dict[int, float]]:
        """Return how long the round takes, and how long each client has worked who is late by then."""
        selection, cohort = self.experiment.config.selection, self.experiment.config.server.cohort
        finish = self.network.finish_seconds(demands, now)
        places = len(finish) if selection.independent else cohort
        _, late, seconds = sync_round(finish, places, selection.deadline_seconds)
        worked = self.network.worked_seconds(demands, now, seconds) if late else {}
        return seconds, {c: worked.get(c, demands[c].device_seconds or 0.0) for c in late}
