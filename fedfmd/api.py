"""Federated runs from Python: ``fedfmd.simulate(config)`` gives a result with data frames."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfmd.aggregation import ServerOptimizer
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, Overrides, make_config
from fedfmd.errors import UserError
from fedfmd.nn.model_file import load_model as load_model
from fedfmd.records.logbook import check_installed, open_logbook
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.divergence import DivergenceWatch
from fedfmd.rounds.lifecycle import InlineExecutor, execute, start_run
from fedfmd.rounds.limits import check_machine

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

OnRound = Callable[[Json], None]


@dataclass(frozen=True)
class Result:
    """A finished run."""

    directory: RunDirectory
    summary: Json

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """One row a round, the index its number; nested figures as columns such as ``cumulative.macs``."""
        import pandas as pd

        return pd.json_normalize(self.directory.rounds()).set_index("round")

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """One row a client and round; the plan and the budget as columns such as ``plan.width``."""
        import pandas as pd

        return pd.json_normalize(self.directory.clients())

    def load_model(self) -> "nn.Module":
        """Load the final network as it was measured last; see ``fedfmd.load_model``."""
        return load_model(self.path)

    def report(self) -> Path:
        """Write the report and give its path."""
        from fedfmd.pages.report import write_report

        return write_report([self.path])


def simulate(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    on_round: OnRound | None = None,
    optimizer: ServerOptimizer | None = None,
) -> Result:
    """Run an experiment to its end.

    ``config`` is an experiment, the content of one, or its file. ``overrides`` change it: nested or dotted
    keys with values, as ``{"server.rounds": 5}``, or texts, as ``["server.rounds=5"]``.
    ``out`` is the run directory to make, by default ``runs/NAME``; ``on_round`` hears every row of
    ``rounds.jsonl``; ``optimizer`` takes the place of the one that ``server.strategy`` names, in this process
    (``backend.kind = "inline"``), and ``resume`` needs it again. Raises ``UserError`` for bad input, before
    any work, and ``RunError`` for a run that stopped.
    """
    settings = make_config(config, overrides)
    check_logging(settings)
    _check_optimizer(settings, optimizer)
    directory = start_run(settings, Path(out) if out else None)
    return run(directory, *([on_round] if on_round else []), optimizer=optimizer)


def resume(
    path: str | Path, *, on_round: OnRound | None = None, optimizer: ServerOptimizer | None = None
) -> Result:
    """Continue an interrupted run directory to its end.

    ``optimizer`` is the server optimiser that was given to ``simulate``, made as it was then. Raises
    ``UserError`` where it is missing, or is another one.
    """
    directory = RunDirectory.open(Path(path))
    if directory.finished():
        raise UserError(f"{path}: this run is finished; there is nothing to continue")
    _check_optimizer(directory.config, optimizer)
    return run(directory, *([on_round] if on_round else []), optimizer=optimizer)


def run(directory: RunDirectory, *listeners: OnRound, optimizer: ServerOptimizer | None = None) -> Result:
    """Run a new or interrupted run directory to its end; the logbooks of its config listen, too."""
    config = directory.config
    check_machine(config)
    options = config.logging.model_dump()
    with ExitStack() as stack:
        stack.callback(directory.unlock)
        checkpoint = directory.recover()
        book = stack.enter_context(
            open_logbook(
                directory.path,
                name=config.name,
                config=applied(config),
                last_round=checkpoint.round if checkpoint else -1,
                **options,
            )
        )

        watch = DivergenceWatch(directory.rounds())

        def tell(row: Json) -> None:
            for listener in (book.on_round, watch.on_round, *listeners):
                listener(row)

        return Result(directory, _execute(directory, tell, optimizer))


def _execute(directory: RunDirectory, on_round: OnRound, optimizer: ServerOptimizer | None) -> Json:
    if directory.config.backend.kind == "inline":
        return execute(directory, InlineExecutor, on_round, optimizer=optimizer)
    from fedfmd.flower.simulation import launch  # the shell around the core; it brings Flower

    return launch(directory, on_round)


def _check_optimizer(config: ExperimentConfig, optimizer: ServerOptimizer | None) -> None:
    if optimizer is not None and config.backend.kind != "inline":
        raise UserError(
            f"backend.kind = '{config.backend.kind}': an optimizer from Python serves this process only; "
            "needs backend.kind = 'inline'"
        )


def check_logging(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for a logbook that is asked for and not installed."""
    check_installed(wandb=config.logging.wandb, mlflow=config.logging.mlflow)
