"""What a run will do and cost, before anything of it runs: plans by tier, rounds within a total, MACs, bytes.

The plans are those of the run itself, made by its own planner for its own clients, round by round where they
may depend on it. The cohorts are those of the run, too, where they are drawn by chance alone; a selection
that learns from what happens is forecast by uniform cohorts, and the forecast says so.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, changed
from fedfmd.devices import shares_links
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.planning.budget import Limits, limits_of
from fedfmd.planning.demand import Demand, demand, work_of
from fedfmd.planning.evaluation import expected_macs
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.planning.remarks import remarks
from fedfmd.privacy.promise import Promise
from fedfmd.registry import origin
from fedfmd.rounds.lifecycle import open_experiment, start_run
from fedfmd.secure.costs import StageCost
from fedfmd.selection.cohort import Selector
from fedfmd.wire.plan import ClientPlan

POLICIES = ("none", "drop", "partial", "width", "kernels", "depth", "batch", "auto")
MOST_CLIENTS = 500
"""Clients that are planned for, the first ones; a larger population is described by them."""
MOST_ROUNDS = 200
"""Rounds whose cohorts are drawn; more are extrapolated."""
ALL = "all clients"
BY_ROUND = (
    "Plans may change from round to round: those of the tiers are of round 1, the totals of every round."
)


@dataclass(frozen=True)
class PolicyForecast:
    """What a policy gives a tier."""

    policy: str
    plans: tuple[tuple[str, int], ...]
    """Plans in words, with how many clients have each, the most frequent first."""
    left_out: int
    macs_share: float
    """Training compute that is done, as a share of the full work of the tier's clients."""
    refused: str = ""
    """Why the experiment cannot have this policy."""


@dataclass(frozen=True)
class TierForecast:
    """Clients of one kind of device."""

    name: str
    clients: int
    examples: float
    """On average."""
    limits: Limits
    """Of the client with the median number of examples."""
    full: Demand
    """The full work of that client."""
    policies: tuple[PolicyForecast, ...]
    """By every policy that the experiment could have; its own comes first."""


@dataclass(frozen=True)
class ForecastTotals:
    """A whole run, or its first rounds."""

    rounds: int
    macs: float
    downlink_bytes: float
    uplink_bytes: float
    secure_macs: float
    """Of keys, shares and masks, where there are secure sums."""
    secure_downlink_bytes: float
    secure_uplink_bytes: float
    asked: float
    """Clients a round, on average, of all its attempts."""
    left_out: float
    """Those of them that no plan of the policy fits."""
    stops_in: int | None
    """First round in none of whose attempts enough clients have a plan; null where every round has one."""
    evaluation_macs: float
    memory_bytes: int
    """Most of one client."""
    device_seconds: float | None
    energy_joules: float | None
    """Null without devices, and where the power of one that is asked is unknown."""
    device_clock_seconds: float | None
    """Null without devices, and where the clock depends on more than the plans."""

    @property
    def bytes(self) -> float:
        """Payload in both directions."""
        return self.downlink_bytes + self.uplink_bytes + self.secure_bytes

    @property
    def secure_bytes(self) -> float:
        """Keys and shares, in both directions."""
        return self.secure_downlink_bytes + self.secure_uplink_bytes

    @property
    def evaluation_share(self) -> float:
        """Compute of evaluation as a share of all."""
        return self.evaluation_macs / ((self.macs + self.evaluation_macs) or 1)


@dataclass(frozen=True)
class Forecast:
    """What is known beforehand."""

    config: ExperimentConfig
    tiers: tuple[TierForecast, ...]
    totals: ForecastTotals
    notes: tuple[str, ...]
    promise: Promise | None = None
    """Of differential privacy, where it is asked for."""

    @property
    def dead_end(self) -> str:
        """Why the run cannot come through its first round; empty where nothing is known to stop it."""
        known = sum(tier.clients for tier in self.tiers)
        able = known - sum(tier.policies[0].left_out for tier in self.tiers)
        needed = self.config.least_completed
        if able >= needed or known < self.config.partition.clients:
            return ""
        have = f"only {able} of {known} clients have" if able else "no client has"
        return (
            f"{have} a plan that fits the budget, and a round needs server.min_completed = {needed}: the run "
            "would stop in round 1; give a larger budget, or another policy"
        )

    def rounds_within(self, cost: str, limit: float) -> int:
        """Return how many rounds a total of ``macs``, ``bytes``, device seconds or joules allows."""
        spent = getattr(self.totals, cost)
        return int(limit * self.totals.rounds / spent) if spent else self.totals.rounds


@contextmanager
def opened(config: ExperimentConfig) -> Iterator[Experiment]:
    """Check and prepare an experiment as a run does, and leave no run behind; raises ``UserError``."""
    with TemporaryDirectory(prefix="fedfmd-plan-") as folder:
        directory = start_run(config, Path(folder) / "plan")
        try:
            yield open_experiment(directory)
        finally:
            directory.unlock()


def forecast(experiment: Experiment, *, policies: bool = True) -> Forecast:
    """Return what an experiment will do; without ``policies`` only what its own one gives."""
    config = experiment.config
    clients = range(min(config.partition.clients, MOST_CLIENTS))
    members: dict[str, list[int]] = {}
    for client in clients:
        device = experiment.participant(client).device
        members.setdefault(device.name if device and config.devices.kind == "tiers" else ALL, []).append(
            client
        )
    others = [_with_policy(experiment, kind) for kind in POLICIES if kind != config.policy.kind]
    variants = [_Variant(experiment, config.policy.kind), *(others if policies else [])]
    tiers = tuple(_tier(name, own, variants) for name, own in sorted(members.items()))
    promise = Promise.of(config) if config.privacy.dp != "none" else None
    totals = _totals(variants[0], promise)
    notes = [*_notes(config), *_of_plans(experiment, totals), *([BY_ROUND] if variants[0].by_round else [])]
    return Forecast(config, tiers, totals, tuple(notes), promise)


def _of_plans(experiment: Experiment, totals: ForecastTotals) -> Iterator[str]:
    """Say where the totals are not what the run will come to."""
    server, selection = experiment.config.server, experiment.config.selection
    drawn_by_chance = not selection.learns and not selection.availability
    if totals.stops_in is not None and drawn_by_chance:
        yield (
            f"In round {totals.stops_in} too few of the clients that are asked have a plan that fits "
            f"(server.min_completed = {server.min_completed}, in {server.max_retries + 1} attempts): the run "
            "would stop there."
        )
    if not experiment.algorithms.plain_steps:
        yield "Steps draw smaller networks, or train several: MACs and seconds are the most that they take."


class _Variant:
    """An experiment under one policy; its plans are made once a client, or once a client and round."""

    def __init__(self, experiment: Experiment, policy: str, refused: str = ""):
        self.experiment, self.policy, self.refused = experiment, policy, refused
        self._plans: dict[tuple[int, int], tuple[ClientPlan | None, Demand]] = {}

    @cached_property
    def by_round(self) -> bool:
        """Whether what a plan costs may depend on the round: by parts of one's own, or since it is drawn.

        The windows that built-in parts move from round to round all cost the same.
        """
        parts = [("policy", self.policy), *(("algorithm", a.name) for a in self.experiment.algorithms.active)]
        own = any(origin(kind, name) for kind, name in parts)
        return own or self.experiment.config.policy.rates == "drawn"

    @cached_property
    def planner(self) -> Planner:
        return Planner(self.experiment)

    def plan(self, client: int, round: int = 1) -> tuple[ClientPlan | None, Demand]:
        """Return a client's plan, null where none fits, and what it demands."""
        key = client, round if self.by_round else 1
        if key not in self._plans:
            found = self.planner.plan(*key, {})
            plan = None if isinstance(found, OverBudget) else found
            asked = found.plan if isinstance(found, OverBudget) else found
            self._plans[key] = plan, demand(self.experiment, asked, self.experiment.participant(client))
        return self._plans[key]


def _with_policy(experiment: Experiment, kind: str) -> _Variant:
    document = applied(experiment.config)
    document["options"] = {k: v for k, v in document.get("options", {}).items() if k != "policy"}
    try:
        config = changed(document, {"policy.kind": kind})  # the options are those of its own policy
    except UserError as error:
        return _Variant(experiment, kind, str(error).split(": ", 1)[-1].splitlines()[0])
    return _Variant(replace(experiment, config=config), kind)


def _tier(name: str, clients: Sequence[int], variants: Sequence[_Variant]) -> TierForecast:
    experiment = variants[0].experiment
    sizes = {client: experiment.participant(client).examples for client in clients}
    middle = min(clients, key=lambda client: abs(sizes[client] - median(sizes.values())))
    participant, full = experiment.participant(middle), variants[0].planner.full
    return TierForecast(
        name=name,
        clients=len(clients),
        examples=fmean(sizes.values()),
        limits=limits_of(experiment, participant),
        full=demand(experiment, full, participant),
        policies=tuple(_policy_forecast(variant, clients) for variant in variants),
    )


def _policy_forecast(variant: _Variant, clients: Sequence[int]) -> PolicyForecast:
    if variant.refused:
        return PolicyForecast(variant.policy, (), 0, 0.0, variant.refused)
    experiment, full = variant.experiment, variant.planner.full
    counts: Counter[str] = Counter()
    left_out, done, whole = 0, 0, 0
    for client in clients:
        plan, spends = variant.plan(client)
        participant = experiment.participant(client)
        whole += demand(experiment, full, participant).macs
        left_out += plan is None
        if plan is not None:
            done += spends.macs
            counts[_words(experiment, plan, participant.examples)] += 1
    return PolicyForecast(
        variant.policy, tuple(counts.most_common()), left_out, done / whole if whole else 0.0
    )


def _words(experiment: Experiment, plan: ClientPlan, examples: int) -> str:
    """Call a plan by what it has less than the full one."""
    config, share = experiment.config, plan.share
    parts = [f"width {share.width:g}"] if share.width < 1 else []
    parts += [f"{len(share.kernels)} of {config.model.kernels} kernels"] if share.kernels else []
    parts += [f"{share.depth} stages"] if share.depth else []
    parts += [f"batch {plan.batch_size}"] if plan.batch_size != config.client.batch_size else []
    if plan.steps is not None:
        steps = work_of(experiment, replace(plan, steps=None), examples).steps
        parts += [f"{round(10 * plan.steps / steps) * 10}% of the steps"]
    return ", ".join(parts) or "full"


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a round."""

    asked: int
    """Clients, of whom some may have no plan."""
    demands: tuple[Demand, ...]
    """What those spend who have one."""

    @property
    def clock_seconds(self) -> float:
        """How long it takes on the simulated clock."""
        return max((spends.device_seconds or 0.0 for spends in self.demands), default=0.0)


def _totals(variant: _Variant, promise: Promise | None) -> ForecastTotals:
    experiment, config = variant.experiment, variant.experiment.config
    allowed = promise.rounds_left() if promise else None
    rounds = config.server.rounds if allowed is None else min(config.server.rounds, allowed)
    drawn = min(rounds, MOST_ROUNDS)
    tried = {number: list(_attempts(variant, number)) for number in range(1, drawn + 1)}
    attempts = [attempt for own in tried.values() for attempt in own]
    demands = [spends for attempt in attempts for spends in attempt.demands]
    secure = sum((spends.secure for spends in demands), StageCost())
    asked, factor = sum(attempt.asked for attempt in attempts), rounds / drawn
    macs = factor * sum(spends.macs for spends in demands)
    seconds, joules = (
        [value for spends in demands if (value := getattr(spends, name)) is not None]
        for name in ("device_seconds", "joules")
    )
    too_few = (n for n, own in tried.items() if len(own[-1].demands) < config.least_completed)
    return ForecastTotals(
        rounds=rounds,
        macs=macs,
        downlink_bytes=factor * sum(spends.downlink_bytes for spends in demands),
        uplink_bytes=factor * sum(spends.uplink_bytes for spends in demands),
        secure_macs=factor * secure.macs,
        secure_downlink_bytes=factor * secure.downlink_bytes,
        secure_uplink_bytes=factor * secure.uplink_bytes,
        asked=asked / drawn,
        left_out=(asked - len(demands)) / drawn,
        stops_in=next(too_few, None),
        evaluation_macs=expected_macs(experiment, macs, MOST_CLIENTS),
        memory_bytes=max((spends.memory_bytes for spends in demands), default=0),
        device_seconds=factor * sum(seconds) if config.devices.kind != "none" else None,
        energy_joules=factor * sum(joules) if joules and len(joules) == len(demands) else None,
        device_clock_seconds=factor * sum(a.clock_seconds for a in attempts) if _clocked(config) else None,
    )


def _clocked(config: ExperimentConfig) -> bool:
    """Return whether the simulated clock of a round follows from its plans alone."""
    alone = config.server.mode != "buffered" and config.devices.states is None
    return alone and config.devices.kind != "none" and not shares_links(config)


def _attempts(variant: _Variant, number: int) -> Iterator[_Attempt]:
    """Yield the attempts at a round, up to the first in which enough clients have a plan."""
    config = variant.experiment.config
    selector = Selector(_blind(config))
    for attempt in range(config.server.max_retries + 1):
        chosen = selector.draw(number, attempt).chosen
        given = (variant.plan(client, number) for client in chosen)
        demands = tuple(spends for plan, spends in given if plan is not None)
        yield _Attempt(len(chosen), demands)
        if len(demands) >= config.least_completed:
            return


def _blind(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with a selection that looks at nothing that happens."""
    if not config.selection.learns:
        return config
    return config.model_copy(update={"selection": config.selection.model_copy(update={"kind": "uniform"})})


def _notes(config: ExperimentConfig) -> Iterator[str]:
    yield from remarks(config)
    if config.selection.learns:
        yield f"selection.kind = '{config.selection.kind}' learns as it goes: these are uniform cohorts."
    if config.server.mode == "buffered":
        yield "A buffered run's clock depends on who answers when: it is not forecast."
    if shares_links(config):
        yield "Shared or changing links make rounds longer than device seconds: the clock is not forecast."
    if config.partition.clients > MOST_CLIENTS:
        yield f"Tiers are described by the first {MOST_CLIENTS} clients."
    if config.server.rounds > MOST_ROUNDS:
        yield f"Totals are extrapolated from the cohorts of the first {MOST_ROUNDS} rounds."
    if config.privacy.secure != "none":
        yield "Keys and shares of secure sums are counted as if all of a cohort stay to the end of a round."
    if config.selection.deadline_seconds is not None or config.selection.over_selection > 1:
        yield "Clients that a deadline or over-selection drops are counted as if they were used."
