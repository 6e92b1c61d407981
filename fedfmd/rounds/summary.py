"""What a round and a run come to: scores of accuracy against cost, and the summary of a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedfmd.costs.scores import NO_VALIDATION, best_row, inverse_efficiency, rate_correct
from fedfmd.experiment import Experiment
from fedfmd.records.cost import Cost
from fedfmd.records.quality import ClientQuality
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import LONGEST_TEXT, Json, one_line
from fedfmd.rounds.divergence import DivergenceWatch

NOBODY = "no client was asked"


def mean_train_loss(rows: Sequence[ClientRow]) -> float | None:
    """Mean of the used clients' training losses, weighted by their examples."""
    used = [(r.examples or 0, r.train_loss) for r in rows if r.used and r.train_loss is not None]
    examples = sum(n for n, _ in used)
    return sum(n * loss for n, loss in used) / examples if examples else None


def joules_from(rows: Sequence[ClientRow]) -> Json:
    """Return the columns of a round's row about what its clients' joules are from, or why there are none."""
    sources = sorted({r.joules_source for r in rows if r.joules_source})
    reasons = sorted({r.joules_reason for r in rows if r.joules_reason}) or [NOBODY]
    return {
        "joules_source": one_line("; ".join(sources), LONGEST_TEXT) if sources else None,
        "joules_reason": None if sources else one_line("; ".join(reasons), LONGEST_TEXT),
    }


@dataclass(frozen=True)
class Scored:
    """The accuracy that scores stand on."""

    top1: float
    examples: int
    on: Literal["test set", "clients"]
    """Where it was measured; clients measure on their own images, and each counts once."""


def efficiency(score: Scored | None, cost: Cost) -> Json:
    """Return IES and RCS of an accuracy against every axis of a cost (``fedfmd.costs.scores``)."""
    top1, samples = (score.top1, score.examples) if score else (None, 1)
    axes = cost.by_axis()
    return {
        "ies": {axis: inverse_efficiency(value, top1) for axis, value in axes.items()},
        "rcs": {axis: rate_correct(top1, samples, value) for axis, value in axes.items()},
    }


def summarise(experiment: Experiment, rounds: Sequence[Json], seconds: float) -> Json:
    """Condense a finished run."""
    last = next((row for row in reversed(rounds) if row["scored_on"] is not None), rounds[-1])
    best = best_row(rounds)
    measured = [row["client_top1"] for row in rounds if row["client_top1"] is not None]
    cost = experiment.network.cost
    return {
        "name": experiment.config.name,
        "status": "finished",
        "rounds": last["round"],
        "final_top1": last["top1"],
        "final_top5": last["top5"],
        "best_top1": best["top1"] if best else None,
        "best_round": best["round"] if best else None,
        "best_reason": None if best else experiment.untested or NO_VALIDATION,
        "top1_reason": experiment.untested,
        "client_top1": measured[-1] if measured else None,
        "scored_on": last["scored_on"],
        "clients": last_on_clients(rounds),
        "diverged_round": DivergenceWatch(rounds).round,
        "privacy": spent_privacy(rounds),
        "ended_early": ended_early(experiment, rounds),
        "cumulative": last["cumulative"],
        "ies": last["ies"],
        "rcs": last["rcs"],
        "seconds": seconds,
        "parameters": cost.parameters,
        "forward_macs": cost.forward_macs,
        **experiment.dataset.test_set,
    }


def spent_privacy(rounds: Sequence[Json]) -> Json | None:
    """Return what the models of a run tell of one client at most; null where that is not asked for."""
    last = rounds[-1]
    if last["clip"] is None:
        return None
    return {"epsilon": last["epsilon"], "delta": last["delta"], "relation": last["privacy_relation"]}


def ended_early(experiment: Experiment, rounds: Sequence[Json]) -> str | None:
    """Return why a run has fewer rounds than its config asks for; null where it has all."""
    done, config = rounds[-1]["round"], experiment.config
    if done == config.server.rounds:
        return None
    return (
        f"privacy.epsilon_budget = {config.privacy.epsilon_budget:g}: after {done} of {config.server.rounds} "
        f"rounds epsilon is {rounds[-1]['epsilon'] or 0:.3g}, and one more would take it beyond"
    )


def last_on_clients(rounds: Sequence[Json]) -> Json:
    """Return what clients measured last, by the names of the rounds' columns."""
    names = ClientQuality.columns()
    found = ({name: row[name] for name in names if row.get(name) is not None} for row in reversed(rounds))
    return next(filter(None, found), {})
