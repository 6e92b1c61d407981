"""How plans keep within limits."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd import registry
from fedfmd.config.conditions import (
    Condition,
    Needs,
    OnlyIf,
    above,
    at_most,
    fails,
    none_of,
    one_of,
    value_of,
)
from fedfmd.config.parts import Named
from fedfmd.config.sections.switches import DYNAMIC, UNBUFFERED_ATTENTION, WIDTHS, chosen_along
from fedfmd.config.values import Physical, Repeats, Section

PolicyName = Annotated[str, Named("policy")]
"""Ways to keep a client's plan within its budget."""


def _if_over(condition: Condition, *axes: str) -> Condition:
    """Return what holds wherever the policy chooses along none of the axes."""
    return condition.unless(lambda config: not value_of(config, "policy.axes") & {*axes})


SHARED_NORMS = fails("model.keeps_norms", "model.norm other than 'fedbn'", "model.norm")
STATISTICS_PER_WIDTH = Condition(
    "model.norm = 'gn' or 'ln' or 'bn'",
    ("model.norm",),
    lambda config: value_of(config, "model.norm") == "bn" or not value_of(config, "model.norm_needs_pairs"),
)
UNSHARED = fails("model.shares", "model.conv other than 'kernelwarehouse'", "model.conv").because(
    "whose layers share cells that no part of a layer has alone"
)
SLICED = Condition(
    "a model.name and a model.conv of which clients can hold a part (one of your own states its slices)",
    ("model.name", "model.conv"),
    lambda config: "width" in value_of(config, "model.slices"),
)
DRAWN = one_of("policy.rates", "drawn")
AS_MANY_AS_WIDTHS = Condition(
    "one for each of policy.widths",
    ("policy.widths",),
    lambda c: len(value_of(c, "policy.proportions")) == len(value_of(c, "policy.widths")),
)


class PolicyConfig(Section):
    """How a client's plan meets its budget."""

    kind: Annotated[
        PolicyName,
        Needs(DYNAMIC & above("model.kernels", 1), ("kernels",)),
        Needs(one_of("model.exits", True), ("depth",)),
        Needs(_if_over(SHARED_NORMS, "width", "kernels", "depth")),
        Needs(_if_over(UNSHARED, "width", "kernels", "depth")),
        Needs(_if_over(SLICED, "width")),
    ] = "none"
    """`none`: the full plan, whatever the budget; `drop`: clients over budget are left out; `partial`: fewer
    steps; `width`, `kernels`, `depth`, `batch`: the largest share on that axis that fits; `smallest`: the
    smallest share of the model for all; `auto`: the best plan on all axes together; or `MODULE:NAME` of
    another policy."""
    widths: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=100), OnlyIf(WIDTHS)
    ] = [
        1.0,
        0.5,
        0.25,
        0.125,
        0.0625,
    ]
    """Shares of the channels that a client may hold."""
    rates: Annotated[Literal["budget", "drawn"], OnlyIf(one_of("policy.kind", "width"))] = "budget"
    """`budget`: the largest of `widths` that fits a client's limits; `drawn`: one by chance for each client
    and round, whatever the limits, as in HeteroFL's dynamic setting; violations are counted."""
    proportions: Annotated[
        list[Physical], OnlyIf(one_of("policy.kind", "width") & DRAWN), Needs(AS_MANY_AS_WIDTHS)
    ] = []
    """`drawn`: the relative frequency of each of `widths`; all alike when empty."""
    classifier_rows: Annotated[
        Literal["labels", "holders"],
        OnlyIf(one_of("policy.kind", "width") & none_of("policy.width_mode", "ordered")),
    ] = "labels"
    """Over whom a row of the classifier is averaged: those holders that have the label (HeteroFL, FedRolex),
    or all of them."""
    width_mode: Annotated[
        Literal["static", "ordered", "rolling"],
        OnlyIf(WIDTHS),
        Needs(STATISTICS_PER_WIDTH & UNBUFFERED_ATTENTION, ("ordered",)),
    ] = "static"
    """Which channels: the first (HeteroFL), nested random prefixes a step (FjORD), a window that moves with
    the rounds (FedRolex)."""
    kernel_mode: Annotated[
        Literal["prefix", "rolling", "usage"], OnlyIf(chosen_along("kernels", "kernels", "auto") & DYNAMIC)
    ] = "prefix"
    """Which kernels: the first, a window that moves with the rounds, those the client's data use most."""
    min_batch_size: Annotated[
        Repeats,
        OnlyIf(chosen_along("batch", "batch", "auto")),
        Needs(at_most("policy.min_batch_size", "client.batch_size")),
    ] = 1
    """`batch` and `auto`: smallest batch allowed."""
    capacity_weight: Annotated[float, Field(ge=0, le=1), OnlyIf(one_of("policy.kind", "auto"))] = 0.5
    """`auto` maximises elements_share^w * samples_share^(1-w) with this w."""

    @property
    def axes(self) -> frozenset[str]:
        """Along which axes it chooses a client's plan: `width`, `kernels`, `depth`, `batch`, `steps`."""
        return frozenset(registry.fact("policy", self.kind, "axes", ()))

    @property
    def shares(self) -> bool:
        """Whether clients may train parts of the network."""
        return bool(self.axes & {"width", "kernels", "depth"})
