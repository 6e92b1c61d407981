"""The row of a round: what its clients did and cost, how good the model is, and what all that comes to."""

from collections.abc import Sequence

from fedfmd.costs.fairness import spread
from fedfmd.experiment import Experiment
from fedfmd.machine.gauge import Energy
from fedfmd.planning.bill import count_violations
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow, RoundRow
from fedfmd.records.schema import Json
from fedfmd.rounds.examination import Examined
from fedfmd.rounds.summary import Scored, efficiency, joules_from, mean_train_loss
from fedfmd.training.evaluation import ModelEvaluation
from fedfmd.wire.testing import Evaluation

NOT_EXAMINED = Examined()
STATUSES = ("completed", "partial", "dropped", "failed")


def round_row(
    experiment: Experiment,
    round: int,
    rows: Sequence[ClientRow],
    cost: Cost,
    cumulative: Cost,
    measured: ModelEvaluation,
    examined: Examined = NOT_EXAMINED,
) -> RoundRow:
    """Return the row of a round, by the ``rows`` of its clients, its ``cost``, and that of all until then.

    ``measured`` is the global model on the server's images, ``examined`` are models on the clients' own.
    """
    score = _score(experiment, measured.test, examined)
    temperatures = experiment.temperatures(round)
    counted: Json = {status: sum(row.status == status for row in rows) for status in STATUSES}
    return RoundRow(
        round=round,
        cohort=len(rows),
        **counted,
        violations=count_violations(rows),
        **joules_from(rows),
        train_loss=mean_train_loss(rows),
        **measured.columns(),
        top1_reason=experiment.untested,
        **cost.to_json(),
        **experiment.algorithms.figures(),
        learning_rate=experiment.config.client.rate(max(round, 1)),
        temperature_kernel=temperatures.kernel,
        temperature_channel=temperatures.channel,
        temperature_tau=temperatures.tau,
        cumulative=cumulative.to_json() | {"bytes": cumulative.bytes},
        **_client_columns(experiment, examined),
        scored_on=score.on if score else None,
        **efficiency(score, cumulative),
        **{f"{name}_round": found for name, found in efficiency(score, cost).items()},
    )


def measured_by(energy: Energy) -> Json:
    """Return the columns of a round that say what its ``host_joules`` are from."""
    return {
        "host_joules_source": energy.source,
        "host_joules_reason": energy.reason,
        "idle_watts": energy.idle_watts,
    }


def _score(experiment: Experiment, test: Evaluation | None, examined: Examined) -> Scored | None:
    """Return the accuracy that scores stand on: the clients' where there is no global model to test."""
    if not experiment.untested:
        return Scored(test.top1, test.examples, "test set") if test else None
    own = [row for row in examined.rows if row.model == "global"]
    mean = spread([row.top1 for row in own]).mean
    if mean is None or not experiment.config.partition.holdout:
        return None
    return Scored(mean, sum(row.examples for row in own), "clients")


def _client_columns(experiment: Experiment, examined: Examined) -> Json:
    """Return what clients have measured; without a holdout that is accuracy in training."""
    if experiment.config.partition.holdout:
        return examined.columns()
    return {"client_top1": examined.pooled_top1()}
