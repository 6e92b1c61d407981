"""Start, continue and finish a run directory; the in-process executor, oracle of the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from fedfmd.config import ExperimentConfig
from fedfmd.controls import with_control
from fedfmd.data import Dataset, Partition, make_partition, open_prepared, prepare
from fedfmd.devices import check_devices
from fedfmd.environment import available_cores, describe_environment
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.machine import check_machine
from fedfmd.process import prepare_process
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.dispatch import Executor
from fedfmd.rounds.engine import FederatedRun, ignore_round
from fedfmd.training.evaluation import Evaluation
from fedfmd.training.worker import Worker
from fedfmd.wire.packages import Reply, WorkOrder

MAX_COUNTED_CLIENTS = 10_000
"""Up to this population the manifest says who has how many of each class."""
MAX_COUNTED_SAMPLES = 100_000_000


class InlineExecutor:
    """A plain loop in this process."""

    workers = 1

    def __init__(self, experiment: Experiment):
        prepare_process(experiment.config.backend.threads)
        self.worker = Worker(experiment)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Run the orders one after another."""
        for order in orders:
            yield Reply(order=order, result=self.worker.train(order, vector))

    def evaluate(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Evaluation]:
        """Evaluate the groups one after another."""
        for order in orders:
            yield self.worker.evaluate(order, vector)


def resolve(config: ExperimentConfig) -> ExperimentConfig:
    """Fill in what the config leaves open: the machine's workers, and the rounds that schedules refer to."""
    backend, server = config.backend, config.server
    workers = None if backend.kind == "inline" else backend.workers or available_cores()
    return config.model_copy(
        update={
            "backend": backend.model_copy(update={"workers": workers}),
            "server": server.model_copy(update={"horizon": server.horizon_rounds}),
        }
    )


def prepare_data(config: ExperimentConfig) -> Path:
    """Make the pictures ready to be memory-mapped; raises ``UserError`` when they are not there."""
    d = config.data
    return prepare(
        d.name,
        root=Path(d.root),
        classes=d.classes,
        image_size=d.image_size,
        train_samples=d.train_samples,
        test_samples=d.test_samples,
        seed=config.seed,
    )


def open_data(config: ExperimentConfig) -> Dataset:
    """Prepare and open the images as the network sees them; raises ``UserError`` when they are not there."""
    return open_prepared(prepare_data(config)).seen_at(config.data.resized_crop)


def partition_data(config: ExperimentConfig, labels: Tensor) -> Partition:
    """Spread the training pictures, by their ``labels`` int64 (N,), over the clients."""
    p = config.partition
    return make_partition(
        labels,
        scheme=p.scheme,
        clients=p.clients,
        seed=config.seed,
        alpha=p.alpha,
        min_size=p.min_size,
        self_balancing=p.self_balancing,
        shards_per_client=p.shards_per_client,
        samples_per_client=p.samples_per_client,
        validation=p.validation,
    )


def start_run(config: ExperimentConfig, out: Path) -> RunDirectory:
    """Check everything, then make the run directory: nothing exists before all input was found good."""
    settings = resolve(config)
    check_machine(settings)
    check_devices(settings)
    dataset = open_data(settings)
    resolved = with_control(settings, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    partition = partition_data(resolved, dataset.train_labels)
    manifest = partition.manifest()
    if partition.num_clients <= MAX_COUNTED_CLIENTS and partition.sizes.sum() <= MAX_COUNTED_SAMPLES:
        counts = partition.label_counts(dataset.train_labels, dataset.num_classes)
        manifest["label_counts"] = counts.tolist()
    directory = RunDirectory.create(out, resolved, describe_environment())
    partition.save(directory.partition_file)
    directory.write_json("partition.json", manifest)
    return directory


def open_experiment(directory: RunDirectory) -> Experiment:
    """Give the experiment of a run directory."""
    config = directory.config
    return Experiment(
        config,
        dataset_file=prepare_data(config).resolve(),
        partition_file=directory.partition_file.resolve(),
        state_folder=directory.state_folder.resolve(),
    )


def execute(
    directory: RunDirectory,
    make_executor: Callable[[Experiment], Executor],
    on_round: Callable[[Json], None] = ignore_round,
    open_directory: Callable[[RunDirectory], Experiment] = open_experiment,
) -> Json:
    """Run a new or interrupted run directory to its end; returns the summary.

    Raises ``RunError`` when it cannot go on; the reason is then in ``summary.json``, too.
    """
    directory.lock()
    (directory.path / "summary.json").unlink(missing_ok=True)
    run = None
    try:
        checkpoint = directory.load_checkpoint()
        directory.rewind(checkpoint)
        experiment = open_directory(directory)
        run = FederatedRun(experiment, directory, make_executor(experiment), on_round)
        return run.run(checkpoint)
    except (RunError, OSError) as error:
        with suppress(OSError):
            directory.stop(str(error), run.spent.to_json() if run else None)
        raise RunError(f"{directory.path}: {error}") from error
    finally:
        directory.unlock()


def free_run_folder(name: str, root: Path = Path("runs")) -> Path:
    """Give ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3`` ... that does not exist yet."""
    candidates = (root / (name if n == 1 else f"{name}-{n}") for n in range(1, 100_000))
    try:
        return next(path for path in candidates if not path.exists())
    except StopIteration:
        raise UserError(f"{root}: holds too many runs named {name}; choose another --out") from None
