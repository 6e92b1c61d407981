"""Start and continue a run whose clients are real: the server has a test set, and counts of examples."""

from collections.abc import Iterator
from pathlib import Path

from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig, name_from
from fedfmd.data.agreement import Normalisation
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.assignment import check_told
from fedfmd.deployment.experiment import DeployedExperiment, Roll
from fedfmd.devices import check_devices
from fedfmd.errors import UserError
from fedfmd.machine.environment import describe_environment
from fedfmd.planning.controls import control_match, with_control
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.lifecycle import resolve


def start_deployed_run(
    config: ExperimentConfig, out: Path, server_data: Path, roll: Roll, statistics: Json | None = None
) -> RunDirectory:
    """Make the run directory; ``roll`` are the clients that have come.

    ``server_data`` holds the test set, and ``statistics`` what the clients have agreed on.
    """
    check_deployable(config)
    data = open_prepared(server_data, check=True).seen_at(config.data.resized_crop)
    named = resolve(config).model_copy(update={"name": name_from(out)})  # as it was asked for and is reported
    resolved = with_control(named, input_shape=data.input_shape, num_classes=data.num_classes)
    check_algorithms(resolved)
    match = control_match(config, input_shape=data.input_shape, num_classes=data.num_classes)
    with RunDirectory.making(out, resolved, describe_environment()) as directory:
        directory.write_json(filenames.PARTITION, roll.shares.manifest())
        if statistics:
            directory.write_json(filenames.STATISTICS, statistics)
        if match:
            directory.write_json(filenames.CONTROL, match.to_json())
    return directory


def check_deployable(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for what goes with no real clients, a line for each problem."""
    if faults := list(_unfit_for_clients(config)):
        raise UserError("\n".join(faults))
    check_told(config)
    check_devices(config)
    check_algorithms(config)


def _unfit_for_clients(config: ExperimentConfig) -> Iterator[str]:
    """Say what is of simulations alone, and where a model could be seen, and made again with other noise."""
    if config.privacy.masks == "counted":
        yield "privacy.masks = 'counted': real clients always mask; leave it out"
    if config.privacy.dp == "none":
        return
    told = "its noise is never drawn twice, so no model may be seen before its checkpoint"
    if config.server.checkpoint_every > 1:
        yield f"server.checkpoint_every = {config.server.checkpoint_every}: privacy.dp needs 1: {told}"
    if config.measuring_clients:
        yield f"evaluation.clients, partition.holdout: not with privacy.dp on real clients: {told}"


def open_deployed_experiment(directory: RunDirectory, server_data: Path, roll: Roll) -> DeployedExperiment:
    """Give the server's side of the experiment, as the run was begun."""
    return DeployedExperiment(
        directory.config,
        dataset_file=server_data.resolve(),
        partition_file=directory.partition_file.resolve(),
        state_folder=directory.state_folder.resolve(),
        roll=roll,
        normalisation=normalisation_in(directory.path / filenames.STATISTICS),
    )


def normalisation_in(file: Path) -> Normalisation | None:
    """Read what the clients have agreed on; null where there is no such file."""
    return Normalisation.read(file) if file.is_file() else None
