"""The round loop: it knows the model, the ledgers and the checkpoint; it knows neither Flower nor Ray.

One round: let the dispatcher have the clients' work done and summed, let the server optimiser take a step,
evaluate, write the ledgers, write a checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from fedfmd.aggregation import ServerOptimizer
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.machine.gauge import Energy, Gauge, gauging
from fedfmd.nn.model_file import MODEL_FILE
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow, EvaluationRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.runlog import LOGGER
from fedfmd.records.schema import Json
from fedfmd.records.store import NOT_KEPT
from fedfmd.rounds.asynchronous import BufferedDispatcher
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.examination import Examination, Examined
from fedfmd.rounds.journeys import Journeys
from fedfmd.rounds.knowledge import FailedAttempts, Knowledge
from fedfmd.rounds.model import GlobalModel
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.row import NOT_EXAMINED, measured_by, round_row
from fedfmd.rounds.summary import NOBODY, summarise
from fedfmd.rounds.synchronous import SynchronousDispatcher
from fedfmd.rounds.testing import GlobalTest
from fedfmd.training.diagnostics import round_diagnostics
from fedfmd.training.evaluation import UNMEASURED
from fedfmd.training.faults import missed
from fedfmd.units import percent


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
        optimizer: ServerOptimizer | None = None,
    ):
        """Get ready; an ``optimizer`` takes the place of the one that ``server.strategy`` names."""
        self.experiment = experiment
        self.on_round = on_round
        self.config: ExperimentConfig = experiment.config
        self.directory = directory
        self.executor = executor
        self.model = GlobalModel(experiment, optimizer)
        self.algorithms = experiment.algorithms
        self.testing = GlobalTest(experiment, executor, self.model.network, self.model.buffer)
        self.knowledge = Knowledge()
        self._serve()
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
        kind = BufferedDispatcher if self.config.server.mode == "buffered" else SynchronousDispatcher
        self.dispatcher = kind(self.experiment, self.executor, self.knowledge)
        self.examination = Examination(
            self.experiment, self.executor, self.knowledge, self.dispatcher.planner
        )

    def run(self, checkpoint: Checkpoint | None = None) -> Json:
        """Run to the end and write every file of the run directory; returns the summary.

        Raises ``RunError`` when a round got too few usable replies ``max_retries`` + 1 times.
        """
        with gauging(self.config.energy) as self.gauge:
            return self._run(checkpoint)

    def _run(self, checkpoint: Checkpoint | None) -> Json:
        started = time.perf_counter()
        if checkpoint is None:
            if told := self.model.begin():
                self.directory.note("init", 0, told)
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
        measured = self.testing.measure(round, self.model.vector) if self._evaluated(round) else UNMEASURED
        rows = [*self.earlier, *new]
        if self.config.partition.holdout:
            self.knowledge.learn_asked(rows)
        examined = self._on_clients(round, new) if self._evaluated(round) else NOT_EXAMINED
        judged = self.examination.adapt_selection(round, self.model.vector)
        energy = measured_energy()
        cost = replace(
            Cost.total([looked, examined.cost, judged, *(client.cost for client in rows)]),
            host_seconds=time.perf_counter() - started,
            host_joules=energy.joules,
            device_clock_seconds=tried.device_clock_seconds,
        )
        self.cumulative += cost
        self.last_round = round
        row = round_row(self.experiment, round, rows, cost, self.cumulative, measured, examined)
        row = replace(row, present=tried.present, **measured_by(energy))
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
            tried = self.dispatcher.attempt(round, failed.count, self.model.vector, now)
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
            self.model.move(tried, self.last_round + 1)
        except RunError:
            self._abandon(rows)
            raise

    def _abandon(self, rows: Sequence[ClientRow]) -> None:
        """Keep the ``rows`` of a round that does not end: what was done is billed."""
        self.directory.append_clients([row.to_json() for row in rows])
        self.unfinished = Cost.total(row.cost for row in [*self.earlier, *rows])

    def _check_disk(self, rows: Sequence[ClientRow]) -> None:
        """Raise ``RunError`` when a client's state found no place here: no trouble of the client's."""
        if self.experiment.shares_disk and (bad := [r for r in rows if NOT_KEPT in (r.reason or "")]):
            raise RunError(f"client {bad[0].client}: {bad[0].reason}")

    def _learn(self, tried: Attempt) -> None:
        """Remember what is needed of the clients in later rounds."""
        self.knowledge.learn_usage(tried.rows, self.config.model.kernels)
        if self.experiment.keeps_state:
            self.knowledge.state_rounds |= tried.states

    def _diagnose(self, tried: Attempt, round: int) -> Json:
        temperatures, kernels = self.experiment.temperatures(round), self.config.model.kernels
        return round_diagnostics(tried.rows, tried.total, self.model.layout, kernels, temperatures)

    def _evaluated(self, round: int) -> bool:
        return round % self.config.evaluation.every == 0 or round == self.rounds

    def _static_norms(self, round: int, tried: Attempt) -> Cost:
        """Give the global model the statistics of the round's clients, where it takes them."""
        if not (self.config.restates_norms and self._evaluated(round)):
            return Cost()
        clients = sorted({row.client for row in tried.rows if row.used})
        self.model.vector, cost = self.dispatcher.static_norms(round, clients, self.model.vector)
        return cost

    def _on_clients(self, round: int, new: Sequence[ClientRow]) -> Examined:
        """Let clients measure models on their own images, where that is asked for."""
        if not self.config.measuring_clients:
            return NOT_EXAMINED
        if not self.examination.trains_alone(last=round == self.rounds):
            return self.examination.examine(round, self.model.vector)
        worked = [*self.directory.ledgers.read(filenames.CLIENTS, ClientRow), *new]
        return self.examination.examine(round, self.model.vector, worked)

    def _initial_row(self) -> RoundRow:
        measured = self.testing.measure(0, self.model.vector)
        row = round_row(self.experiment, 0, [], Cost(), self.cumulative, measured)
        return replace(row, **measured_by(Energy(reason=NOBODY)))

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
        optimizer, algorithms = self.model.kept()
        self.directory.save_checkpoint(
            Checkpoint(
                round=self.last_round,
                state=self.model.vector,
                optimizer=optimizer,
                algorithms=algorithms,
                cumulative=self.cumulative.to_json(),
                state_rounds=dict(self.knowledge.state_rounds),
                memory=self.knowledge.to_json(),
                versions=self.knowledge.buffered.versions | self._version(),
            )
        )
        if self.experiment.keeps_state:
            self.directory.flush()
            now = dict(self.knowledge.state_rounds)
            self.experiment.store.prune(self.saved_states, now)
            self.saved_states = now

    def _version(self) -> dict[int, Tensor]:
        """Return the present model as a version that clients will work on, where they do not wait."""
        return {self.last_round: self.model.vector} if self.config.server.mode == "buffered" else {}

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.restore(checkpoint)
        kept = checkpoint.memory, checkpoint.state_rounds, checkpoint.versions
        self.knowledge = Knowledge.restored(*kept, Journeys(self.config))
        self._serve()
        self.cumulative = Cost(**checkpoint.cumulative)
        self.last_round = checkpoint.round
        self.saved_states = dict(checkpoint.state_rounds)
        if self.knowledge.failed.count:
            self.earlier = self.directory.client_rows(self.last_round + 1)

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
        self.directory.flush()
        self.model.write(self.directory.path / MODEL_FILE, self.last_round)
        rounds = self.directory.rounds()
        self._note_unmeasured(rounds[1:])
        summary = summarise(self.experiment, rounds, seconds)
        summary["control"] = self.directory.control
        return self.directory.summary_file.finish(summary, self.directory.ledgers)
