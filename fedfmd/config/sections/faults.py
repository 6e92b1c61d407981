"""Faults that are put into clients on purpose."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, above, value_of
from fedfmd.config.values import Repeats, Section, Whole

FaultKind = Literal[
    "raise",
    "kill",
    "hang",
    "nan",
    "shape",
    "zero",
    "absurd",
    "duplicate",
    "leave-keys",
    "leave-shares",
    "leave-unmasking",
]
"""What a client does wrong."""
KILLABLE = Condition(
    "backend.kind = 'ray' or backend.workers > 1 for the fault 'kill', which would end a run in one process",
    ("backend.kind", "backend.workers"),
    lambda c: value_of(c, "backend.apart") or "kill" not in value_of(c, "faults.possible"),
)
HANGING = Condition(
    "a fault 'hang' in faults.at or, with faults.probability > 0, in faults.kinds",
    ("faults.kinds", "faults.at", "faults.probability"),
    lambda c: "hang" in value_of(c, "faults.possible"),
)
FAULTS_TAKE_PLACE = Condition(
    "each round of faults.at at most server.rounds, and each client below partition.clients",
    ("server.rounds", "partition.clients"),
    lambda c: all(
        place.round <= value_of(c, "server.rounds") and place.client < value_of(c, "partition.clients")
        for place in value_of(c, "faults.at")
    ),
)


class FaultPlace(Section):
    """One fault at a given place."""

    round: Repeats
    """Round of the fault."""
    client: Annotated[Whole, Field(ge=0, le=10**7)]
    """Client with the fault."""
    kind: FaultKind
    """What goes wrong."""


class FaultsConfig(Section):
    """Faults put into clients on purpose, to see what a run makes of them."""

    probability: Annotated[float, Field(ge=0, le=1), Needs(KILLABLE)] = 0.0
    """Chance that a client is faulty in a round it takes part in, drawn by the seed."""
    kinds: Annotated[list[FaultKind], Field(min_length=1), OnlyIf(above("faults.probability", 0))] = [
        "raise",
        "nan",
        "shape",
        "zero",
        "absurd",
    ]
    """What can go wrong then: an error, kill -9, a hang, NaN, a wrong shape or example count, two answers; a
    client that leaves before it tells its keys or its shares of a secure sum, and so does not train, or once
    its update has arrived (`leave-keys`, `leave-shares`, `leave-unmasking`)."""
    at: Annotated[list[FaultPlace], Needs(KILLABLE & FAULTS_TAKE_PLACE)] = []
    """Faults at given places, as `[{round = 2, client = 5, kind = "kill"}]`."""
    hang_seconds: Annotated[Annotated[float, Field(gt=0, le=1e7)], OnlyIf(HANGING)] = 3600.0
    """How long a hanging client hangs."""

    @property
    def possible(self) -> set[FaultKind]:
        """What can go wrong at all."""
        return {place.kind for place in self.at} | (set(self.kinds) if self.probability else set())
