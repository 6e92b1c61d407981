"""Plans that keep within budgets: which part of the network, how many steps, which batch size.

A policy is a part of the kind ``policy``: a function of a ``PlanRequest`` that returns a ``ClientPlan`` or
``OverBudget``. It states the ``axes`` that it chooses along, of ``width``, ``kernels``, ``depth``, ``batch``
and ``steps``.

The built-in ones are sets of candidates, of which the best that fits is taken. The best has the largest
elements_share^w * samples_share^(1-w): the share of the network's elements that the client trains, and of the
samples that it would see with all epochs. The batch is the largest that fits, since a smaller one buys memory
and nothing else. The candidates are few, so all of them are looked at: the choice is the optimum, and not a
greedy step towards it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from fedfmd.contracts import make
from fedfmd.devices.participant import Participant
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import Share
from fedfmd.planning.budget import Limits, limits_of
from fedfmd.planning.demand import Demand, demand, work_of
from fedfmd.planning.plan_checks import plan_fault, reason_fault
from fedfmd.registry import register
from fedfmd.seeds import numpy_rng
from fedfmd.units import quantity
from fedfmd.wire.plan import ClientPlan, full_plan

SINGLE_SAMPLE = "the client has one training image, and model.attention_norm = 'bn' needs two"
Usage = Sequence[float]
"""How much a client's data uses each of the K kernels; sums to 1."""


@dataclass(frozen=True)
class OverBudget:
    """No plan of the policy fits; ``plan`` is the smallest."""

    plan: ClientPlan
    reason: str


class Planner:
    """Makes the plans of an experiment's clients."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.config = experiment.config
        self.policy = experiment.config.policy
        self.full = full_plan(self.config)

    def plan(self, client: int, round: int, usage: Mapping[int, Usage]) -> ClientPlan | OverBudget:
        """Plan a client's round; ``usage`` is what is known of the clients' kernels."""
        participant = self.experiment.participant(client)
        if participant.examples == 1 and self.config.model.attention_needs_pairs:
            return OverBudget(self.full, SINGLE_SAMPLE)
        request = PlanRequest(self, client, round, participant, usage.get(client, ()))
        made = make("policy", self.policy.kind, request, **self.config.own("policy"))
        if not isinstance(made, ClientPlan | OverBudget):
            raise UserError(
                f"policy.kind = {self.policy.kind!r}: gives a {type(made).__name__}, where a policy gives a "
                "ClientPlan or OverBudget"
            )
        asked = made if isinstance(made, ClientPlan) else made.plan
        fault = plan_fault(asked, self.config)
        if isinstance(made, OverBudget):
            fault = fault or reason_fault(made.reason)
        if fault:
            raise UserError(f"policy.kind = {self.policy.kind!r}: gives a plan with {fault}")
        return made

    def best(
        self, candidates: Sequence[ClientPlan], limits: Limits, participant: Participant
    ) -> ClientPlan | None:
        """Return the best of the candidates that keeps within the limits; null where none does."""
        best, best_value = None, 0.0
        weight = self.policy.capacity_weight
        whole = self.elements(self.full)
        full_samples = max(1, work_of(self.experiment, self.full, participant.examples).samples)
        settled: set[Share] = set()
        for plan in sorted(candidates, key=self.elements, reverse=True):
            if plan.share in settled:
                continue  # with a larger batch
            capacity = (self.elements(plan) / whole) ** weight
            if capacity < best_value:
                break  # what follows holds less, and cannot see more than all samples
            fitting = self._fitted(plan, limits, participant)
            if fitting is None:
                continue
            settled.add(plan.share)
            seen = work_of(self.experiment, fitting, participant.examples).samples / full_samples
            value = capacity * seen ** (1 - weight)
            if value > best_value:
                best, best_value = fitting, value
        return best

    def _fitted(self, plan: ClientPlan, limits: Limits, participant: Participant) -> ClientPlan | None:
        """Return the plan with as many steps as fit, if the policy may shorten it at all."""

        def fits(candidate: ClientPlan) -> bool:
            return not demand(self.experiment, candidate, participant).exceeded(limits)

        if fits(plan):
            return plan
        if "steps" not in self.policy.axes or not fits(replace(plan, steps=1)):
            return None
        low, high = 1, work_of(self.experiment, plan, participant.examples).steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(replace(plan, steps=middle)) else (low, middle)
        return replace(plan, steps=low)

    def candidates(self, round: int, usage: Usage) -> Iterator[ClientPlan]:
        """Yield the plans along the policy's axes, the whole one first and the smallest last."""
        axes, model = self.policy.axes, self.config.model
        stages = model.stages
        widths = sorted(self.policy.widths, reverse=True) if "width" in axes else [1.0]
        dynamic = "kernels" in axes and model.dynamic
        counts = range(model.kernels, 0, -1) if dynamic else [model.kernels]
        depths = range(stages, 0, -1) if "depth" in axes and model.exits else [stages]
        batches = self._batch_sizes() if "batch" in axes else [self.full.batch_size]
        for width, count, depth, batch in product(widths, counts, depths, batches):
            share = Share(
                width=width,
                kernels=self._kernel_set(count, round, usage),
                depth=0 if depth == stages else depth,
            )
            held = self.experiment.algorithms.share(share, round)
            yield replace(self.full, share=held, batch_size=batch)

    def _batch_sizes(self) -> list[int]:
        sizes = [self.full.batch_size]
        smallest = max(self.policy.min_batch_size, 2 if self.config.model.attention_needs_pairs else 1)
        while sizes[-1] // 2 >= smallest:
            sizes.append(sizes[-1] // 2)
        return sizes

    def _kernel_set(self, count: int, round: int, usage: Usage) -> tuple[int, ...]:
        return kernel_set(self.policy.kernel_mode, count, self.config.model.kernels, round, usage)

    def elements(self, plan: ClientPlan) -> int:
        """Count the elements of the network that a plan's client trains."""
        return self.experiment.network.part(plan.share).layout.elements


@dataclass(frozen=True)
class PlanRequest:
    """A client's round, to be planned."""

    planner: Planner
    client: int
    round: int
    participant: Participant
    """The client's examples and device."""
    usage: Usage
    """How much the client's data uses each kernel; empty where that is not known."""

    @property
    def full(self) -> ClientPlan:
        """The plan of a client without limits: the whole network, all epochs."""
        return self.planner.full

    @cached_property
    def limits(self) -> Limits:
        """What the client may spend in a round."""
        return limits_of(self.planner.experiment, self.participant)

    def candidates(self) -> list[ClientPlan]:
        """Return the plans along the policy's axes, the whole one first and the smallest last."""
        return list(self.planner.candidates(self.round, self.usage))

    def demand(self, plan: ClientPlan) -> Demand:
        """Return what a plan would cost this client."""
        return demand(self.planner.experiment, plan, self.participant)

    def exceeded(self, plan: ClientPlan) -> list[str]:
        """Name the limits that a plan breaks."""
        return self.demand(plan).exceeded(self.limits)

    def drawn(self) -> ClientPlan:
        """Return one of the candidates, which are in the order of falling widths, drawn for this round."""
        policy, candidates = self.planner.policy, self.candidates()
        chances = dict(zip(policy.widths, policy.proportions, strict=False))
        weights = np.array([chances.get(plan.share.width, 1.0) for plan in candidates])
        rng = numpy_rng(self.planner.config.seed, "rates", self.round, self.client)
        return candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]

    def best_fit(self) -> ClientPlan | OverBudget:
        """Return the best of the candidates that keeps within the limits."""
        broken, candidates = self.exceeded(self.full), self.candidates()
        best = self.planner.best(candidates, self.limits, self.participant)
        if best is not None:
            return replace(best, why=f"the full plan exceeds {', '.join(broken)}" if broken else "")
        smallest = min(candidates, key=self.planner.elements)
        over = self.exceeded(replace(smallest, steps=1))
        return OverBudget(smallest, f"over budget: {', '.join(over or broken)}")


@register("policy", "none")
def unbudgeted(request: PlanRequest) -> ClientPlan | OverBudget:
    """Return the full plan, unless a real machine cannot hold it."""
    host = request.participant.host
    limit = host.memory_bytes if host else None
    needed = request.demand(request.full).memory_bytes if limit is not None else 0
    if limit is None or needed <= limit:
        return request.full
    needs = f"training needs {quantity(needed, 'B')}, the client has {quantity(limit, 'B')}"
    return OverBudget(request.full, f"{needs}; a policy would give it a smaller plan")


@register("policy", "width", axes=("width",))
def narrower(request: PlanRequest) -> ClientPlan | OverBudget:
    """Return the widest network that fits, or one of a width drawn by ``policy.proportions``."""
    return request.drawn() if request.planner.policy.rates == "drawn" else request.best_fit()


@register("policy", "smallest", axes=("width",))
def smallest(request: PlanRequest) -> ClientPlan:
    """Return the smallest share of the network, whatever the budget."""
    return request.candidates()[-1]


BEST_FIT_AXES = {
    "drop": (),
    "partial": ("steps",),
    "kernels": ("kernels",),
    "depth": ("depth",),
    "batch": ("batch",),
    "auto": ("width", "kernels", "depth", "batch", "steps"),
}
"""The policies that take the best plan that fits, and the axes along which they look for it."""
for _name, _axes in BEST_FIT_AXES.items():
    register("policy", _name, axes=_axes)(PlanRequest.best_fit)


def kernel_set(mode: str, count: int, kernels: int, round: int, usage: Usage) -> tuple[int, ...]:
    """Choose ``count`` of the ``kernels``, ascending; empty for all.

    `rolling`: a window that starts at round - 1 and wraps round. `usage`: those used most, the first of
    equals; a client of which nothing is known uses all alike.
    """
    if count == kernels:
        return ()
    if mode == "rolling":
        return tuple(sorted((round - 1 + i) % kernels for i in range(count)))
    if mode == "usage" and usage:
        return tuple(sorted(sorted(range(kernels), key=lambda k: (-usage[k], k))[:count]))
    return tuple(range(count))


def usage_after(before: Usage, held: Sequence[int], measured: Usage, kernels: int) -> list[float]:
    """Update what is known of a client's kernels by what it ``measured`` of those ``held``; empty for all.

    A kernel that the client has not held since keeps its figure, 1/K at first; held ones share what is left
    as measured. So a kernel the data hardly uses falls behind those not tried yet.
    """
    known = list(before) or [1 / kernels] * kernels
    places = list(held) or list(range(kernels))
    left = sum(known[k] for k in places)
    for place, part in zip(places, measured, strict=True):
        known[place] = left * part
    return known
