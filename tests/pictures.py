"""The images of a deployment, as its folder holds them, for tests that need no more of it."""

from pathlib import Path

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.data.configured import partition_data, prepare_data
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.setup import save_pictures


def write_pictures(folder: Path, config: ExperimentConfig) -> None:
    """Write the sets of the server, and of each client, of an experiment into ``folder``."""
    whole = open_prepared(prepare_data(config))
    save_pictures(folder, whole, partition_data(config, whole.train_labels, whole.owners))
