"""Secure sums and differential privacy, and what they ask of the rest."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, above, absent, fails, given, one_of, value_of
from fedfmd.config.sections.switches import SYNCHRONOUS, UNBUFFERED_ATTENTION, WHOLE_MODELS
from fedfmd.config.values import Rate, Section, Whole

SECURE = one_of("privacy.secure", "secagg")
UNJUDGED = Condition(
    "a selection.kind that looks at no client's loss or accuracy",
    ("selection.kind", "selection.adapt_every"),
    lambda c: not value_of(c, "selection.judges"),
)
UNEXAMINED = Condition(
    "no client that measures by itself (evaluation.clients = 0)",
    ("evaluation.clients", "partition.holdout"),
    lambda c: not value_of(c, "measuring_clients"),
)
UNUSED_KERNELS = Condition(
    "policy.kernel_mode other than 'usage', which is told of each client's kernels",
    ("policy.kernel_mode",),
    lambda c: "kernels" not in value_of(c, "policy.axes") or value_of(c, "policy.kernel_mode") != "usage",
)
ROWS_OF_HOLDERS = Condition(
    "policy.classifier_rows = 'holders', since rows by label tell who has which",
    ("policy.classifier_rows",),
    lambda c: (
        value_of(c, "policy.kind") != "width"
        or value_of(c, "policy.width_mode") == "ordered"
        or value_of(c, "policy.classifier_rows") == "holders"
    ),
)
UNRESTATED_NORMS = fails(
    "restates_norms",
    "evaluation.static_norms = false, since clients tell what their images are to BatchNorm",
    "evaluation.static_norms",
    "model.norm",
)
ENOUGH_HOLDERS = Condition(
    "server.cohort at least privacy.min_holders",
    ("server.cohort", "privacy.min_holders"),
    lambda c: value_of(c, "server.cohort") >= value_of(c, "privacy.min_holders"),
)
SUMS_ALONE = (
    SYNCHRONOUS
    & one_of("compression.uplink", "none")
    & one_of("server.aggregation", "mean")
    & UNJUDGED
    & UNEXAMINED
    & UNUSED_KERNELS
    & ROWS_OF_HOLDERS
    & one_of("diagnostics.enabled", False)
    & UNRESTATED_NORMS
    & ENOUGH_HOLDERS
)
"""Where nothing is asked of the clients but one exact sum of their updates."""
PRIVATE = one_of("privacy.dp", "central")
WITHOUT_STATISTICS = Condition(
    "a model.norm that keeps nothing of the images, 'gn' or 'ln'",
    ("model.norm",),
    lambda c: (
        not any(value_of(c, f"model.{fact}") for fact in ("norm_needs_pairs", "keeps_norms", "freezes"))
    ),
)
DRAWN_BY_CHANCE = Condition(
    "selection.kind = 'uniform' or 'poisson', whose chances the accountant knows",
    ("selection.kind",),
    lambda c: value_of(c, "selection.kind") == "uniform" or value_of(c, "selection.independent"),
)
NOISE_GIVEN = Condition(
    "privacy.noise_multiplier or privacy.epsilon to be given",
    ("privacy.noise_multiplier", "privacy.epsilon"),
    lambda c: value_of(c, "privacy.noise_multiplier") is not None or value_of(c, "privacy.epsilon"),
)
NOISED = Condition(
    "privacy.noise_multiplier > 0",
    ("privacy.noise_multiplier",),
    lambda c: value_of(c, "privacy.noise_multiplier") != 0,
)
DELTA_BELOW_ONE_CLIENT = Condition(
    "less than 1 / partition.clients: else the data of one client in the open would do",
    ("partition.clients",),
    lambda c: (value_of(c, "privacy.delta") or 0) * value_of(c, "partition.clients") < 1,
)
PROTECTABLE = (
    NOISE_GIVEN
    & one_of("server.weighting", "uniform").because("so that the clip bounds what a client counts for")
    & above("partition.clients", 1).because("one among whom to hide")
    & SYNCHRONOUS.because("as the accountant knows rounds of clients that are drawn together")
    & one_of("server.aggregation", "mean").because("whose sum the noise is for")
    & DRAWN_BY_CHANCE
    & one_of("selection.availability", False).because("as who is there is not left to chance")
    & one_of("selection.over_selection", 1.0).because("as who is first is not left to chance")
    & absent("selection.deadline_seconds").because("as who is late is not left to chance")
    & WHOLE_MODELS
    & WITHOUT_STATISTICS
    & UNBUFFERED_ATTENTION
    & one_of("privacy.secure", "none").because("whose rounds are repeated when too few are left of them")
    & one_of("client.scaffold", False).because("whose controls the noise does not cover")
    & one_of("server.normalisation", "none").because("as the steps of clients are in the open")
    & one_of("compression.uplink", "none").because("which could take an update beyond its clip")
)
"""What differential privacy asks of the rest."""


class PrivacyConfig(Section):
    """What the server may learn of a single client."""

    secure: Annotated[Literal["none", "secagg"], Needs(SUMS_ALONE, ("secagg",))] = "none"
    """`secagg`: the server sees the sum of a round's updates and no client's own (Bonawitz et al. 2017, Bell
    et al. 2020); the sum has the bits of the plain one. See the page on secure sums."""
    masks: Annotated[Literal["real", "counted"], OnlyIf(SECURE)] = "real"
    """In a simulation: `real` masks are added and taken off, `counted` ones only billed. The result is the
    same; real clients always mask."""
    threshold: Annotated[float, Field(gt=0.5, le=1), OnlyIf(SECURE)] = 0.66
    """Share of those that hold parts of a client's secrets who must answer for its masks to come off. Fewer
    colluders than this learn nothing; with more drop-outs than the rest the round is repeated."""
    min_holders: Annotated[Whole, Field(ge=2, le=10**6), OnlyIf(SECURE)] = 3
    """Fewest clients in a sum that the server gets to see. Elements that fewer were to send are not sent, and
    of those that fewer have sent the masks stay on: they keep their value."""
    dp: Annotated[Literal["none", "central"], Needs(PROTECTABLE, ("central",))] = "none"
    """`central`: clients clip their updates, and the server, which is trusted, adds noise to their sum, so
    that its models tell little of any one client (McMahan et al. 2018). See the page on privacy."""
    clip: Annotated[Rate, OnlyIf(PRIVATE)] = 1.0
    """Largest L2 norm of an update; with `clip_quantile` the first one."""
    noise_multiplier: Annotated[
        Annotated[float, Field(ge=0, le=1000)] | None, OnlyIf(PRIVATE & absent("privacy.epsilon"))
    ] = None
    """Standard deviation of the noise on the sum of updates, over the clip. 0 clips and promises nothing."""
    epsilon: Annotated[Rate | None, OnlyIf(PRIVATE)] = None
    """In place of `noise_multiplier`: the noise that comes to this epsilon after `server.horizon` rounds."""
    delta: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None, OnlyIf(PRIVATE), Needs(DELTA_BELOW_ONE_CLIENT)
    ] = None
    """Chance that the promise may fail; `partition.clients` to the power of -1.1 when absent."""
    epsilon_budget: Annotated[Rate | None, OnlyIf(PRIVATE), Needs(NOISED)] = None
    """The run ends before a round that would take epsilon beyond this."""
    clip_quantile: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, OnlyIf(PRIVATE), Needs(NOISED)] = (
        None
    )
    """Let the clip follow this quantile of the updates' norms, learned with noise (Andrew et al. 2021); the
    clip stays as it is when absent."""
    clip_rate: Annotated[Rate, OnlyIf(PRIVATE & given("privacy.clip_quantile"))] = 0.2
    """How fast it follows: the clip is multiplied by exp(-this * (share within the clip - quantile))."""
