"""The round loop over an executor. It knows clients, orders and sums; it knows neither Flower nor Ray.

One round: draw the cohort by the seed, pack it into one work order a worker, fold the replies into an exact
sum as they come, let the server optimiser take a step, evaluate, write the ledgers, write a checkpoint.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor

from fedfmd.accounting import ClientRow, Cost, Json
from fedfmd.aggregation import ExactSum, Scale, ServerOptimizer, server_optimizer
from fedfmd.bill import client_weight, count_violations, demand, planned_row, unsent_row
from fedfmd.buffered import VERSION_PREFIX, Buffered
from fedfmd.config import ExperimentConfig
from fedfmd.devices import device_of
from fedfmd.diagnostics import round_diagnostics
from fedfmd.errors import RunError
from fedfmd.evaluation import Evaluation, evaluate
from fedfmd.experiment import Experiment
from fedfmd.files import write_atomic
from fedfmd.losses import effective_steps
from fedfmd.metrics import inverse_efficiency, rate_correct
from fedfmd.nn import set_temperature
from fedfmd.packages import BadPackageError, Reply, WorkOrder, WorkResult
from fedfmd.plan import ClientPlan
from fedfmd.policy import OverBudget, Planner, usage_after
from fedfmd.roster import Roster, make_roster
from fedfmd.rundir import Checkpoint, RunDirectory
from fedfmd.seeds import numpy_rng
from fedfmd.selection import SelectionHistory, draw_cohort
from fedfmd.submodel import Share
from fedfmd.vector import Layout, bind

MAX_RESENDS = 2
"""How often an order without a reply goes out again before its client counts as failed."""


class Executor(Protocol):
    """Carries orders to workers and replies back."""

    workers: int

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders on the global ``vector`` and give one reply an order, in any order."""
        ...

    def evaluate(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Evaluation]:
        """Evaluate ``vector`` on the clients' own pictures, a group of clients a worker."""
        ...


@dataclass
class Attempt:
    """One try at a round: the sum of what can be used, and a row for every client asked."""

    total: ExactSum
    rows: list[ClientRow]
    device_clock_seconds: float | None = None
    """How long it took on the simulated clock."""

    @property
    def completed(self) -> int:
        """How many clients entered the sum."""
        return sum(row.used for row in self.rows)


def ignore_round(row: Json) -> None:
    """Listen to nobody."""
    del row


class FederatedRun:
    """One run, from its first round or from a checkpoint to its summary."""

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        executor: Executor,
        on_round: Callable[[Json], None] = ignore_round,
    ):
        self.experiment = experiment
        self.on_round = on_round
        self.config: ExperimentConfig = experiment.config
        self.directory = directory
        self.executor = executor
        self.model = experiment.build_model().to(self.config.backend.device)
        self.layout = Layout.of(self.model)
        self.buffer = bind(self.model)
        control = self.layout.parameters if self.config.client.scaffold else 0
        self.vector = torch.cat([self.buffer.cpu(), torch.zeros(control)])
        """What the server sends: the global state and, for SCAFFOLD, the server's control variate."""
        self.state_rounds: dict[int, int] = {}
        """Client to the round of its kept state."""
        self.planner = Planner(experiment)
        self.usage: dict[int, list[float]] = {}
        """Client to how much its data used each kernel."""
        self.history = SelectionHistory()
        self.buffered = Buffered()
        self.optimizer = self._optimizer({})
        self.cumulative = Cost()
        self.last_round = 0

    def run(self, checkpoint: Checkpoint | None = None) -> Json:
        """Run to the end and write every file of the run directory; returns the summary.

        Raises ``RunError`` when a round got too few usable replies ``max_retries`` + 1 times.
        """
        started = time.perf_counter()
        if checkpoint is None:
            self._commit(self._initial_row(), [])
        else:
            self._restore(checkpoint)
        while self.last_round < self.config.server.rounds:
            self._round(self.last_round + 1)
        return self._finish(time.perf_counter() - started)

    def _round(self, round: int) -> None:
        started = time.perf_counter()
        rows: list[ClientRow] = []
        for attempt in range(self.config.server.max_retries + 1):
            tried = self._attempt(round, attempt)
            if tried.completed >= self.config.server.min_completed:
                break
            rows += [r.rejected("dropped", "round repeated") if r.used else r for r in tried.rows]
        else:
            self._give_up(round, rows)
        rows += tried.rows
        self._apply(tried)
        self._learn_usage(tried.rows)
        if self.config.selection.kind != "uniform":
            self.history.update(tried.rows)
        if self.experiment.keeps_state:
            self.state_rounds |= {row.client: round for row in tried.rows if row.used}
        evaluation = self._evaluate(round) if self._evaluated(round) else None
        cost = replace(
            Cost.total(map(Cost.of, rows)),
            host_seconds=time.perf_counter() - started,
            device_clock_seconds=tried.device_clock_seconds,
        )
        self.cumulative += cost
        self.last_round = round
        row = self._round_row(round, rows, cost, evaluation)
        if self.config.diagnostics.enabled:
            row["diagnostics"] = self._diagnose(tried, round)
        self._commit(row, rows)

    def _attempt(self, round: int, attempt: int) -> Attempt:
        if self.config.server.mode == "buffered":
            return self._attempt_buffered(round, attempt)
        cohort = draw_cohort(self.config, round, attempt, self.history)
        roster = make_roster(self.experiment, self.planner, round, attempt, cohort, self.usage)
        orders = self._orders(round, attempt, roster)
        scale = self._scale(roster.plans)
        collected = Attempt(ExactSum.zero(len(self.vector), scale), roster.unused, roster.clock_seconds)
        while orders:
            orders = self._collect(orders, collected, self.vector)
        collected.rows.sort(key=lambda row: row.client)
        return collected

    def _attempt_buffered(self, round: int, attempt: int) -> Attempt:
        """Send off clients until there are as many at work as allowed; take those that are done first."""
        before = self.buffered.clock.now
        rows = self._depart(round, attempt)
        groups = self.buffered.arrive(self.config.server.buffer)
        weights = [self._weights(plans, round - 1 - version) for version, plans in groups.items()]
        scale = Scale.for_round(self.vector, sum(sum(w.values()) for w in weights))
        collected = Attempt(ExactSum.zero(len(self.vector), scale), rows)
        for version, plans in groups.items():
            orders = self._orders_for(version, round, attempt, plans, scale)
            while orders:
                orders = self._collect(orders, collected, self.buffered.versions[version])
        self.buffered.forget()
        collected.rows.sort(key=lambda row: row.client)
        collected.device_clock_seconds = self.buffered.clock.now - before
        return collected

    def _orders_for(
        self, version: int, round: int, attempt: int, plans: dict[int, ClientPlan], scale: Scale
    ) -> list[WorkOrder]:
        """Give the orders of clients that started from an older version."""
        loads = {client: float(self.experiment.partition.size(client)) for client in plans}
        orders = self._orders(round, attempt, Roster(plans, loads, []))
        temperatures, staleness = self.experiment.temperatures(version + 1), round - 1 - version
        return [replace(o, scale=scale, staleness=staleness, temperatures=temperatures) for o in orders]

    def _depart(self, round: int, attempt: int) -> list[ClientRow]:
        """Let new clients start on the present model; gives the rows of those over budget."""
        rows: list[ClientRow] = []
        busy, config = self.buffered.at_work, self.config
        missing = config.server.cohort - len(busy)
        drawn = draw_cohort(config, round, attempt, self.history, busy, missing) if missing else []
        for client in drawn:
            plan = self.planner.plan(client, round, self.usage)
            if isinstance(plan, OverBudget):
                rows.append(unsent_row(self.experiment, round, attempt, client, plan.plan, plan.reason))
                continue
            device, examples = device_of(config, client), self.experiment.partition.size(client)
            seconds = demand(self.experiment, plan, device, examples).device_seconds or 0.0
            self.buffered.depart(client, plan, seconds, round - 1, self.vector)
        return rows

    def _orders(self, round: int, attempt: int, roster: Roster) -> list[WorkOrder]:
        """Give each worker its share of the cohort."""
        template = WorkOrder(
            round=round,
            attempt=attempt,
            clients=(),
            learning_rate=self._learning_rate(round),
            temperatures=self.experiment.temperatures(round),
            scale=self._scale(roster.plans),
        )
        groups = pack_clients(roster.loads, self.executor.workers)
        return [
            replace(
                template, clients=g, state_rounds=self._state_rounds(g), plans=self._plans(g, roster.plans)
            )
            for g in groups
        ]

    def _plans(self, clients: Sequence[int], plans: Mapping[int, ClientPlan]) -> tuple[ClientPlan, ...]:
        """Give the plans as an order carries them: not at all if all are the full one."""
        chosen = tuple(plans[client] for client in clients)
        return () if set(chosen) == {self.planner.full} else chosen

    def _scale(self, clients: Iterable[int]) -> Scale:
        return Scale.for_round(self.vector, sum(self._weights(clients).values()))

    def _weights(self, clients: Iterable[int], staleness: int = 0) -> dict[int, int]:
        sizes = {client: self.experiment.partition.size(client) for client in clients}
        return {client: client_weight(self.config, size, staleness) for client, size in sizes.items()}

    def _state_rounds(self, clients: Sequence[int]) -> tuple[int, ...]:
        kept = self.experiment.keeps_state
        return tuple(self.state_rounds.get(client, 0) for client in clients) if kept else ()

    def _collect(self, orders: Sequence[WorkOrder], into: Attempt, vector: Tensor) -> list[WorkOrder]:
        """Fold the replies in; give the orders to send again.

        A lost order goes out again client by client, so that a client that kills its worker is found and
        fails alone, and a worker that died for another reason changes nothing.
        """
        again: list[WorkOrder] = []
        for reply in self.executor.train(orders, vector):
            result, reason = self._usable(reply)
            if result is not None:
                into.total.merge(result.total)
                into.rows += result.rows
            elif reply.order.resend < MAX_RESENDS:
                again += [reply.order.only(client) for client in reply.order.clients]
            else:
                lost = (planned_row(self.experiment, reply.order, c) for c in reply.order.clients)
                into.rows += [row.rejected("failed", reason) for row in lost]
        return again

    def _usable(self, reply: Reply) -> tuple[WorkResult | None, str]:
        if reply.result is None:
            return None, reply.reason
        try:
            weights = self._weights(reply.order.clients, reply.order.staleness)
            reply.result.check(reply.order, len(self.vector), weights)
        except BadPackageError as error:
            return None, str(error)
        return reply.result, ""

    def _apply(self, tried: Attempt) -> None:
        """Let the server optimiser move the parameters; buffers, such as BatchNorm's, are averaged.

        What no client held stays as it is. SCAFFOLD's control moves by |S|/N of the mean change (Karimireddy
        et al. 2020, algorithm 1, line 17).
        """
        holders = tried.total.holders(lambda part: self.experiment.index(Share.from_key(part)))
        mean = tried.total.mean(holders)
        cut, end = self.layout.parameters, self.layout.elements
        mean[:cut] *= self._effective_steps(tried.rows)
        parameters = self.optimizer.step(self.vector[:cut], mean[:cut])
        buffers = (self.vector[cut:end].double() + mean[cut:end]).float()
        share = tried.completed / self.config.partition.clients
        control = (self.vector[end:].double() + share * mean[end:]).float()
        moved = torch.cat([parameters, buffers, control])
        self.vector = moved if len(holders) == 1 else torch.where(holders > 0, moved, self.vector)
        low, high = torch.aminmax(self.vector)
        if not bool((high - low).isfinite()):
            raise RunError("the global model became NaN or infinite; lower server.learning_rate")

    def _effective_steps(self, rows: Sequence[ClientRow]) -> float:
        """Give FedNova's tau_eff, the mean of the clients' effective steps; 1 without normalisation."""
        if self.config.server.normalisation == "none":
            return 1.0
        used = [row for row in rows if row.used]
        weights = self._weights(row.client for row in used)
        momentum = self.config.client.sgd_momentum
        steps = sum(weights[row.client] * effective_steps(row.steps, momentum) for row in used)
        return steps / max(1, sum(weights.values()))

    def _diagnose(self, tried: Attempt, round: int) -> Json:
        temperatures, kernels = self.experiment.temperatures(round), self.config.model.kernels
        return round_diagnostics(tried.rows, tried.total, self.layout, kernels, temperatures)

    def _learn_usage(self, rows: Sequence[ClientRow]) -> None:
        """Remember how much the clients' data used the kernels that they held."""
        for row in rows:
            if row.used and "kernel_usage" in row.diagnostics:
                held, measured = row.plan.get("kernel_set", ()), row.diagnostics["kernel_usage"]
                before = self.usage.get(row.client, ())
                self.usage[row.client] = usage_after(before, held, measured, self.config.model.kernels)

    def _evaluated(self, round: int) -> bool:
        return round % self.config.evaluation.every == 0 or round == self.config.server.rounds

    def _evaluate(self, round: int) -> Evaluation:
        self.buffer.copy_(self.vector[: self.layout.elements])
        set_temperature(self.model, self.experiment.temperatures(round))
        data, batch_size = self.experiment.dataset, self.config.evaluation.batch_size
        return evaluate(self.model, data.test_images, data.test_labels, self.experiment.augment, batch_size)

    def _client_top1(self, round: int) -> float | None:
        count = self.config.evaluation.clients
        if not count or not self._evaluated(round):
            return None
        rng = numpy_rng(self.config.seed, "evaluation-cohort", round)
        cohort = rng.choice(self.config.partition.clients, count, replace=False).tolist()
        roster = Roster(dict.fromkeys(cohort, self.planner.full), dict.fromkeys(cohort, 1.0), [])
        orders = self._orders(round, 0, roster)
        pooled = sum(self.executor.evaluate(orders, self.vector), Evaluation(0, 0, 0, 0.0))
        return pooled.top1 if pooled.examples else None

    def _learning_rate(self, round: int) -> float:
        return self.config.client.learning_rate * self.config.client.learning_rate_decay ** (round - 1)

    def _initial_row(self) -> Json:
        return self._round_row(0, [], Cost(), self._evaluate(0))

    def _round_row(
        self, round: int, rows: Sequence[ClientRow], cost: Cost, evaluation: Evaluation | None
    ) -> Json:
        temperatures = self.experiment.temperatures(round)
        counted = {s: sum(r.status == s for r in rows) for s in ("completed", "partial", "dropped", "failed")}
        return {
            "round": round,
            "cohort": len(rows),
            **counted,
            "violations": count_violations(rows),
            "train_loss": mean_train_loss(rows),
            "test_loss": evaluation.loss if evaluation else None,
            "top1": evaluation.top1 if evaluation else None,
            "top5": evaluation.top5 if evaluation else None,
            "client_top1": self._client_top1(round) if round else None,
            **cost.to_json(),
            "learning_rate": self._learning_rate(max(round, 1)),
            "temperature_kernel": temperatures.kernel,
            "temperature_channel": temperatures.channel,
            "cumulative": self.cumulative.to_json() | {"bytes": self.cumulative.bytes},
            **efficiency(evaluation, self.cumulative),
            **{f"{name}_round": score for name, score in efficiency(evaluation, cost).items()},
        }

    def _commit(self, row: Json, rows: Sequence[ClientRow]) -> None:
        self.directory.append_round(row, [r.to_json() for r in rows])
        round = row["round"]
        if round % self.config.server.checkpoint_every == 0 or round == self.config.server.rounds:
            optimizer = {name: tensor.clone() for name, tensor in self.optimizer.state.items()}
            optimizer |= self.buffered.tensors()
            self.directory.save_checkpoint(
                round,
                self.vector,
                optimizer,
                self.cumulative.to_json(),
                self.state_rounds,
                self._memory(),
            )
            if self.experiment.keeps_state:
                self.directory.flush()
                self.experiment.store.prune(self.state_rounds)
        self.on_round(row)

    def _memory(self) -> Json:
        """Give what the server knows of its clients."""
        return {
            "usage": list(self.usage.items()),
            "history": self.history.to_json(),
            "buffered": self.buffered.to_json(),
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state.shape != self.vector.shape:
            raise RunError(
                f"the checkpoint holds {len(checkpoint.state)} elements, the model {len(self.vector)}"
            )
        self.vector = checkpoint.state
        self.state_rounds = dict(checkpoint.state_rounds)
        self.usage = dict(checkpoint.memory["usage"])
        self.history = SelectionHistory.from_json(checkpoint.memory["history"])
        self.buffered = Buffered.restored(checkpoint.memory["buffered"], checkpoint.optimizer)
        state = {n: t for n, t in checkpoint.optimizer.items() if not n.startswith(VERSION_PREFIX)}
        self.optimizer = self._optimizer(state)
        self.cumulative = Cost(**checkpoint.cumulative)
        self.last_round = checkpoint.round

    def _optimizer(self, state: Mapping[str, Tensor]) -> ServerOptimizer:
        s = self.config.server
        return server_optimizer(
            s.strategy,
            learning_rate=s.learning_rate,
            momentum=s.momentum,
            beta2=s.beta2,
            tau=s.tau,
            state=state,
        )

    def _give_up(self, round: int, rows: Sequence[ClientRow]) -> None:
        reasons = sorted({row.reason for row in rows if row.reason and row.reason != "round repeated"})
        raise RunError(
            f"round {round}: fewer than server.min_completed = {self.config.server.min_completed} clients "
            f"completed in {self.config.server.max_retries + 1} attempts; "
            f"reasons: {'; '.join(reasons[:3]) or 'nobody was available'}"
        )

    def _finish(self, seconds: float) -> Json:
        state = self.vector[: self.layout.elements]
        tensors = {name: view.contiguous() for name, view in self.layout.views(state).items()}
        self.directory.flush()
        write_atomic(self.directory.path / "model.safetensors", save(tensors))
        summary = summarise(self.experiment, self.directory.rounds(), seconds)
        self.directory.write_json("summary.json", summary)
        return summary


def pack_clients(costs: Mapping[int, float], workers: int) -> list[tuple[int, ...]]:
    """Spread clients over at most ``workers`` groups: longest first, each onto the least loaded group."""
    groups: list[list[int]] = [[] for _ in range(min(workers, len(costs)))]
    loads = [(0.0, index) for index in range(len(groups))]
    heapify(loads)
    for client in sorted(costs, key=lambda c: (-costs[c], c)):
        load, index = loads[0]
        groups[index].append(client)
        heapreplace(loads, (load + costs[client], index))
    return [tuple(group) for group in groups]


def mean_train_loss(rows: Sequence[ClientRow]) -> float | None:
    """Mean of the used clients' training losses, weighted by their examples."""
    used = [(r.examples, r.train_loss) for r in rows if r.used and r.train_loss is not None]
    examples = sum(n for n, _ in used)
    return sum(n * loss for n, loss in used) / examples if examples else None


def efficiency(evaluation: Evaluation | None, cost: Cost) -> dict[str, dict[str, float | None]]:
    """Give IES and RCS of an evaluation against every axis of a cost (``fedfmd.metrics``)."""
    top1 = evaluation.top1 if evaluation else None
    samples = evaluation.examples if evaluation else 1
    axes = cost.by_axis()
    return {
        "ies": {axis: inverse_efficiency(value, top1) for axis, value in axes.items()},
        "rcs": {axis: rate_correct(top1, samples, value) for axis, value in axes.items()},
    }


def summarise(experiment: Experiment, rounds: Sequence[Json], seconds: float) -> Json:
    """Condense a finished run."""
    evaluated = [row for row in rounds if row["top1"] is not None]
    last, best = evaluated[-1], max(evaluated, key=lambda row: row["top1"])
    cost = experiment.model_cost
    return {
        "name": experiment.config.name,
        "status": "finished",
        "rounds": last["round"],
        "final_top1": last["top1"],
        "final_top5": last["top5"],
        "best_top1": best["top1"],
        "best_round": best["round"],
        "cumulative": last["cumulative"],
        "ies": last["ies"],
        "rcs": last["rcs"],
        "seconds": seconds,
        "parameters": cost.parameters,
        "forward_macs": cost.forward_macs,
        "test_samples": len(experiment.dataset.test_labels),
        "num_classes": experiment.dataset.num_classes,
    }
