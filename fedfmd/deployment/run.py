"""Start and continue a run whose clients are real: the server has a test set, and counts of examples."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.data import open_prepared
from fedfmd.deployment.experiment import DeployedExperiment, declared_partition
from fedfmd.devices import check_devices
from fedfmd.devices.participant import Host
from fedfmd.errors import UserError
from fedfmd.machine.environment import describe_environment
from fedfmd.planning.controls import control_match, with_control
from fedfmd.records.rundir import CONTROL_FILE, RunDirectory
from fedfmd.rounds.lifecycle import resolve


def start_deployed_run(
    config: ExperimentConfig,
    out: Path,
    server_data: Path,
    sizes: Mapping[int, int],
    held: Mapping[int, int] = MappingProxyType({}),
) -> RunDirectory:
    """Make the run directory; ``sizes`` and ``held`` are what the clients said that they train and test on.

    ``server_data`` holds the test set.
    """
    if config.privacy.masks == "counted":
        raise UserError("privacy.masks = 'counted': real clients always mask; leave it out")
    check_devices(config)
    check_algorithms(config)
    _check_private(config)
    data = open_prepared(server_data, check=True).seen_at(config.data.resized_crop)
    resolved = with_control(resolve(config), input_shape=data.input_shape, num_classes=data.num_classes)
    check_algorithms(resolved)
    match = control_match(config, input_shape=data.input_shape, num_classes=data.num_classes)
    shares = declared_partition(
        resolved.partition.clients, sizes, validation=len(data.train_labels), held=held
    )
    with RunDirectory.making(out, resolved, describe_environment()) as directory:
        directory.write_json("partition.json", shares.manifest())
        if match:
            directory.write_json(CONTROL_FILE, match.to_json())
    return directory


def _check_private(config: ExperimentConfig) -> None:
    """Raise ``UserError`` where a model could be seen, and after a crash be made again with other noise."""
    if config.privacy.dp == "none":
        return
    told = "its noise is never drawn twice, so no model may be seen before its checkpoint"
    if config.server.checkpoint_every > 1:
        raise UserError(
            f"server.checkpoint_every = {config.server.checkpoint_every}: privacy.dp needs 1: {told}"
        )
    if config.measuring_clients:
        raise UserError(f"evaluation.clients, partition.holdout: not with privacy.dp on real clients: {told}")


def open_deployed_experiment(
    directory: RunDirectory,
    server_data: Path,
    sizes: Mapping[int, int],
    hosts: Mapping[int, Host],
    held: Mapping[int, int] = MappingProxyType({}),
) -> DeployedExperiment:
    """Give the server's side of the experiment."""
    config = directory.config
    kept = len(open_prepared(server_data).train_labels)
    return DeployedExperiment(
        config,
        dataset_file=server_data.resolve(),
        partition_file=directory.partition_file.resolve(),
        state_folder=directory.state_folder.resolve(),
        shares=declared_partition(config.partition.clients, sizes, validation=kept, held=held),
        hosts=hosts,
    )
