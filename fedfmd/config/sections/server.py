"""The federated loop, and what the server makes of updates."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd import registry
from fedfmd.config.conditions import Condition, Needs, OnlyIf, at_most, one_of, takes, value_of
from fedfmd.config.parts import Named
from fedfmd.config.sections.switches import DEVICES, SYNCHRONOUS, WHOLE_MODELS
from fedfmd.config.values import Fraction, Population, Rate, Repeats, Section, Whole

StrategyName = Annotated[str, Named("strategy")]
"""Server optimisers."""
AggregationName = Annotated[str, Named("aggregation")]
"""What makes one update of a round's."""
BUFFER_FITS = Condition(
    "server.buffer at most server.cohort (the clients at work)",
    ("server.buffer", "server.cohort"),
    lambda c: (
        value_of(c, "server.mode") == "sync" or value_of(c, "server.buffer") <= value_of(c, "server.cohort")
    ),
)
COMPLETED_FITS = Condition(
    "at most server.buffer where server.mode = 'buffered'",
    ("server.mode", "server.buffer"),
    lambda c: (
        value_of(c, "server.mode") == "sync"
        or value_of(c, "server.min_completed") <= value_of(c, "server.buffer")
    ),
)
PROXIMAL_SHRINKS = Condition(
    "client.learning_rate * client.proximal_mu below 1",
    ("client.learning_rate", "client.proximal_mu"),
    lambda c: value_of(c, "client.learning_rate") * value_of(c, "client.proximal_mu") < 1,
)
ENOUGH_FOR_KRUM = Condition(
    "server.cohort at least 2 server.hostile + 3",
    ("server.cohort", "server.hostile"),
    lambda c: value_of(c, "server.cohort") >= 2 * value_of(c, "server.hostile") + 3,
)
COUNTS_EXAMPLES = Condition(
    "server.aggregation = 'mean': the others let all clients count alike",
    ("server.aggregation",),
    lambda c: value_of(c, "server.aggregation") == "mean" or value_of(c, "server.weighting") == "uniform",
)
UNPROTECTED = one_of("privacy.dp", "none")


class ServerConfig(Section):
    """The federated loop and what the server does with the mean update."""

    rounds: Repeats = 10
    """Rounds of training."""
    horizon: Repeats | None = None
    """Rounds that schedules given as a share refer to; `rounds` of the first start when absent, and recorded
    in the run, so that more rounds later leave the schedules as they were."""
    cohort: Annotated[Population, Needs(at_most("server.cohort", "partition.clients"))] = 10
    """Clients per round, drawn without replacement by the seed."""
    strategy: StrategyName = "fedavg"
    """How the mean update moves the global model: `fedavg`, `fedavgm`, `fedadam`, `fedyogi` (Reddi et al.
    2021), or `MODULE:NAME` of another server optimiser."""
    learning_rate: Annotated[Rate | None, OnlyIf(takes("server.strategy", "strategy", "learning_rate"))] = (
        None
    )
    """Server step size; when absent 1, FedAvg's plain averaging, and 0.01 for `fedadam` and `fedyogi`."""
    momentum: Annotated[Fraction, OnlyIf(takes("server.strategy", "strategy", "momentum"))] = 0.9
    """`fedavgm`'s momentum and the first beta of `fedadam` and `fedyogi`."""
    beta2: Annotated[Fraction, OnlyIf(takes("server.strategy", "strategy", "beta2"))] = 0.99
    """Second beta of `fedadam` and `fedyogi`."""
    tau: Annotated[Rate, OnlyIf(takes("server.strategy", "strategy", "tau"))] = 1e-3
    """Adaptivity of `fedadam` and `fedyogi`: added to the root of the second moment."""
    weighting: Annotated[Literal["examples", "uniform"], OnlyIf(COUNTS_EXAMPLES)] = "examples"
    """What a client's update weighs in the mean: its examples, or as much as any other's (HeteroFL)."""
    aggregation: Annotated[
        AggregationName,
        Needs(WHOLE_MODELS & SYNCHRONOUS),
        Needs(ENOUGH_FOR_KRUM, ("krum",)),
    ] = "mean"
    """What becomes of the updates: their mean, or what wrong and hostile ones cannot move far, of clients
    that count alike: `trimmed-mean` and `median` by element (Yin et al. 2018), `krum` the one that is nearest
    to the others (Blanchard et al. 2017), or `MODULE:NAME` of another. All but the mean keep a cohort of
    updates in the server's memory, 8 bytes for each element and client."""
    trim: Annotated[
        float, Field(ge=0, lt=0.5), OnlyIf(takes("server.aggregation", "aggregation", "trim"))
    ] = 0.1
    """`trimmed-mean`: share of the largest, and of the smallest, values of an element that is left out."""
    hostile: Annotated[
        Whole, Field(ge=0, le=10**6), OnlyIf(takes("server.aggregation", "aggregation", "hostile"))
    ] = 1
    """`krum`: hostile clients of a cohort that it withstands."""
    krum_keep: Annotated[
        Repeats,
        OnlyIf(takes("server.aggregation", "aggregation", "krum_keep")),
        Needs(at_most("server.krum_keep", "server.cohort")),
    ] = 1
    """`krum`: the mean of so many best updates (Multi-Krum)."""
    normalisation: Annotated[Literal["none", "fednova"], Needs(PROXIMAL_SHRINKS)] = "none"
    """`fednova`: each update is divided by its client's effective number of steps (Wang et al. 2020)."""
    mode: Annotated[Literal["sync", "buffered"], Needs(DEVICES)] = "sync"
    """`buffered`: FedBuff; clients run on the simulated clock and a round ends with `buffer` updates."""
    buffer: Annotated[
        Population,
        OnlyIf(one_of("server.mode", "buffered")),
        Needs(BUFFER_FITS),
    ] = 5
    """`buffered`: updates a round, of `cohort` clients that train at the same time."""
    min_completed: Annotated[
        Population,
        OnlyIf(UNPROTECTED),
        Needs(at_most("server.min_completed", "server.cohort") & COMPLETED_FITS),
    ] = 1
    """A round with fewer usable replies is repeated with a new cohort; with `privacy.dp` none is."""
    max_retries: Annotated[Whole, Field(ge=0, le=1000), OnlyIf(UNPROTECTED)] = 2
    """How often one round is repeated before the run stops."""
    checkpoint_every: Repeats = 1
    """Rounds between checkpoints; a resumed run repeats at most that many."""

    @property
    def step_size(self) -> float:
        """Step size of the strategy: its own where none is given."""
        if self.learning_rate is not None:
            return self.learning_rate
        return float(registry.fact("strategy", self.strategy, "step_size", 1.0))

    @property
    def horizon_rounds(self) -> int:
        """Rounds that schedules refer to."""
        return self.horizon or self.rounds
