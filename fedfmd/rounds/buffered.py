"""Who is at work in an asynchronous run, on which version of the model: it lasts between rounds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

from fedfmd.devices.participant import Participant
from fedfmd.planning.demand import Demand
from fedfmd.records.schema import Json
from fedfmd.rounds.clock import BufferedClock, SharedClock
from fedfmd.rounds.journeys import Journeys
from fedfmd.wire.plan import ClientPlan


@dataclass(frozen=True)
class Arrival:
    """A client that is done, the version it worked on, and what it was to do."""

    client: int
    version: int
    plan: ClientPlan


Group = tuple[int, int]
"""Version, and turn: how often its clients had arrived before in the same round."""


def grouped(arrivals: Iterable[Arrival]) -> dict[Group, dict[int, ClientPlan]]:
    """Group a round's arrivals into clients that can be trained together; turn by turn, first the first."""
    turns: Counter[int] = Counter()
    groups: dict[Group, dict[int, ClientPlan]] = {}
    for arrival in arrivals:
        group = (arrival.version, turns[arrival.client])
        groups.setdefault(group, {})[arrival.client] = arrival.plan
        turns[arrival.client] += 1
    return dict(sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])))


@dataclass
class Buffered:
    """The clients at work, their plans, and the versions of the model that they work on."""

    clock: BufferedClock | SharedClock = field(default_factory=BufferedClock)
    plans: dict[int, ClientPlan] = field(default_factory=dict)
    versions: dict[int, Tensor] = field(default_factory=dict)

    def depart(
        self, client: int, plan: ClientPlan, demand: Demand, participant: Participant, version: int
    ) -> None:
        """Let a client start now, on a version that ``versions`` holds."""
        if isinstance(self.clock, SharedClock):
            self.clock.start(client, version, demand)
        else:
            seconds = participant.elapsed(self.clock.now, demand.device_seconds or 0.0)
            self.clock.start(client, version, seconds)
        self.plans[client] = plan

    def share(self, journeys: Journeys) -> None:
        """Let clients share links from now on, where they do."""
        if journeys.needed and isinstance(self.clock, BufferedClock):
            self.clock = SharedClock.after(self.clock, journeys)

    def arrive(self) -> Arrival | None:
        """Take the next client that is done; null when nobody is at work."""
        flight = self.clock.next_finished()
        return (
            None if flight is None else Arrival(flight.client, flight.version, self.plans.pop(flight.client))
        )

    @property
    def at_work(self) -> frozenset[int]:
        """Clients that have started and not finished."""
        return frozenset(self.plans)

    def forget(self) -> None:
        """Drop the versions that nobody works on."""
        used = {flight.version for flight in self.clock.flights.values()}
        self.versions = {version: vector for version, vector in self.versions.items() if version in used}

    def to_json(self) -> Json:
        """Return all but the versions as plain data."""
        plans = [[client, asdict(plan)] for client, plan in self.plans.items()]
        return {"clock": self.clock.to_json(), "plans": plans}

    @classmethod
    def restored(cls, document: Json, versions: Mapping[int, Tensor], journeys: Journeys) -> "Buffered":
        """Continue from a checkpoint."""
        plans = {client: ClientPlan.from_json(plan) for client, plan in document["plans"]}
        clock: BufferedClock | SharedClock
        if "trips" in document["clock"]:
            clock = SharedClock.from_json(document["clock"], journeys)
        else:
            clock = BufferedClock.from_json(document["clock"])
        return cls(clock, plans, dict(versions))
