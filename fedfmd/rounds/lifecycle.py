"""Start, continue and finish a run directory."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from fedfmd import __version__
from fedfmd.aggregation import ServerOptimizer
from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import check_shared
from fedfmd.data.configured import manifest_of, open_noted, partition_data, partition_noted, prepare_data
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared
from fedfmd.devices import check_devices, device_files
from fedfmd.errors import FAULTS, RunError, UserError, first_few
from fedfmd.experiment import Experiment
from fedfmd.files import write_atomic
from fedfmd.machine.environment import describe_environment
from fedfmd.machine.gauge import check_meters
from fedfmd.machine.process import prepare_process
from fedfmd.nn.starting import check_initial_file
from fedfmd.planning.controls import control_match, with_control
from fedfmd.planning.policy import Planner
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import LOST_STATE, RunDirectory
from fedfmd.records.runlog import LOGGER, logged
from fedfmd.records.schema import Json
from fedfmd.records.stopping import stop_reason
from fedfmd.records.unfinished import check_free
from fedfmd.registry import origin
from fedfmd.rounds.engine import FederatedRun, ignore_round
from fedfmd.rounds.limits import check_machine, placed
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.places import with_workers
from fedfmd.rounds.rehearsal import check_makes, check_network, check_sizes


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
    config: ExperimentConfig,
    out: Path | None = None,
    *,
    beside: Mapping[str, str] = MappingProxyType({}),
    source: str = "",
) -> RunDirectory:
    """Check everything, then make the run directory ``out``, or ``runs/NAME``, with more files ``beside``.

    Nothing exists before all input was found good; then the directory appears whole. Raises ``UserError``,
    whose lines about algorithms begin with ``source``.
    """
    if out is not None:
        check_free(out)
    settings = resolve(config)
    check_machine(settings)
    if settings.backend.apart:
        check_shared(settings)
    check_devices(settings)
    check_meters(settings.energy)
    check_algorithms(settings, source=source)
    check_makes(settings)
    check_initial_file(settings.model.init)
    dataset = open_noted(settings)
    resolved = with_control(settings, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    check_algorithms(resolved, source=source)
    match = control_match(settings, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    resolved = placed(config.backend, resolved, check_network(resolved, dataset))
    partition = partition_noted(resolved, dataset)
    check_sizes(resolved, partition)
    manifest = manifest_of(partition, dataset)
    with RunDirectory.making(out, resolved, describe_environment()) as directory:
        partition.save(directory.partition_file)
        directory.write_json(filenames.PARTITION, manifest)
        if match:
            directory.write_json(filenames.CONTROL, match.to_json())
        for name, text in beside.items():
            write_atomic(directory.path / name, text)
        directory.foundations.keep_files(device_files(resolved))
        directory.foundations.keep(images=dataset.fingerprint, **dataset.test_set)
        if origin("policy", resolved.policy.kind):
            Planner(_experiment(directory, resolved, prepare_data(resolved).resolve())).plan(0, 1, {})
    return directory


def open_experiment(directory: RunDirectory, config: ExperimentConfig | None = None) -> Experiment:
    """Return the experiment of a run directory; a lost partition is made anew, if it can be the same one.

    ``config`` is what the run is to go on with; when absent, the directory's own.
    """
    config = config or directory.config
    dataset_file = prepare_data(config).resolve()
    directory.foundations.check_images(open_prepared(dataset_file).fingerprint, config.data)
    _check_partition(directory, dataset_file)
    # Not before: its paths are those of the files that are there now.
    return _experiment(directory, config, dataset_file)


def _experiment(directory: RunDirectory, config: ExperimentConfig, dataset_file: Path) -> Experiment:
    return Experiment(
        config,
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
            directory.summary_file.take_back()
            LOGGER.debug(
                "fedfmd %s, %s", __version__, f"after round {checkpoint.round}" if checkpoint else "new"
            )
            _check_optimizer(directory, optimizer, resumed=checkpoint is not None)
            experiment = open_directory(directory)
            prepare_process(experiment.config.backend.threads)
            if checkpoint:
                _forget_lost_states(directory, experiment, checkpoint)
            run = FederatedRun(experiment, directory, make_executor(experiment), on_round, optimizer)
            return run.run(checkpoint)
        except FAULTS as error:
            reason = stop_reason(error, directory.config)
            LOGGER.debug("stopped: %s", reason)  # whoever runs it says so
            with suppress(OSError):
                directory.summary_file.stop(reason, run.spent.to_json() if run else None)
            raise RunError(f"{directory.path}: {reason}") from error
        finally:
            directory.unlock()


def _check_optimizer(directory: RunDirectory, optimizer: ServerOptimizer | None, *, resumed: bool) -> None:
    """Note an optimiser that the config does not name; raises ``UserError`` for one not noted."""
    path, foundations = directory.path, directory.foundations
    given = None if optimizer is None else type(optimizer).__qualname__
    noted = foundations.read().server_optimizer
    if given == noted:
        return
    if noted is not None:
        raise UserError(
            f"{path}: was begun with the server optimiser {noted}, which its config does not name"
            + (f", not {given}" if given else "")
            + f'; continue it from Python: fedfmd.resume("{path}", optimizer={noted}(...))'
        )
    if resumed:
        raise UserError(
            f"{path}: was begun with server.strategy = '{directory.config.server.strategy}', not {given}; "
            "continue it without optimizer"
        )
    foundations.keep(server_optimizer=given)


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
