"""What ``fedfmd train`` does once its arguments are read, in each process of the world."""

from collections.abc import Sequence
from pathlib import Path

from fedfmd.building import training_cut_off
from fedfmd.central.run import TrainDirectory, open_training, start_training, train, validation_indices
from fedfmd.central.world import World
from fedfmd.cli.voice import errors
from fedfmd.config.experiment import FEDERATED_ALONE, check_asked, load_config
from fedfmd.data.configured import prepare_data
from fedfmd.data.prepared import open_prepared
from fedfmd.errors import UserError
from fedfmd.records.schema import Json
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.training import TrainProgress


def find_run(
    world: World,
    config: Path | None,
    overrides: Sequence[str],
    out: Path | None,
    resume: Path | None,
    *,
    accept: bool = False,
) -> TrainDirectory:
    """Make the run directory of ``config``, or open the one to ``resume``; the same one in every process."""

    def find() -> Path:
        check_asked(overrides, FEDERATED_ALONE, "fedfmd simulate")
        if resume is not None or config is None:
            return open_training(resume or Path(), overrides, accept=accept).path
        settings = load_config(config, overrides)
        if settings.train is None:
            raise UserError(
                f"{config}: has no section [train], which says how to train centrally; add one, as in "
                "configs/train-embedded.toml, or --set train.epochs=10"
            )
        return start_training(settings, out, world).path

    return TrainDirectory(world.led(find))


def train_shown(directory: TrainDirectory, world: World, console: PlainConsole) -> Json:
    """Train the run to its end while showing its progress; returns the summary (the leader's alone)."""
    checkpoint = directory.load_checkpoint()
    _, trained = validation_indices(directory.config, open_prepared(prepare_data(directory.config)))
    done = checkpoint.round if checkpoint else 0
    steps_per_epoch = max(1, -(-len(trained) // directory.recipe.batch_size))
    if said := training_cut_off(directory.config, steps_per_epoch):
        errors.say(f"note: {said}")
    with TrainProgress(console, directory.recipe.epochs, len(trained), done) as progress:
        return train(directory, world, progress.on_step, progress.on_epoch)
