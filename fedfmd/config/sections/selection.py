"""Who is asked in a round."""

from typing import Annotated

from pydantic import Field

from fedfmd import registry
from fedfmd.config.conditions import Needs, OnlyIf, absent, one_of, states, value_of
from fedfmd.config.parts import Named
from fedfmd.config.sections.switches import DEVICES, SYNCHRONOUS
from fedfmd.config.values import NonNegative, Proportion, Rate, Repeats, Section, Whole

SelectionName = Annotated[str, Named("selection")]
"""Ways to draw a round's clients."""
OORT = one_of("selection.kind", "oort")
TIFL = states("selection.kind", "tiered", "selection.tiered", "tifl")
TIMED = (DEVICES & SYNCHRONOUS).unless(lambda config: not value_of(config, "selection.timed"))
"""What a selection that looks at devices needs."""


class SelectionConfig(Section):
    """Who is asked in a round."""

    kind: Annotated[SelectionName, Needs(TIMED)] = "uniform"
    """`uniform`: by the seed, `server.cohort` of them; `poisson`: each client by itself, so many on average;
    `oort`: by loss and speed (Lai et al. 2021); `tifl`: from one latency tier (Chai et al. 2020); or
    `MODULE:NAME` of another."""
    availability: Annotated[bool, Needs(DEVICES)] = False
    """Ask only clients whose device is there in that round, or at its begin where `devices.states` says so.
    Where fewer than `server.min_completed` are, the clock goes on to when they are."""
    over_selection: Annotated[float, Field(ge=1, le=10), Needs(DEVICES & SYNCHRONOUS)] = 1.0
    """Ask this many times the cohort; the first `server.cohort` on the simulated clock are used."""
    deadline_seconds: Annotated[Rate | None, Needs(DEVICES & SYNCHRONOUS)] = None
    """A client not finished by then, on the simulated clock, is dropped; the round then takes that long."""
    exploration: Annotated[Proportion, OnlyIf(OORT)] = 0.9
    """`oort`: share of the places that is for clients never used, before the first round; 0 once there are
    none."""
    exploration_decay: Annotated[Proportion, OnlyIf(OORT)] = 0.98
    """`oort`: factor on `exploration` from one round to the next."""
    exploration_least: Annotated[Proportion, OnlyIf(OORT)] = 0.2
    """`oort`: where `exploration` stays."""
    clip_percentile: Annotated[Proportion, OnlyIf(OORT)] = 0.98
    """`oort`: share of the utilities beyond which all count as the one there."""
    staleness_bonus: Annotated[NonNegative, OnlyIf(OORT)] = 0.1
    """`oort`: a score grows by sqrt(this * ln(round) / round of the last use)."""
    cut_off: Annotated[Proportion, OnlyIf(OORT)] = 0.7
    """`oort`: share of the score at the last place that a client must have; the paper has 0.95."""
    window: Annotated[float, Field(ge=1, le=1e6), OnlyIf(OORT)] = 5.0
    """`oort`: new clients are drawn among the best so many times the places."""
    slowness_exponent: Annotated[NonNegative, OnlyIf(OORT)] = 2.0
    """`oort`: a client that takes t > T seconds scores (T / t) to this power."""
    preferred_seconds: Annotated[Rate | None, OnlyIf(OORT)] = None
    """`oort`: T in device seconds; when absent a percentile of all clients' durations, moved by the pacer."""
    preferred_percentile: Annotated[Proportion, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.3
    """`oort`: the share of the clients that is within T at first; 1 is without T."""
    pacer_rounds: Annotated[Repeats, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 20
    """`oort`: rounds between two looks at the utility gained, each over as many."""
    pacer_step: Annotated[Proportion, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.05
    """`oort`: how far the pacer moves `preferred_percentile`."""
    pacer_flat: Annotated[NonNegative, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.1
    """`oort`: relative change of the utility up to which the pacer moves T up."""
    pacer_sharp: Annotated[NonNegative, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 5.0
    """`oort`: relative change of the utility from which on the pacer moves T down."""
    blacklist_after: Annotated[Whole, Field(ge=0, le=10**6), OnlyIf(OORT)] = 10
    """`oort`: who was used more often is left out; 0 is never."""
    blacklist_share: Annotated[Proportion, OnlyIf(OORT)] = 0.3
    """`oort`: share of all clients that may be left out so."""
    tiers: Annotated[Whole, Field(ge=1, le=100), OnlyIf(TIFL)] = 5
    """`tifl`: number of latency tiers."""
    tier_credits: Annotated[Repeats | None, OnlyIf(TIFL)] = None
    """`tifl`: how often one tier may be chosen; without limit when absent."""
    adapt_every: Annotated[Whole, Field(ge=0, le=10**6), OnlyIf(TIFL)] = 20
    """`tifl`: rounds between two measurements of the tiers' accuracy on their clients' images, after which a
    tier that is behind becomes likelier; 0 is never."""

    @property
    def timed(self) -> bool:
        """Whether it needs to know how fast the clients' devices are."""
        return bool(registry.fact("selection", self.kind, "timed", False))

    @property
    def judges(self) -> bool:
        """Whether it looks at losses or accuracies of single clients; one of your own, at its history."""
        looks = registry.takes("selection", self.kind, "history") or self.looks_at_losses
        asked = not self.tiered or self.adapt_every > 0
        return asked and bool(registry.fact("selection", self.kind, "judges", looks))

    @property
    def looks_at_losses(self) -> bool:
        """Whether clients tell it the root of the mean squared loss of their samples."""
        return bool(registry.fact("selection", self.kind, "looks_at_losses", False))

    @property
    def tiered(self) -> bool:
        """Whether it draws from latency tiers, whose accuracy is measured every `adapt_every` rounds."""
        return bool(registry.fact("selection", self.kind, "tiered", False))

    @property
    def independent(self) -> bool:
        """Whether each client is drawn by itself, so that a cohort has any size."""
        return bool(registry.fact("selection", self.kind, "independent", False))

    @property
    def learns(self) -> bool:
        """Whether it is told of the clients that have been asked."""
        return bool(registry.fact("selection", self.kind, "learns", True))
