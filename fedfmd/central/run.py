"""A centralised training run: from a config, or an interrupted run directory, to its summary."""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import ClassVar

import torch

from fedfmd.building import check_initial, model_card, outline
from fedfmd.central.images import Pictures
from fedfmd.central.trainer import CentralTrainer, OnStep
from fedfmd.central.world import World
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.central import TrainConfig
from fedfmd.config.sections.machine import EnergyConfig
from fedfmd.costs.conventions import TRAINING_MACS_PER_FORWARD
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.costs.memory import training_bytes
from fedfmd.costs.scores import NO_VALIDATION, best_row, inverse_efficiency, rate_correct
from fedfmd.data.arrays import IntArray
from fedfmd.data.configured import open_data, open_noted
from fedfmd.data.dataset import Dataset
from fedfmd.data.holdout import validation_split
from fedfmd.errors import FAULTS, InputWarning, RunError, UserError
from fedfmd.machine.environment import describe_environment, processor_name
from fedfmd.machine.gauge import Gauge, check_meters, gauging
from fedfmd.machine.process import prepare_process
from fedfmd.machine.processes import available_cores
from fedfmd.nn.model_file import MODEL_FILE, write_model
from fedfmd.nn.starting import check_initial_file
from fedfmd.nn.vector import carried
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.documents import TrainSummary
from fedfmd.records.logbook import Logbook, check_installed, open_logbook
from fedfmd.records.rows import EpochRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.runlog import LOGGER, logged
from fedfmd.records.schema import Json, told_loss
from fedfmd.records.stopping import stop_reason
from fedfmd.records.unfinished import check_free
from fedfmd.rounds.limits import check_data_memory, check_training_memory, require_gpu
from fedfmd.rounds.places import check_places
from fedfmd.rounds.resumption import take_changes
from fedfmd.training.evaluation import ModelEvaluation
from fedfmd.units import percent

INFERENCE_REPEATS = 3
"""The test set is classified this often at the end, and the median time counts."""
OnEpoch = Callable[[Json], None]


class TrainDirectory(RunDirectory):
    """The run directory of a centralised run: its rows are epochs."""

    ledger_names: ClassVar[tuple[str, ...]] = (filenames.EPOCHS,)

    def rounds_done(self) -> int:
        """Count the epochs that the ledger holds."""
        return self.ledgers.lines()

    def _done(self, summary: Json) -> int:
        return TrainSummary.partly(summary)[0].epochs or 0

    def _wanted(self) -> int:
        return self.recipe.epochs

    @property
    def recipe(self) -> TrainConfig:
        """The run's [train] section."""
        return self.config.recipe

    def append_epoch(self, row: Json) -> None:
        """Append an epoch's row and sync it."""
        with self.writing():
            self.ledgers.append(filenames.EPOCHS, [row])

    def epochs(self) -> list[Json]:
        """Read the epochs written so far; raises ``UserError`` for a damaged ledger."""
        return self.ledgers.plain(filenames.EPOCHS)


def start_training(config: ExperimentConfig, out: Path | None, world: World) -> TrainDirectory:
    """Check everything, then make the run directory: nothing exists before all input was found good."""
    if out is not None:
        check_free(out)
    check_installed(config.logging)
    resolved = _resolve(config, world)
    check_initial_file(resolved.model.init)
    dataset = open_noted(resolved)
    _check_memory(resolved, dataset)
    if told := check_initial(resolved, dataset):
        warnings.warn(told, InputWarning, stacklevel=2)
    with TrainDirectory.making(out, resolved, describe_environment()) as directory:
        directory.foundations.keep(images=dataset.fingerprint, **dataset.test_set)
    return directory


def _check_memory(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise ``UserError`` for training on a CPU that takes more memory than there is."""
    recipe = config.recipe
    if recipe.device == "cuda":
        return
    shape = dataset.input_shape
    cost = model_cost(outline(config.model, num_classes=dataset.num_classes, input_shape=shape), shape)
    check_training_memory(training_bytes(cost, recipe.batch_size), "train.batch_size", recipe.batch_size)


def open_training(path: Path, overrides: Sequence[str] = (), *, accept: bool = False) -> TrainDirectory:
    """Open an interrupted centralised run, changed by ``overrides`` that the user does ``accept``.

    Raises ``UserError`` for anything else.
    """
    directory = TrainDirectory.open(path)
    if not filenames.holds_central_run(path):
        raise UserError(f"--resume {path}: is no run of fedfmd train (it holds no {filenames.EPOCHS})")
    take_changes(directory, overrides, accept=accept)
    if directory.complete():
        raise UserError(f"--resume {path}: this run is finished; there is nothing to continue")
    return directory


def train(directory: TrainDirectory, world: World, on_step: OnStep, on_epoch: OnEpoch) -> Json:
    """Train a new or interrupted run to its end; returns the summary. Every process of the world calls it.

    Raises ``RunError`` when it cannot go on; the reason is then in ``summary.json``, too.
    """
    try:
        world.led(lambda: _go_back(directory))
        checkpoint = directory.load_checkpoint()
        config, recipe = directory.config, directory.recipe
        prepare_process(recipe.threads or 1)
        whole, device = open_data(config), _device(recipe, world)
        directory.foundations.check_images(whole.fingerprint, config.data)
        kept, left = validation_indices(config, whole)
        dataset = whole.subset(left) if len(kept) else whole
        trainer = CentralTrainer(config, recipe, dataset, device, world)
        validation = Pictures.kept(whole, kept, device)
        if checkpoint:
            trainer.load(checkpoint.state, checkpoint.optimizer)
        elif config.model.init is not None:
            trainer.begin_from(Path(config.model.init))
        run = _Run(directory, trainer, dataset, validation, on_step, on_epoch)
        return run.run(checkpoint.round if checkpoint else 0)
    except FAULTS as error:
        reason = stop_reason(error, directory.config)
        if world.leads:
            with suppress(OSError):
                directory.summary_file.stop(reason)
        raise RunError(f"{directory.path}: {reason}") from error
    finally:
        directory.unlock()


def validation_indices(config: ExperimentConfig, dataset: Dataset) -> tuple[IntArray, IntArray]:
    """Return which training images choose an epoch and which train, int64; see ``partition.validation``."""
    return validation_split(len(dataset.train_labels), config.partition.validation, config.seed)


class _Run:
    """One run from some epoch to the end."""

    def __init__(
        self,
        directory: TrainDirectory,
        trainer: CentralTrainer,
        dataset: Dataset,
        validation: Pictures | None,
        on_step: OnStep,
        on_epoch: OnEpoch,
    ):
        self.directory, self.trainer, self.dataset = directory, trainer, dataset
        self.validation = validation
        self.on_step, self.on_epoch = on_step, on_epoch
        self.recipe, self.world = trainer.recipe, trainer.world
        self.cost = model_cost(trainer.model, dataset.input_shape)
        self.gauge = Gauge(reason="nothing was measured yet")

    def run(self, done: int) -> Json:
        energy = self.trainer.config.energy if self.world.leads else EnergyConfig()
        with gauging(energy) as self.gauge:
            return self._run(done)

    def _run(self, done: int) -> Json:
        with logged(self.directory.path), self._logbook(done) as book:
            for epoch in range(done + 1, self.recipe.epochs + 1):
                row = self._epoch(epoch)
                if self.world.leads:
                    self._commit(row)
                    LOGGER.debug("epoch %d: top-1 %s", epoch, percent(row["top1"]))
                    self.on_epoch(row)
                    book.on_round(row)
        return self._finish()

    def _logbook(self, done: int) -> Logbook:
        """Open the leader's logbook, which drops what a killed run wrote after its checkpoint."""
        if not self.world.leads:
            return Logbook()
        config = self.trainer.config
        asked = config.logging.model_copy(update={"tensorboard": self.recipe.tensorboard})
        return open_logbook(self.directory.path, config, asked, last_round=done, step="epoch")

    def _epoch(self, epoch: int) -> Json:
        measured_energy = self.gauge.begin()
        result = self.trainer.train_epoch(epoch, self.on_step)
        energy = measured_energy()
        if told_loss(result.loss) is None:
            raise RunError(f"epoch {epoch}: the loss is not finite; try a smaller train.learning_rate")
        last = epoch == self.recipe.epochs
        due = last or epoch % self.recipe.evaluate_every == 0
        test, test_seconds = self.trainer.evaluate(epoch) if due else (None, None)
        validation = self.trainer.evaluate(epoch, self.validation)[0] if due and self.validation else None
        temperatures = self.trainer.temperatures(epoch)
        return EpochRow(
            epoch=epoch,
            train_loss=result.loss,
            **ModelEvaluation(test=test, validation=validation).columns(),
            train_seconds=result.seconds,
            train_joules=energy.joules,
            joules_source=energy.source,
            joules_reason=energy.reason,
            idle_watts=energy.idle_watts,
            test_seconds=test_seconds,
            samples=result.samples,
            steps=result.steps,
            samples_per_second=result.samples / result.seconds,
            macs=TRAINING_MACS_PER_FORWARD * self.cost.forward_macs * result.samples,
            learning_rate=result.learning_rate,
            temperature_kernel=temperatures.kernel,
            temperature_channel=temperatures.channel,
            temperature_tau=temperatures.tau,
        ).to_json()

    def _commit(self, row: Json) -> None:
        self.directory.append_epoch(row)
        epoch = row["epoch"]
        if epoch % self.recipe.checkpoint_every == 0 or epoch == self.recipe.epochs:
            state, rest = self.trainer.state()
            self.directory.save_checkpoint(Checkpoint(round=epoch, state=state, optimizer=rest))

    def _finish(self) -> Json:
        timed = [self.trainer.evaluate(self.recipe.epochs) for _ in range(INFERENCE_REPEATS)]
        if not self.world.leads:
            return {}
        temperatures = self.trainer.temperatures(self.recipe.epochs)
        card = model_card(self.trainer.config, self.dataset, temperatures)
        write_model(self.directory.path / MODEL_FILE, carried(self.trainer.evaluated_model), card)
        seconds = median(seconds for _, seconds in timed)
        summary = {
            **summarise(self.directory.epochs(), self.dataset, self.cost, seconds),
            "name": self.trainer.config.name,
            "device": _device_name(self.trainer.device),
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "peak_gpu_bytes": _peak_gpu_bytes(self.trainer.device),
        }
        return self.directory.summary_file.finish(summary, self.directory.ledgers)


def summarise(epochs: Sequence[Json], dataset: Dataset, cost: ModelCost, inference_seconds: float) -> Json:
    """Condense a finished run: accuracies, costs, and IES and RCS as the paper's tables use them.

    ``ies_epoch_seconds`` is the mean training time of an epoch over the final top-1, ``ies_total_seconds``
    that of all epochs; ``rcs`` is correct test answers a second of inference (not the reciprocal of either).
    """
    final = next(row for row in reversed(epochs) if row["top1"] is not None)
    best = best_row(epochs)
    seconds = [row["train_seconds"] for row in epochs]
    tests = len(dataset.test_labels)
    return {
        "kind": "train",
        "status": "finished",
        "epochs": final["epoch"],
        "dataset": dataset.name,
        "train_samples": len(dataset.train_labels),
        **dataset.test_set,
        "parameters": cost.parameters,
        "forward_macs": cost.forward_macs,
        "macs": sum(row["macs"] for row in epochs),
        "final_top1": final["top1"],
        "final_top5": final["top5"],
        "best_top1": best["top1"] if best else None,
        "best_epoch": best["epoch"] if best else None,
        "best_reason": None if best else NO_VALIDATION,
        "train_seconds": math.fsum(seconds),
        "seconds_per_epoch": fmean(seconds),
        "median_seconds_per_epoch": median(seconds),
        "inference_seconds": inference_seconds,
        "ies_epoch_seconds": inverse_efficiency(fmean(seconds), final["top1"]),
        "ies_total_seconds": inverse_efficiency(math.fsum(seconds), final["top1"]),
        "rcs": rate_correct(final["top1"], tests, inference_seconds),
    }


def _resolve(config: ExperimentConfig, world: World) -> ExperimentConfig:
    """Fill in what the config leaves to the machine: device and threads."""
    recipe = config.recipe
    cuda = torch.cuda.is_available()
    if recipe.device == "cuda":
        require_gpu("train.device")
    check_places("train.threads", recipe.threads)
    check_data_memory(config)
    check_meters(config.energy)
    device = ("cuda" if cuda else "cpu") if recipe.device == "auto" else recipe.device
    threads = recipe.threads or max(1, available_cores() // world.local_size)
    resolved = recipe.model_copy(update={"device": device, "threads": threads})
    return config.model_copy(update={"train": resolved})


def _go_back(directory: TrainDirectory) -> None:
    directory.recover()
    directory.summary_file.take_back()


def _device(recipe: TrainConfig, world: World) -> torch.device:
    if recipe.device != "cuda":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("train.device = 'cuda': this run was started on a GPU, and this machine has none")
    return torch.device("cuda", world.local_rank % torch.cuda.device_count())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def _peak_gpu_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
