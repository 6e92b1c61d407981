"""Asynchronous rounds on the simulated clock: FedBuff (Nguyen et al. 2022).

A fixed number of clients is at work at any time, each on the model of the moment it started; the server steps
when ``server.buffer`` of them are done. Training itself is done at the simulated finish, on the version that
the client started from, so a run is reproducible. Weights are normalised, where the paper divides by the
buffer's size, so that stale buffers do not shorten the server's step.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

from fedfmd.plan import ClientPlan
from fedfmd.records.schema import Json
from fedfmd.rounds.clock import BufferedClock

VERSION_PREFIX = "version."


@dataclass
class Buffered:
    """The clients at work, their plans, and the versions of the model that they work on."""

    clock: BufferedClock = field(default_factory=BufferedClock)
    plans: dict[int, ClientPlan] = field(default_factory=dict)
    versions: dict[int, Tensor] = field(default_factory=dict)

    def depart(self, client: int, plan: ClientPlan, seconds: float, version: int, vector: Tensor) -> None:
        """Let a client start now."""
        self.clock.start(client, version, seconds)
        self.plans[client] = plan
        self.versions[version] = vector

    def arrive(self, count: int) -> dict[int, dict[int, ClientPlan]]:
        """Take the next ``count`` that are done: version to its clients and their plans."""
        groups: dict[int, dict[int, ClientPlan]] = {}
        for flight in self.clock.next_finished(count):
            groups.setdefault(flight.version, {})[flight.client] = self.plans.pop(flight.client)
        return groups

    @property
    def at_work(self) -> frozenset[int]:
        """Clients that have started and not finished."""
        return frozenset(self.plans)

    def forget(self) -> None:
        """Drop the versions that nobody works on."""
        used = {flight.version for flight in self.clock.flights}
        self.versions = {version: vector for version, vector in self.versions.items() if version in used}

    def tensors(self) -> dict[str, Tensor]:
        """Give the versions by name, for a checkpoint."""
        return {f"{VERSION_PREFIX}{version}": vector for version, vector in self.versions.items()}

    def to_json(self) -> Json:
        """Give the rest as plain data."""
        plans = [[client, asdict(plan)] for client, plan in self.plans.items()]
        return {"clock": self.clock.to_json(), "plans": plans}

    @classmethod
    def restored(cls, document: Json, tensors: Mapping[str, Tensor]) -> "Buffered":
        """Continue from a checkpoint; other tensors than versions are not looked at."""
        versions = {
            int(name.removeprefix(VERSION_PREFIX)): vector
            for name, vector in tensors.items()
            if name.startswith(VERSION_PREFIX)
        }
        plans = {client: ClientPlan.from_json(plan) for client, plan in document["plans"]}
        return cls(BufferedClock.from_json(document["clock"]), plans, versions)
