"""What a report says about a run beyond its rows: totals per client, shares, comparisons at equal cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedfmd.costs.scores import (
    NO_VALIDATION,
    Chance,
    accuracy_at_budget,
    balanced_integration,
    best_row,
    cost_to_accuracy,
    pareto_front,
    target_fault,
)
from fedfmd.records.cost import Cost, add_known
from fedfmd.records.documents import RunSummary
from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.results.costs import Axis
from fedfmd.results.runs import Run, once_per_run


@dataclass(kw_only=True)
class ClientTotal:
    """All that one client did and cost in a run; the figures include what was wasted."""

    client: int
    examples: Number = None
    participations: int = 0
    unused: int = 0
    macs: float = 0
    bytes: float = 0
    train_seconds: float = 0.0
    device_seconds: Number = None
    energy_joules: Number = None
    wasted_macs: float = 0
    wasted_bytes: float = 0
    wasted_train_seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


@once_per_run
def client_totals(run: Run) -> list[ClientTotal]:
    """Sum ``clients.jsonl`` by client, in the order of their ids, with those who never took part."""
    sizes = run.partition.sizes
    totals = {i: ClientTotal(client=i, examples=size) for i, size in enumerate(sizes)}
    for row in run.clients:
        total = totals.setdefault(row.client, ClientTotal(client=row.client, examples=row.examples))
        total.participations += 1
        total.unused += not row.used
        total.macs += row.macs
        total.bytes += row.bytes
        total.train_seconds += row.train_seconds
        total.device_seconds = add_known(total.device_seconds, row.device_seconds)
        total.energy_joules = add_known(total.energy_joules, row.energy_joules)
        if not row.used:
            total.wasted_macs += row.macs
            total.wasted_bytes += row.bytes
            total.wasted_train_seconds += row.train_seconds
            reason = f"{row.status}: {row.reason or 'no reason given'}"
            total.reasons[reason] = total.reasons.get(reason, 0) + 1
    return [totals[client] for client in sorted(totals)]


def evaluated(run: Run) -> list[RoundRow]:
    """Return the rounds whose model was measured: on the test set, or by the clients where that is none."""
    return [row for row in run.rounds if row.accuracy is not None]


def measured_on(runs: Iterable[Run]) -> Literal["test set", "clients", "both"]:
    """Return whose images accuracies are fractions of: clients', where the server has no model to test."""
    found = {row.scored_on for run in runs if (row := final_round(run))}
    return "test set" if "clients" not in found else "clients" if found == {"clients"} else "both"


def spent(summary: RunSummary, last: RoundRow | None) -> Mapping[str, Number]:
    """Return what a run whose ``last`` row is this has cost: of one that stopped, with the round given up."""
    at_stop = summary.cumulative if summary.status == "stopped" else {}
    if at_stop:
        return {**at_stop, "bytes": Cost.partly(at_stop)[0].bytes}
    return last.cumulative if last else {}


@once_per_run
def final_round(run: Run) -> RoundRow | None:
    """Return the last evaluated round."""
    return next(reversed(evaluated(run)), None)


def best_round(run: Run) -> RoundRow | None:
    """Return the first round of the highest validation top-1; null where nothing was validated."""
    return best_row(run.rounds)


def untrained(run: Run) -> Number:
    """Return the validation top-1 of the initial model; null where it was not validated."""
    return next((row.validation_top1 for row in run.rounds if row.round == 0), None)


def chance(run: Run) -> str | None:
    """Return a remark if the run's last top-1 is no better than guessing."""
    row, guess = final_round(run), run.chance
    return guess.remark(row.accuracy) if row and row.scored_on != "clients" and guess else None


def chance_level(runs: Iterable[Run]) -> Number:
    """Return what guessing scores, to be drawn beside the runs' accuracies.

    Null where that differs between them, or is not known: each client's own images have other shares.
    """
    runs = list(runs)
    return common_chance(run.chance for run in runs) if measured_on(runs) == "test set" else None


def common_chance(chances: Iterable[Chance | None]) -> Number:
    """Return what guessing scores on the test set that some runs share; null where they share none."""
    levels = {chance.level if chance else None for chance in chances}
    return levels.pop() if len(levels) == 1 else None


def share(part: str, whole: str, run: Run) -> Number:
    """Return the run's total of the round field ``part`` over its total of ``whole``; ``None`` if that is 0.

    ``whole`` may be ``bytes``, both directions together, with those of secure sums.
    """
    denominator = _sum(run, whole)
    return (_sum(run, part) or 0) / denominator if denominator else None


def _sum(run: Run, name: str) -> Number:
    values = [v for v in (getattr(row, name) for row in run.rounds) if v is not None]
    return sum(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run's line in a comparison on one cost axis."""

    final_top1: Number
    best_top1: Number
    cost: Number
    top1_at_budget: Number
    cost_to_target: Number
    ies: Number
    rcs: Number
    bis: Number
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class EqualCostComparison:
    """Runs held against each other at equal cost: the cheapest run's total, the weakest run's best accuracy.

    Budget and target follow from the set, so every run has a figure and nobody picked a flattering one. The
    target is one of validation, and absent, with its reason, where that cannot choose.
    """

    axis: Axis
    budget: Number
    target: Number
    no_target: str | None
    rows: tuple[Compared, ...]


def compare(runs: Sequence[Run], axis: Axis) -> EqualCostComparison:
    """Compare final accuracy and cumulative cost on ``axis``; BIS and the front are over exactly ``runs``."""
    spent = [[(c, row) for row in run.rounds if (c := axis.total(row)) is not None] for run in runs]
    curves = [[(cost, row.accuracy) for cost, row in points] for points in spent]
    choosing = [[(cost, row.validation_top1) for cost, row in points] for points in spent]
    last = [final_round(run) for run in runs]
    finals = [row.accuracy if row else None for row in last]
    costs = [axis.total(row) if row else None for row in last]
    bests = [best_round(run) for run in runs]
    budget = min((c for c in costs if c is not None), default=None)
    target, no_target = _target(runs, bests)
    front = pareto_front(list(zip(costs, finals, strict=True)))
    scores = balanced_integration(finals, costs)
    rows = (
        Compared(
            final_top1=finals[i],
            best_top1=best.accuracy if (best := bests[i]) else None,
            cost=costs[i],
            top1_at_budget=None if budget is None else accuracy_at_budget(curve, budget),
            cost_to_target=None if target is None else cost_to_accuracy(choosing[i], target),
            ies=_score(last[i], "ies", axis),
            rcs=_score(last[i], "rcs", axis),
            bis=scores[i],
            on_front=i in front,
        )
        for i, curve in enumerate(curves)
    )
    return EqualCostComparison(axis=axis, budget=budget, target=target, no_target=no_target, rows=tuple(rows))


def _target(runs: Sequence[Run], bests: Sequence[RoundRow | None]) -> tuple[Number, str | None]:
    """Return the validation accuracy that all runs reached, or why there is none."""
    reached = [best.validation_top1 for best in bests if best and best.validation_top1 is not None]
    if len(reached) < len(runs):
        reasons = (run.summary.best_reason for run, best in zip(runs, bests, strict=True) if best is None)
        return None, next(filter(None, reasons), NO_VALIDATION)
    target = min(reached)
    for run in runs:
        if fault := target_fault(target, run.chance, untrained(run)):
            return None, fault
    return target, None


def lookup(document: Mapping[str, Any], dotted: str) -> Any:
    """Return ``document["a"]["b"]`` for ``"a.b"``, ``None`` where the path ends early."""
    value: Any = document
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _score(row: RoundRow | None, kind: str, axis: Axis) -> Number:
    scores: Mapping[str, Number] = getattr(row, kind, {})
    return scores.get(axis.key)
