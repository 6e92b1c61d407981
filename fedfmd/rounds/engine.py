"""The round loop: it knows the model, the ledgers and the checkpoint; it knows neither Flower nor Ray.

One round: let the dispatcher have the clients' work done and summed, let the server optimiser take a step,
evaluate, write the ledgers, write a checkpoint.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fedfmd.aggregation import (
    STATE_PREFIX,
    VERSION_PREFIX,
    ServerOptimizer,
    aggregated,
    server_optimizer,
    stepped,
)
from fedfmd.algorithms import Collected
from fedfmd.building import model_card
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.fairness import spread
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.machine.gauge import Energy, Gauge, gauging
from fedfmd.nn.model_file import MODEL_FILE, write_model
from fedfmd.nn.starting import load_initial
from fedfmd.nn.vector import Layout, bind
from fedfmd.planning.bill import count_violations
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rows import ClientRow, Cost, EvaluationRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.runlog import LOGGER
from fedfmd.records.schema import Json, told_loss
from fedfmd.records.store import NOT_KEPT
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.dispatch import Dispatcher
from fedfmd.rounds.examination import Examination, Examined
from fedfmd.rounds.journeys import Journeys
from fedfmd.rounds.knowledge import FailedAttempts, Knowledge
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.summary import NOBODY, Scored, efficiency, joules_from, mean_train_loss, summarise
from fedfmd.rounds.testing import GlobalTest
from fedfmd.training.diagnostics import round_diagnostics
from fedfmd.training.evaluation import UNMEASURED, ModelEvaluation
from fedfmd.training.faults import missed
from fedfmd.units import percent
from fedfmd.wire.testing import Evaluation

NOT_EXAMINED = Examined()


def ignore_round(row: Json) -> None:
    """Listen to nobody."""
    del row


def _measured_by(energy: Energy) -> Json:
    """Return the columns of a round that say what its ``host_joules`` are from."""
    return {
        "host_joules_source": energy.source,
        "host_joules_reason": energy.reason,
        "idle_watts": energy.idle_watts,
    }


def configured_optimizer(config: ExperimentConfig) -> ServerOptimizer:
    """Build the server optimiser that a config names; raises ``UserError`` for what is none."""
    s = config.server
    return server_optimizer(
        s.strategy,
        learning_rate=s.step_size,
        momentum=s.momentum,
        beta2=s.beta2,
        tau=s.tau,
        **config.own("strategy"),
    )


def configured_aggregation(
    config: ExperimentConfig, updates: Mapping[int, Tensor], examples: Sequence[int]
) -> Tensor:
    """Return what a config's aggregation makes of ``updates`` by client, in ascending order.

    Each is float64 (elements,), as is what comes of them; ``examples`` are how many each client trains on.
    Raises ``RunError`` for an aggregation that fails or gives anything else.
    """
    s = config.server
    return aggregated(
        s.aggregation,
        list(updates.values()),
        clients=list(updates),
        examples=examples,
        trim=s.trim,
        hostile=s.hostile,
        krum_keep=s.krum_keep,
        **config.own("aggregation"),
    )


class FederatedRun:
    """One run, from its first round or from a checkpoint to its summary."""

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        executor: Executor,
        on_round: Callable[[Json], None] = ignore_round,
        optimizer: ServerOptimizer | None = None,
    ):
        """Get ready; an ``optimizer`` takes the place of the one that ``server.strategy`` names."""
        self.experiment = experiment
        self.on_round = on_round
        self.config: ExperimentConfig = experiment.config
        self.directory = directory
        self.executor = executor
        self.model = experiment.network.build().to(self.config.backend.device)
        self.layout = Layout.of(self.model)
        self.buffer = bind(self.model)
        self.algorithms = experiment.algorithms
        extra = self.algorithms.extra_elements(self.layout)
        self.vector = torch.cat([self.buffer.cpu(), torch.zeros(extra)])
        """What the server sends: the global state, and what algorithms send along."""
        self.testing = GlobalTest(experiment, executor, self.model, self.buffer)
        self.knowledge = Knowledge()
        self._serve()
        self.configured = configured_optimizer(self.config)
        self.optimizer: ServerOptimizer = self.configured if optimizer is None else optimizer
        self.cumulative = Cost()
        self.unfinished = Cost()
        self.earlier: list[ClientRow] = []
        """Rows of attempts at the coming round, which the run gave up; the ledger has them."""
        self.last_round = 0
        self.rounds = self.config.server.rounds
        """Rounds that it may have."""
        self.gauge = Gauge(reason="nothing was measured yet")
        self.saved_states: dict[int, int] = {}
        """Client to the round of its state, as the last checkpoint has it."""

    def _serve(self) -> None:
        """Send out and take in by what is known of the clients."""
        self.dispatcher = Dispatcher(self.experiment, self.executor, self.knowledge)
        self.examination = Examination(
            self.experiment, self.executor, self.knowledge, self.dispatcher.planner
        )

    def run(self, checkpoint: Checkpoint | None = None) -> Json:
        """Run to the end and write every file of the run directory; returns the summary.

        Raises ``RunError`` when a round got too few usable replies ``max_retries`` + 1 times, and
        ``UserError`` for another server optimiser than the run was begun with.
        """
        self._check_optimizer(resumed=checkpoint is not None)
        with gauging(self.config.energy) as self.gauge:
            return self._run(checkpoint)

    def _run(self, checkpoint: Checkpoint | None) -> Json:
        started = time.perf_counter()
        if checkpoint is None:
            self._begin()
            self._commit(self._initial_row(), [])
        else:
            self._restore(checkpoint)
        left = self.algorithms.rounds_left()
        if left is not None:
            self.rounds = min(self.rounds, self.last_round + left)
        while self.last_round < self.rounds:
            try:
                self._round(self.last_round + 1)
            except UserError as error:  # of a part of the user's, or a file: too late to refuse the input
                LOGGER.debug("stopped by", exc_info=error)
                raise RunError(f"round {self.last_round + 1}: {error}") from error
        return self._finish(time.perf_counter() - started)

    def _begin(self) -> None:
        """Take the weights that the run begins from, where the config names some."""
        if self.config.model.init is None:
            return
        if told := load_initial(self.model, Path(self.config.model.init)):
            self.directory.note("init", 0, told)
        self.vector[: self.layout.elements] = self.buffer.cpu()

    @property
    def spent(self) -> Cost:
        """What everything cost so far, with the attempts at a round that has not ended."""
        return self.cumulative + self.unfinished

    def _round(self, round: int) -> None:
        started, measured_energy = time.perf_counter(), self.gauge.begin()
        tried, new = self._attempts(round)
        self._check_disk(new)
        self._move(tried, new)
        self._learn(tried)
        looked = self._static_norms(round, tried)
        measured = self.testing.measure(round, self.vector) if self._evaluated(round) else UNMEASURED
        rows = [*self.earlier, *new]
        if self.config.partition.holdout:
            self.knowledge.learn_asked(rows)
        examined = self._on_clients(round, new) if self._evaluated(round) else NOT_EXAMINED
        judged = self.examination.adapt_selection(round, self.vector)
        energy = measured_energy()
        cost = replace(
            Cost.total([looked, examined.cost, judged, *map(Cost.of, rows)]),
            host_seconds=time.perf_counter() - started,
            host_joules=energy.joules,
            device_clock_seconds=tried.device_clock_seconds,
        )
        self.cumulative += cost
        self.last_round = round
        row = self._round_row(round, rows, cost, measured, examined)
        row = replace(row, present=tried.present, **_measured_by(energy))
        if tried.opened:
            row = replace(row, train_loss=tried.opened.figures.mean_loss)
        if self.config.diagnostics.enabled:
            row = replace(row, diagnostics=self._diagnose(tried, round))
        self.earlier, self.knowledge.failed = [], FailedAttempts()
        self._commit(row, new, examined.rows if self.config.partition.holdout else ())
        for told in missed(self.config, round, {client.client for client in rows}):
            LOGGER.warning(told)

    def _attempts(self, round: int) -> tuple[Attempt, list[ClientRow]]:
        """Try a round until enough clients are done; gives that attempt, and the rows of all of them.

        Its ``device_clock_seconds`` are those of all attempts together.
        """
        failed, rows = self.knowledge.failed, list[ClientRow]()
        for _ in range(self.config.server.max_retries + 1):
            now = (self.cumulative.device_clock_seconds or 0.0) + failed.clock_seconds
            tried = self.dispatcher.attempt(round, failed.count, self.vector, now)
            self.dispatcher.observe(tried)
            if tried.completed >= self.config.least_completed:
                if tried.device_clock_seconds is not None:
                    tried.device_clock_seconds += failed.clock_seconds
                return tried, [*rows, *tried.rows]
            rows += [r.rejected("dropped", "round repeated") if r.used else r for r in tried.rows]
            failed.add(tried.device_clock_seconds)
        raise self._given_up(round, rows)

    def _move(self, tried: Attempt, rows: Sequence[ClientRow]) -> None:
        """Apply an attempt; where that fails, keep the rows of what was done for nothing."""
        try:
            self._apply(tried)
        except RunError:
            self._abandon(rows)
            raise

    def _abandon(self, rows: Sequence[ClientRow]) -> None:
        """Keep the ``rows`` of a round that does not end: what was done is billed."""
        self.directory.append_clients([row.to_json() for row in rows])
        self.unfinished = Cost.total(map(Cost.of, [*self.earlier, *rows]))

    def _check_disk(self, rows: Sequence[ClientRow]) -> None:
        """Raise ``RunError`` when a client's state found no place here: no trouble of the client's."""
        if self.experiment.shares_disk and (bad := [r for r in rows if NOT_KEPT in (r.reason or "")]):
            raise RunError(f"client {bad[0].client}: {bad[0].reason}")

    def _apply(self, tried: Attempt) -> None:
        """Let the server optimiser move the parameters; buffers, such as BatchNorm's, are averaged.

        What no client held stays as it is; algorithms take part in the mean, and move what they send along.
        """
        extra = self.vector[self.layout.elements :]
        words = self.experiment.noise_words(self.last_round + 1)
        tried.total = self.algorithms.released(tried.total, extra, self.layout, words)
        holders = tried.total.holders(tried.opened.places if tried.opened else self.experiment.network.places)
        mean = tried.total.mean(holders) if not tried.updates else self._aggregated(tried)
        cut, end = self.layout.parameters, self.layout.elements
        collected = self._collected(tried, holders)
        self.algorithms.mean(mean[:cut], mean[end:], collected)
        parameters = stepped(self.optimizer, self.vector[:cut], mean[:cut])
        buffers = (self.vector[cut:end].double() + mean[cut:end]).float()
        extra = self.algorithms.server_step(self.vector[end:], mean[end:], collected)
        moved = torch.cat([parameters, buffers, extra])
        self.vector = moved if len(holders) == 1 else torch.where(holders > 0, moved, self.vector)
        low, high = torch.aminmax(self.vector)
        if not bool((high - low).isfinite()):
            raise RunError("the global model became NaN or infinite; lower server.learning_rate")

    def _aggregated(self, tried: Attempt) -> Tensor:
        """Return what the server makes of updates that it has one by one, float64 (elements,)."""
        updates = dict(sorted(tried.updates.items()))
        examples = [self.experiment.partition.size(client) for client in updates]
        return configured_aggregation(self.config, updates, examples)

    def _learn(self, tried: Attempt) -> None:
        """Remember what is needed of the clients in later rounds."""
        self.knowledge.learn_usage(tried.rows, self.config.model.kernels)
        if self.experiment.keeps_state:
            self.knowledge.state_rounds |= tried.states

    def _collected(self, tried: Attempt, holders: Tensor) -> Collected:
        """Return what algorithms are told of the coming round's sum, whose elements weigh ``holders``."""
        used = [row for row in tried.rows if row.used]
        return Collected(
            rows=used,
            weights=[
                self.algorithms.weight(self.experiment.partition.size(row.client), row.staleness or 0)
                for row in used
            ],
            population=self.config.partition.clients,
            learning_rate=self.config.client.rate(self.last_round + 1),
            layout=self.layout,
            held=holders / max(1, tried.total.weight),
            lag=None if tried.began is None else tried.began.double() - self.vector.double(),
        )

    def _diagnose(self, tried: Attempt, round: int) -> Json:
        temperatures, kernels = self.experiment.temperatures(round), self.config.model.kernels
        return round_diagnostics(tried.rows, tried.total, self.layout, kernels, temperatures)

    def _evaluated(self, round: int) -> bool:
        return round % self.config.evaluation.every == 0 or round == self.rounds

    def _static_norms(self, round: int, tried: Attempt) -> Cost:
        """Give the global model the statistics of the round's clients, where it takes them."""
        if not (self.config.restates_norms and self._evaluated(round)):
            return Cost()
        clients = sorted({row.client for row in tried.rows if row.used})
        self.vector, cost = self.dispatcher.static_norms(round, clients, self.vector)
        return cost

    def _on_clients(self, round: int, new: Sequence[ClientRow]) -> Examined:
        """Let clients measure models on their own images, where that is asked for."""
        if not self.config.measuring_clients:
            return NOT_EXAMINED
        if not self.examination.trains_alone(last=round == self.rounds):
            return self.examination.examine(round, self.vector)
        worked = [*self.directory.read_rows(filenames.CLIENTS, ClientRow), *new]
        return self.examination.examine(round, self.vector, worked)

    def _initial_row(self) -> RoundRow:
        row = self._round_row(0, [], Cost(), self.testing.measure(0, self.vector))
        return replace(row, **_measured_by(Energy(reason=NOBODY)))

    def _round_row(
        self,
        round: int,
        rows: Sequence[ClientRow],
        cost: Cost,
        measured: ModelEvaluation,
        examined: Examined = NOT_EXAMINED,
    ) -> RoundRow:
        test, validation = measured.test, measured.validation
        score = self._score(test, examined)
        temperatures = self.experiment.temperatures(round)
        counted: Json = {
            s: sum(r.status == s for r in rows) for s in ("completed", "partial", "dropped", "failed")
        }
        return RoundRow(
            round=round,
            cohort=len(rows),
            **counted,
            violations=count_violations(rows),
            **joules_from(rows),
            train_loss=mean_train_loss(rows),
            test_loss=told_loss(test.loss) if test else None,
            top1=test.top1 if test else None,
            top5=test.top5 if test else None,
            validation_loss=told_loss(validation.loss) if validation else None,
            validation_top1=validation.top1 if validation else None,
            top1_reason=self.experiment.untested,
            **cost.to_json(),
            **self.algorithms.figures(),
            learning_rate=self.config.client.rate(max(round, 1)),
            temperature_kernel=temperatures.kernel,
            temperature_channel=temperatures.channel,
            temperature_tau=temperatures.tau,
            cumulative=self.cumulative.to_json() | {"bytes": self.cumulative.bytes},
            **self._client_columns(examined),
            scored_on=score.on if score else None,
            **efficiency(score, self.cumulative),
            **{f"{name}_round": found for name, found in efficiency(score, cost).items()},
        )

    def _score(self, test: Evaluation | None, examined: Examined) -> Scored | None:
        """Return the accuracy that scores stand on: the clients' where there is no global model to test."""
        if not self.experiment.untested:
            return Scored(test.top1, test.examples, "test set") if test else None
        own = [row for row in examined.rows if row.model == "global"]
        mean = spread([row.top1 for row in own]).mean
        if mean is None or not self.config.partition.holdout:
            return None
        return Scored(mean, sum(row.examples for row in own), "clients")

    def _client_columns(self, examined: Examined) -> Json:
        """Return what clients have measured; without a holdout that is accuracy in training."""
        if self.config.partition.holdout:
            return examined.columns()
        return {"client_top1": examined.pooled_top1()}

    def _commit(
        self, row: RoundRow, rows: Sequence[ClientRow], evaluations: Sequence[EvaluationRow] = ()
    ) -> None:
        self.directory.append_round(
            row.to_json(), [r.to_json() for r in rows], [e.to_json() for e in evaluations]
        )
        round = row.round
        for client in (r for r in rows if r.status == "failed"):
            LOGGER.info("round %d: client %d failed: %s", round, client.client, client.reason)
        done, whose = row.completed + row.partial, "clients' " if row.scored_on == "clients" else ""
        said = f"{whose}top-1 {percent(row.accuracy)}"
        LOGGER.debug("round %d: %d of %d clients, %s", round, done, row.cohort, said)
        if round % self.config.server.checkpoint_every == 0 or round == self.rounds:
            self._checkpoint()
        self.on_round(row.to_json())

    def _checkpoint(self) -> None:
        optimizer = {name: tensor.clone() for name, tensor in self.optimizer.state.items()}
        optimizer |= self.algorithms.tensors()
        self.directory.save_checkpoint(
            self.last_round,
            self.vector,
            optimizer,
            self.cumulative.to_json(),
            self.knowledge.state_rounds,
            self.knowledge.to_json(),
            self.knowledge.buffered.tensors() | self._version(),
        )
        if self.experiment.keeps_state:
            self.directory.flush()
            now = dict(self.knowledge.state_rounds)
            self.experiment.store.prune(self.saved_states, now)
            self.saved_states = now

    def _version(self) -> dict[str, Tensor]:
        """Return the present model as a version that clients will work on, where they do not wait."""
        if self.config.server.mode != "buffered":
            return {}
        return {f"{VERSION_PREFIX}{self.last_round}": self.vector}

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state.shape != self.vector.shape:
            raise RunError(
                f"the checkpoint holds {len(checkpoint.state)} elements, the model {len(self.vector)}"
            )
        self.vector = checkpoint.state
        kept = checkpoint.memory, checkpoint.state_rounds, checkpoint.optimizer | checkpoint.shared
        self.knowledge = Knowledge.restored(*kept, Journeys(self.config))
        self._serve()
        others = (VERSION_PREFIX, STATE_PREFIX)
        state = {n: t for n, t in checkpoint.optimizer.items() if not n.startswith(others)}
        self.optimizer.state.update(state)
        self.algorithms.restore(checkpoint.optimizer)
        self.cumulative = Cost(**checkpoint.cumulative)
        self.last_round = checkpoint.round
        self.saved_states = dict(checkpoint.state_rounds)
        if self.knowledge.failed.count:
            self.earlier = self.directory.client_rows(self.last_round + 1)

    def _check_optimizer(self, *, resumed: bool) -> None:
        """Note an optimiser that the config does not name; raises ``UserError`` for one not noted."""
        path = self.directory.path
        given = None if self.optimizer is self.configured else type(self.optimizer).__qualname__
        noted = self.directory.foundations.read().server_optimizer
        if not resumed and noted is None and given is not None:
            self.directory.foundations.keep(server_optimizer=given)
        elif given != noted and noted is not None:
            raise UserError(
                f"{path}: was begun with the server optimiser {noted}, which its config does not name"
                + (f", not {given}" if given else "")
                + f'; continue it from Python: fedfmd.resume("{path}", optimizer={noted}(...))'
            )
        elif given != noted:
            raise UserError(
                f"{path}: was begun with server.strategy = '{self.config.server.strategy}', not {given}; "
                "continue it without optimizer"
            )

    def _note_unmeasured(self, rows: Sequence[Json]) -> None:
        """Note a meter that was asked for by name and measured none of the ``rows``, with the last reason."""
        meter = self.config.energy.meter
        if meter in ("none", "auto") or not rows or any(row["host_joules"] is not None for row in rows):
            return
        reason = rows[-1]["host_joules_reason"]
        self.directory.note(
            "energy", self.last_round, f"energy.meter = {meter!r} measured no round: {reason}"
        )

    def _given_up(self, round: int, rows: Sequence[ClientRow]) -> RunError:
        """Write a checkpoint from which a resumed run draws new cohorts; gives the reason to stop."""
        self._abandon(rows)
        self._checkpoint()
        reasons = sorted({row.reason for row in rows if row.reason and row.reason != "round repeated"})
        return RunError(
            f"round {round}: fewer than server.min_completed = {self.config.server.min_completed} clients "
            f"completed in {self.config.server.max_retries + 1} attempts; "
            f"reasons: {'; '.join(reasons[:3]) or 'nobody was available'}"
        )

    def _finish(self, seconds: float) -> Json:
        state = self.layout.views(self.vector[: self.layout.elements])
        temperatures = self.experiment.temperatures(self.last_round)
        card = model_card(self.config, self.experiment.dataset, temperatures)
        self.directory.flush()
        write_model(self.directory.path / MODEL_FILE, self.algorithms.exported(state), card)
        rounds = self.directory.rounds()
        self._note_unmeasured(rounds[1:])
        summary = summarise(self.experiment, rounds, seconds)
        summary["control"] = self.directory.control
        return self.directory.finish(summary)
