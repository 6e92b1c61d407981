"""Start, continue and finish a run directory."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fedfmd import __version__
from fedfmd.aggregation import ServerOptimizer, stepped
from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import check_shared, origins
from fedfmd.contracts import blame, blamed
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.data.configured import open_noted, partition_data, prepare_data
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared
from fedfmd.devices import check_devices, device_files
from fedfmd.errors import FAULTS, InputWarning, RunError, UserError, first_few
from fedfmd.experiment import Experiment, initial_network, network
from fedfmd.files import write_atomic
from fedfmd.machine.environment import describe_environment
from fedfmd.machine.gauge import check_meters
from fedfmd.nn.starting import load_initial
from fedfmd.nn.vector import Layout
from fedfmd.planning.controls import control_match, with_control
from fedfmd.planning.policy import Planner
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import LOST_STATE, RunDirectory
from fedfmd.records.runlog import LOGGER, logged
from fedfmd.records.schema import Json
from fedfmd.records.unfinished import check_free, numbered
from fedfmd.registry import origin
from fedfmd.rounds.engine import FederatedRun, configured_optimizer, ignore_round
from fedfmd.rounds.limits import check_machine, placed
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.places import with_workers
from fedfmd.rounds.selection import draw_cohort
from fedfmd.training.optimizers import local_optimizer
from fedfmd.wire.compression import compress, compressor, restore

MAX_COUNTED_CLIENTS = 10_000
"""Up to this population the manifest says who has how many of each class."""
MAX_COUNTED_SAMPLES = 100_000_000
LAYERS = {"network", "conv", "norm"}
"""Kinds of parts that a network is made of."""


def resolve(config: ExperimentConfig) -> ExperimentConfig:
    """Fill in what the config leaves open: workers, the strategy's step size, the rounds of schedules."""
    server = config.server
    return config.model_copy(
        update={
            "backend": with_workers(config.backend),
            "server": server.model_copy(
                update={"horizon": server.horizon_rounds, "learning_rate": server.step_size}
            ),
        }
    )


def start_run(
    config: ExperimentConfig, out: Path | None = None, *, beside: Mapping[str, str] = MappingProxyType({})
) -> RunDirectory:
    """Check everything, then make the run directory ``out``, or ``runs/NAME``, with more files ``beside``.

    Nothing exists before all input was found good; then the directory appears whole. Raises ``UserError``.
    """
    if out is not None:
        check_free(out)
    settings = resolve(config)
    check_machine(settings)
    if settings.backend.apart:
        check_shared(settings)
    check_devices(settings)
    check_meters(settings.energy)
    check_algorithms(settings)
    check_makes(settings)
    dataset = open_noted(settings)
    resolved = with_control(settings, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    check_algorithms(resolved)
    match = control_match(settings, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    resolved = placed(config.backend, resolved, check_network(resolved, dataset))
    partition = partition_data(resolved, dataset.train_labels, dataset.owners)
    _check_sizes(resolved, partition)
    manifest = partition.manifest()
    if partition.num_clients <= MAX_COUNTED_CLIENTS and partition.sizes.sum() <= MAX_COUNTED_SAMPLES:
        counts = partition.label_counts(dataset.train_labels, dataset.num_classes)
        manifest["label_counts"] = counts.tolist()
        manifest["class_names"] = list(dataset.classes)
    if dataset.owner_names and partition.about.get("scheme") == "natural":
        manifest["client_names"] = list(dataset.owner_names)
    if dataset.note:
        manifest["note"] = dataset.note
    with RunDirectory.making(out, resolved, describe_environment()) as directory:
        partition.save(directory.partition_file)
        directory.write_json(filenames.PARTITION, manifest)
        if match:
            directory.write_json(filenames.CONTROL, match.to_json())
        for name, text in beside.items():
            write_atomic(directory.path / name, text)
        directory.keep_files(device_files(resolved))
        directory.keep_images(dataset.fingerprint)
        if origin("policy", resolved.policy.kind):
            Planner(_experiment(directory, prepare_data(resolved).resolve())).plan(0, 1, {})
    return directory


def check_makes(config: ExperimentConfig) -> None:
    """Try the parts that need no images; raises ``UserError`` for one that makes nothing of its kind."""
    weights = torch.linspace(-1, 1, 300)
    try:
        stepped(configured_optimizer(config), weights, weights.double())
    except RunError as error:
        raise UserError(f"server.strategy = {config.server.strategy!r}: {error}") from error
    if origin("selection", config.selection.kind):
        with blamed(f"selection.kind = {config.selection.kind!r}: fails when it is tried"):
            draw_cohort(config, 1)
    uplink = compressor(config.compression, config.own("compression"))
    with blamed(f"compression.uplink = {config.compression.uplink!r}: fails when it is tried"):
        restore(compress(weights, uplink, torch.Generator()), uplink, len(weights))
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.ones(1)
    optimizer = local_optimizer([parameter], config.client, config.own("optimizer"))
    with blamed(f"client.optimizer = {config.client.optimizer!r}: fails when it is tried"):
        optimizer.restart(config.client.learning_rate)
        optimizer.step()


def begin_from(config: ExperimentConfig, dataset: Dataset) -> str:
    """Try ``model.init`` on the network; says what does not fit. Raises ``UserError`` when nothing does."""
    if config.model.init is None:
        return ""
    return load_initial(initial_network(config, dataset), Path(config.model.init))


def check_network(config: ExperimentConfig, dataset: Dataset) -> ModelCost:
    """Try the network on one image and return its cost.

    An ``InputWarning`` says which MACs are counted by the generic rule.

    Raises ``UserError`` for a network that cannot be built, or does not take such images.
    """
    built_in = not origins(config)
    classes, shape = dataset.num_classes, dataset.input_shape
    try:
        with torch.device("meta"):
            model = network(config.model, num_classes=classes, input_shape=shape)
        layout = Layout.of(model)
        cost = model_cost(model, shape)
        if LAYERS & {part.kind for part in origins(config)}:
            whole = network(config.model, num_classes=classes, input_shape=shape)
            _try_on_images(whole, classes, shape)
    except FAULTS as error:
        if built_in or isinstance(error, (UserError, RunError, MemoryError)):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model.name = {config.model.name!r}: builds no network for images of shape "
            f"{dataset.input_shape}: {reason}"
        ) from error
    if not layout.parameters:
        raise UserError(f"model.name = {config.model.name!r}: has no parameters: there is nothing to train")
    if config.privacy.dp != "none" and layout.elements > layout.parameters:
        raise UserError(
            f"privacy.dp = {config.privacy.dp!r}: needs a network that keeps nothing beside its parameters; "
            f"model.name = {config.model.name!r} has {layout.elements - layout.parameters} such "
            "values (buffers)"
        )
    if told := begin_from(config, dataset):
        warnings.warn(told, InputWarning, stacklevel=2)
    if cost.generic:
        warnings.warn(
            f"model.name = {config.model.name!r}: {', '.join(cost.generic)}: MACs counted by PyTorch's FLOP "
            "counter, as no cost rule is known",
            InputWarning,
            stacklevel=2,
        )
    return cost


def _try_on_images(model: nn.Module, num_classes: int, input_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for a network that gives no logits for its classes."""
    with torch.no_grad():
        logits = model.eval()(torch.zeros(2, *input_shape))
    if not isinstance(logits, Tensor) or logits.shape[-2:] != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"two images give {found}, where logits are (2, {num_classes})")


def stop_reason(error: BaseException, config: ExperimentConfig) -> str:
    """Say why a run has stopped; what neither the machine nor a part of the user's explains is raised on."""
    if isinstance(error, (RunError, OSError)):
        return str(error)
    if isinstance(error, (UserError, MemoryError)) or not (reason := blame(error, origins(config))):
        raise error
    LOGGER.debug("stopped by", exc_info=error)
    return f"{reason}; {filenames.LOG} has the traceback"


def _check_sizes(config: ExperimentConfig, partition: Partition) -> None:
    """Raise ``UserError`` for clients whose whole data make a batch of one, where none can be trained."""
    single = int((partition.sizes < 2).sum())
    if single and config.model.attention_needs_pairs:
        raise UserError(
            f"partition: {single} of {partition.num_clients} clients have one training sample, and "
            "model.attention_norm = 'bn' needs two: take fewer partition.clients, or more samples each "
            "(partition.min_size, partition.samples_per_client), or model.attention_norm = 'ln'"
        )


def open_experiment(directory: RunDirectory) -> Experiment:
    """Give the experiment of a run directory; a lost partition is made anew, if it can be the same one."""
    config = directory.config
    dataset_file = prepare_data(config).resolve()
    experiment = _experiment(directory, dataset_file)
    directory.check_images(experiment.dataset.fingerprint)
    _check_partition(directory, dataset_file)
    return experiment


def _experiment(directory: RunDirectory, dataset_file: Path) -> Experiment:
    return Experiment(
        directory.config,
        dataset_file=dataset_file,
        partition_file=directory.partition_file.resolve(),
        state_folder=directory.state_folder.resolve(),
    )


def _check_partition(directory: RunDirectory, dataset_file: Path) -> None:
    """Make sure of the partition's file; raises ``UserError`` when it is lost and not to be made again."""
    file = directory.partition_file
    try:
        Partition.load(file)
        return
    except UserError as error:
        fault = str(error)
    dataset = open_prepared(dataset_file)
    partition = partition_data(directory.config, dataset.train_labels, dataset.owners)
    if partition.sha256 != directory.read_json(filenames.PARTITION).get("sha256"):
        raise UserError(f"{fault}; this version makes another one: start the run anew")
    partition.save(file)
    directory.note("partition", 0, f"{fault}; made anew, the same")


def execute(
    directory: RunDirectory,
    make_executor: Callable[[Experiment], Executor],
    on_round: Callable[[Json], None] = ignore_round,
    open_directory: Callable[[RunDirectory], Experiment] = open_experiment,
    optimizer: ServerOptimizer | None = None,
) -> Json:
    """Run a new or interrupted run directory to its end; returns the summary.

    ``optimizer`` takes the place of the one that ``server.strategy`` names. Raises ``RunError`` when the run
    cannot go on; the reason is then in ``summary.json``, too. Raises ``UserError`` for another optimiser than
    the run was begun with.
    """
    run = None
    with logged(directory.path):
        try:
            checkpoint = directory.recover()
            directory.reopen()
            LOGGER.debug(
                "fedfmd %s, %s", __version__, f"after round {checkpoint.round}" if checkpoint else "new"
            )
            experiment = open_directory(directory)
            if checkpoint:
                _forget_lost_states(directory, experiment, checkpoint)
            run = FederatedRun(experiment, directory, make_executor(experiment), on_round, optimizer)
            return run.run(checkpoint)
        except FAULTS as error:
            reason = stop_reason(error, directory.config)
            LOGGER.info("stopped: %s", reason)
            with suppress(OSError):
                directory.stop(reason, run.spent.to_json() if run else None)
            raise RunError(f"{directory.path}: {reason}") from error
        finally:
            directory.unlock()


def _forget_lost_states(directory: RunDirectory, experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Let clients whose kept state is lost begin anew, and say so."""
    lost = experiment.lost_states(checkpoint.state_rounds)
    if not lost:
        return
    for client in lost:
        del checkpoint.state_rounds[client]
    named = first_few(lost)
    directory.note(
        LOST_STATE,
        checkpoint.round,
        f"{directory.state_folder}: kept states are lost or damaged, of client {named}; "
        "these begin anew, so the result is another one than that of an undisturbed run",
    )


def free_run_folder(name: str, root: Path = Path(filenames.RUNS)) -> Path:
    """Give ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3`` ... that does not exist yet."""
    return next(path for path in numbered(root / name) if not path.exists())
