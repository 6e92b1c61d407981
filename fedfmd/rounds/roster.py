"""Who of a cohort takes part in a round, with what plan, and how long that takes on the simulated clock."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from fedfmd.experiment import Experiment
from fedfmd.planning.bill import late_row, unsent_row
from fedfmd.planning.demand import Costing
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


def make_roster(
    experiment: Experiment,
    planner: Planner,
    round: int,
    attempt: int,
    cohort: Iterable[int],
    usage: Mapping[int, Usage],
    now: float,
    journeys: Journeys,
) -> Roster:
    """Plan the cohort's round, which begins at ``now`` on the simulated clock.

    Device seconds follow from the plan alone, so who is late is known before anybody trains: late clients
    are billed for what they do until the round closes, and are not trained for nothing.
    """
    plans: dict[int, ClientPlan] = {}
    unused: list[ClientRow] = []
    for client in cohort:
        plan = planner.plan(client, round, usage)
        if isinstance(plan, OverBudget):
            unused.append(unsent_row(experiment, round, attempt, client, plan.plan, plan.reason))
        else:
            plans[client] = plan
    costings = {c: Costing.of(experiment, plan, c) for c, plan in plans.items()}
    demands = {c: costing.demand() for c, costing in costings.items()}
    loads = {c: float(d.macs) for c, d in demands.items()}
    needed = {c: d.device_seconds for c, d in demands.items() if d.device_seconds is not None}
    if not needed:
        return Roster(plans, loads, unused)
    if journeys.needed:
        finish = journeys.finish_seconds(demands, now)
    else:
        finish = {c: costings[c].participant.elapsed(now, seconds) for c, seconds in needed.items()}
    selection, cohort_size = experiment.config.selection, experiment.config.server.cohort
    places = len(finish) if selection.independent else cohort_size
    accepted, late, seconds = sync_round(finish, places, selection.deadline_seconds)
    if journeys.needed:
        worked = journeys.worked_seconds(demands, now, seconds) if late else {}
    else:
        worked = {c: costings[c].participant.worked(now, seconds) for c in late}
    unused += [late_row(costings[c], round, attempt, c, seconds, worked.get(c, needed[c])) for c in late]
    kept = set(accepted)
    return Roster(
        {c: p for c, p in plans.items() if c in kept},
        {c: load for c, load in loads.items() if c in kept},
        unused,
        seconds,
        frozenset(late) if seconds != selection.deadline_seconds else frozenset(),
    )
