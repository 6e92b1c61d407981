"""Ask clients to measure models on their own images after a round, and write down what they answer.

Who measures is drawn by the seed. Clients of one share of the network are grouped in the order of their
numbers as long as they fit a batch; a group is measured together wherever it goes, so that no packing and no
number of workers can change a figure.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, get_args

from torch import Tensor

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.costs.fairness import spread
from fedfmd.devices import device_of
from fedfmd.experiment import Experiment
from fedfmd.planning.evaluation import evaluation_costs, evaluation_work
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow, EvaluationRow, gains
from fedfmd.records.schema import told_loss
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.packing import Executor, pack_clients
from fedfmd.seeds import numpy_rng
from fedfmd.selection.tifl import adapt, latency_tiers
from fedfmd.wire.examination import ClientScore, ExaminationOrder, ExaminationResult, PastSteps, Subject
from fedfmd.wire.packages import MAX_RESENDS, BadPackageError
from fedfmd.wire.plan import ClientPlan

MODELS: tuple[ClientModel, ...] = get_args(ClientModel)


@dataclass(frozen=True)
class Examined:
    """What clients have measured after a round, and what that cost."""

    rows: tuple[EvaluationRow, ...] = ()
    cost: Cost = field(default_factory=Cost)

    def columns(self) -> dict[str, Any]:
        """Return what the round's row says of it."""
        columns: dict[str, Any] = {}
        for model in MODELS:
            found = spread([row.top1 for row in self.rows if row.model == model])
            columns |= {f"client_top1_{model}_{name}": value for name, value in vars(found).items()}
        gained = gains(self.rows).values()
        return columns | {"client_gain_mean": fmean(gained) if gained else None}

    def pooled_top1(self) -> float | None:
        """Return the share of right answers over all images; null without any."""
        images = sum(row.examples for row in self.rows)
        return sum(row.top1 * row.examples for row in self.rows) / images if images else None


class Examination:
    """Lets clients measure; it does not touch the model."""

    def __init__(self, experiment: Experiment, executor: Executor, knowledge: Knowledge, planner: Planner):
        self.experiment = experiment
        self.config = experiment.config
        self.executor = executor
        self.knowledge = knowledge
        self.planner = planner

    def examine(self, round: int, vector: Tensor, worked: Sequence[ClientRow] | None = None) -> Examined:
        """Let the clients of a round measure, from the global ``vector``.

        ``worked`` are the rows of all that clients have done so far; null where nobody trains alone for this.
        """
        own: dict[int, list[ClientRow]] = {client: [] for client in self._cohort(round)}
        for row in worked or ():
            if row.client in own:
                own[row.client].append(row)
        alone = worked is not None
        subjects = [self._subject(client, round, rows, alone=alone) for client, rows in own.items()]
        return self._measured(round, vector, subjects)

    def adapt_selection(self, round: int, vector: Tensor) -> Cost:
        """Measure a selection's tiers when it is time, each by a cohort of its clients; gives the cost."""
        selection, history = self.config.selection, self.knowledge.history
        tiers = latency_tiers(selection, history) if selection.tiered else []
        if not tiers or not selection.adapt_every or round % selection.adapt_every:
            return Cost()
        judged: list[Examined] = []
        for number, tier in enumerate(tiers):
            rng = numpy_rng(self.config.seed, "tier-evaluation", round, number)
            able = [client for client in tier if self.experiment.tested_size(client)]
            sample = rng.permutation(able)[: self.config.server.cohort].tolist()
            states = self.knowledge.state_rounds
            subjects = [
                Subject(client=c, models=("global",), state_round=states.get(c, 0)) for c in sorted(sample)
            ]
            judged.append(self._measured(round, vector, subjects))
        adapt(selection, history.tiers, [found.pooled_top1() or 0.0 for found in judged])
        return Cost.total(found.cost for found in judged)

    def _measured(self, round: int, vector: Tensor, subjects: Sequence[Subject]) -> Examined:
        started = time.perf_counter()
        orders = self._orders(round, subjects)
        scores: dict[int, dict[ClientModel, ClientScore]] = {subject.client: {} for subject in subjects}
        while orders:
            orders = self._collect(orders, vector, scores)
        found = [self._billed(subject, round, scores[subject.client]) for subject in subjects]
        cost = Cost.total(cost for _, cost in found)
        return Examined(
            rows=tuple(row for rows, _ in found for row in rows),
            cost=replace(cost, evaluation_seconds=time.perf_counter() - started),
        )

    def trains_alone(self, *, last: bool) -> bool:
        """Return whether clients train alone for an evaluation: the ``last`` one, or another."""
        return "local" in self._models and (last or self.config.evaluation.local_at == "every")

    @property
    def _models(self) -> list[ClientModel]:
        """What is measured at all: without a holdout there is nothing to compare on."""
        asked = self.config.evaluation.models if self.config.partition.holdout else ["global"]
        return [model for model in MODELS if model in asked]

    def _cohort(self, round: int) -> list[int]:
        rng = numpy_rng(self.config.seed, "evaluation-cohort", round)
        population, count = self.config.partition.clients, self.config.measuring_clients
        drawn: list[int] = rng.choice(population, count, replace=False).tolist()
        return sorted(client for client in drawn if self.experiment.tested_size(client))

    def _subject(self, client: int, round: int, worked: Sequence[ClientRow], *, alone: bool) -> Subject:
        """Say what a client measures; ``worked`` are its rows so far, where it trains ``alone`` for this."""
        found = self.planner.plan(client, round, self.knowledge.usage)
        plan = None if isinstance(found, OverBudget) else found
        sessions = tuple(self._sessions(worked))
        asked = client in self.knowledge.asked
        possible: dict[ClientModel, bool] = {
            "global": True,
            "affordable": plan is not None,
            "finetuned": plan is not None and asked,
            "local": alone and asked and (plan is not None or bool(sessions)),
        }
        return Subject(
            client=client,
            models=tuple(model for model in self._models if possible[model]),
            plan=plan,
            state_round=self.knowledge.state_rounds.get(client, 0),
            sessions=sessions,
        )

    def _sessions(self, rows: Iterable[ClientRow]) -> Iterator[PastSteps]:
        """Yield the steps that a client's rows tell of, used or not, in their order."""
        turns: Counter[tuple[int, int]] = Counter()
        for row in rows:
            if row.steps:
                begun = row.round - (row.staleness or 0)
                yield PastSteps(
                    round=row.round,
                    turn=turns[row.round, row.attempt],
                    learning_rate=self.config.client.rate(begun),
                    temperatures=self.experiment.temperatures(begun),
                    plan=ClientPlan.from_row(row.plan, row.steps),
                )
            turns[row.round, row.attempt] += 1

    def _orders(self, round: int, subjects: Sequence[Subject]) -> list[ExaminationOrder]:
        groups = list(self._groups(subjects))
        loads = {i: 1.0 + sum(evaluation_work(self.experiment, s) for s in g) for i, g in enumerate(groups)}
        return [
            ExaminationOrder(
                round=round,
                learning_rate=self.config.client.rate(round),
                temperatures=self.experiment.temperatures(round),
                groups=tuple(groups[i] for i in sorted(packed)),
            )
            for packed in pack_clients(loads, self.executor.workers)
        ]

    def _groups(self, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, ...]]:
        """Group clients of one share, in their order, as long as their images fit a batch together."""
        fill = self.config.evaluation.batch_size if self.experiment.measures_together else 1
        open_groups: dict[str, list[Subject]] = {}
        images: Counter[str] = Counter()
        for subject in subjects:
            key = subject.plan.share.key if subject.plan else ""
            own = self.experiment.tested_size(subject.client)
            if key in open_groups and images[key] + own > fill:
                yield tuple(open_groups.pop(key))
                images[key] = 0
            open_groups.setdefault(key, []).append(subject)
            images[key] += own
        yield from map(tuple, open_groups.values())

    def _collect(
        self,
        orders: Sequence[ExaminationOrder],
        vector: Tensor,
        into: Mapping[int, dict[ClientModel, ClientScore]],
    ) -> list[ExaminationOrder]:
        """Take the answers in; gives what to send again: the groups of whom no usable one came."""
        again: list[ExaminationOrder] = []
        for order, result in self.executor.examine(orders, vector):
            if result is not None and self._fits(order, result):
                for score in result.scores:
                    into[score.client][score.model] = score
            elif order.resend < MAX_RESENDS:
                again += order.again()
        return again

    def _fits(self, order: ExaminationOrder, result: ExaminationResult) -> bool:
        try:
            result.check(order, {client: self.experiment.tested_size(client) for client in order.clients})
        except BadPackageError:
            return False
        return True

    def _billed(
        self, subject: Subject, round: int, scores: Mapping[ClientModel, ClientScore]
    ) -> tuple[list[EvaluationRow], Cost]:
        """Return the rows of a client's models, and what they cost, with those that it did not answer for."""
        costs = evaluation_costs(self.experiment, subject, scores.keys())
        rows = [
            self._row(subject.client, round, scores[model], cost)
            for model, cost in costs.items()
            if model in scores
        ]
        return rows, Cost.total(costs.values())

    def _row(self, client: int, round: int, score: ClientScore, cost: Cost) -> EvaluationRow:
        device = device_of(self.config, client)
        return EvaluationRow(
            round=round,
            client=client,
            tier=device.name if device else None,
            examples=score.examples,
            label_count=self.experiment.label_count(client),
            model=score.model,
            top1=score.correct / score.examples,
            loss=None if score.loss_sum is None else told_loss(score.loss_sum / score.examples),
            macs=cost.evaluation_macs,
            downlink_bytes=cost.evaluation_downlink_bytes,
            uplink_bytes=cost.evaluation_uplink_bytes,
            host_seconds=score.host_seconds,
            device_seconds=cost.evaluation_device_seconds,
        )
