"""Each round's figures, copied to TensorBoard, Weights & Biases or MLflow as the run goes.

The ledgers of the run directory stay the only source: no part of the program reads a logbook. All of it works
without a network: W&B is offline unless WANDB_MODE says otherwise, and MLflow writes a database into the run
directory unless MLFLOW_TRACKING_URI names a server.
"""

import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.logging import LoggingConfig
from fedfmd.contracts import blamed, make
from fedfmd.errors import RunError, UserError
from fedfmd.files import write_atomic
from fedfmd.records.runlog import LOGGER
from fedfmd.records.schema import Json
from fedfmd.registry import register

PACKAGES = {"wandb": "W&B", "mlflow": "MLflow"}
"""Import names, which are also the names of the extras and of the keys in `[logging]`."""
KEPT_RUN = "logbook-run"
"""File of the run directory with MLflow's name of the run, so that a resumed run goes on in it."""

_SECOND_MADE = re.compile(r"tfevents\.(\d+)\.")


class Page(Protocol):
    """One place that figures go to."""

    def write(self, round: int, figures: Mapping[str, float]) -> None:
        """Add a round's figures."""
        ...

    def close(self) -> None:
        """Write out what is left."""
        ...


class Logbook:
    """Hand ``on_round`` every round's row; use it in a ``with``."""

    def __init__(self, *pages: Page, step: str = "round"):
        self.pages, self.step = pages, step

    def __enter__(self) -> Self:
        """Nothing to do: the pages are open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all pages; of what goes wrong, the first is raised, and that of a round comes before it."""
        faults = list[RunError]()
        for page in self.pages:
            try:
                with blamed(f"logging: {type(page).__qualname__}.close fails", RunError):
                    page.close()
            except RunError as fault:
                LOGGER.debug("%s", fault)
                faults.append(fault)
        if faults and error is None:
            raise faults[0]

    def on_round(self, row: Json) -> None:
        """Write a row of the ledger to every page."""
        figures = dict(scalars(row))
        round = int(figures.pop(self.step))
        for page in self.pages:
            with blamed(f"logging: {type(page).__qualname__}.write fails", RunError):
                page.write(round, figures)


def open_logbook(
    folder: Path,
    config: ExperimentConfig,
    logging: LoggingConfig,
    *,
    last_round: int = -1,
    step: str = "round",
) -> Logbook:
    """Open a run's logbook in its ``folder``, on the pages that ``logging`` asks for.

    ``last_round`` is the checkpoint's: later rounds that a killed run wrote are dropped from TensorBoard.
    TensorBoard is left out where it is not installed; the others raise ``UserError`` (``check_installed``).
    A logger of one's own is called with those of ``folder, name, config, last_round`` and of its options that
    it takes, and makes a ``Page``. ``step`` is the key that numbers the rows.
    """
    check_installed(logging)
    built_in = [name for name in logging.switched_on if _installed(name)]
    given = {"folder": folder, "name": config.name, "config": applied(config), "last_round": last_round}
    given |= config.own("logger")
    return Logbook(*(make("logger", named, **given) for named in [*built_in, *logging.loggers]), step=step)


def check_installed(logging: LoggingConfig) -> None:
    """Raise ``UserError`` for what is asked for and missing; call it before a run directory is made."""
    for name in logging.switched_on:
        if name in PACKAGES and not _installed(name):
            raise UserError(
                f"logging.{name} = true: {PACKAGES[name]} is not installed; "
                f"pip install 'fedfmd[{name}]', or set it to false"
            )


def scalars(document: Json) -> Iterator[tuple[str, float]]:
    """Yield all numbers of nested tables and lists, named by their path: `cumulative/macs`."""
    for name, value in leaves(document):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def leaves(document: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what nested tables and lists hold, named by its path."""
    for key, value in document.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, Mapping):
            yield from leaves(inner, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", inner


@register("logger", "tensorboard")
class _TensorBoard:
    def __init__(self, folder: Path, last_round: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        files = folder / "tensorboard"
        _wait_for_a_later_second(files)
        self.writer = SummaryWriter(files, purge_step=last_round + 1)

    def write(self, round: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, round)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _wait_for_a_later_second(files: Path) -> None:
    """Wait until a new file of events sorts behind those in ``files``; at most a second.

    TensorBoard reads files in the order of their names, which begin with the second in which each was made
    and go on with numbers compared as text: of two made in one second, the later may be read first.
    """
    seconds = [int(found[1]) for file in files.glob("*") if (found := _SECOND_MADE.search(file.name))]
    newest = max(seconds, default=0)
    while int(time.time()) == newest:
        time.sleep(0.05)


@register("logger", "wandb")
class _WandB:
    def __init__(self, folder: Path, name: str, config: Json):
        import wandb  # type: ignore[import-not-found,unused-ignore]

        os.environ.setdefault("WANDB_MODE", "offline")
        self.run = wandb.init(
            project="fedfmd", name=name, dir=folder, config=config, settings=wandb.Settings(silent=True)
        )

    def write(self, round: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=round)

    def close(self) -> None:
        self.run.finish()


@register("logger", "mlflow")
class _MLflow:
    def __init__(self, folder: Path, name: str, config: Json):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient  # type: ignore[import-not-found,unused-ignore]

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self.client = MlflowClient(uri)
        self.run = self._earlier_run(folder) or self._new_run(folder, name, config)

    def _earlier_run(self, folder: Path) -> str | None:
        kept = folder / KEPT_RUN
        return kept.read_text(encoding="utf-8") if kept.is_file() else None

    def _new_run(self, folder: Path, name: str, config: Json) -> str:
        found = self.client.get_experiment_by_name("fedfmd")
        experiment = found.experiment_id if found else self._new_experiment(folder)
        run = str(self.client.create_run(experiment, run_name=name).info.run_id)
        for key, value in leaves(config):
            self.client.log_param(run, key, value)
        write_atomic(folder / KEPT_RUN, run)
        return run

    def _new_experiment(self, folder: Path) -> str:
        place = (folder / "mlruns").resolve().as_uri()
        return str(self.client.create_experiment("fedfmd", artifact_location=place))

    def write(self, round: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # type: ignore[import-not-found,unused-ignore]

        now = int(1000 * time.time())
        self.client.log_batch(self.run, [Metric(name, value, now, round) for name, value in figures.items()])

    def close(self) -> None:
        self.client.set_terminated(self.run)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
