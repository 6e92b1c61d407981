"""Federated runs from Python: ``fedfmd.simulate(config)`` gives a result with data frames."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfmd.conditions import applied
from fedfmd.config import ExperimentConfig, Overrides, make_config
from fedfmd.machine import check_machine
from fedfmd.nn.model_file import load_model as load_model
from fedfmd.records.logbook import check_installed, open_logbook
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.runs import InlineExecutor, execute, start_run

if TYPE_CHECKING:
    import pandas as pd

    from fedfmd.nn import ResNet

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

        lines = (self.path / "clients.jsonl").read_text(encoding="utf-8").splitlines()
        return pd.json_normalize([json.loads(line) for line in lines])

    def load_model(self) -> "ResNet":
        """Load the final network as it was measured last; see ``fedfmd.load_model``."""
        return load_model(self.path)

    def report(self) -> Path:
        """Write the report and give its path."""
        from fedfmd.report import write_report

        return write_report([self.path])


def simulate(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    on_round: OnRound | None = None,
) -> Result:
    """Run an experiment to its end.

    ``config`` is an experiment, the content of one, or its file. ``overrides`` change it: nested or dotted
    keys with values, as ``{"server.rounds": 5}``, or texts, as ``["server.rounds=5"]``.
    ``out`` is the run directory to make, by default ``runs/NAME``; ``on_round`` hears every row of
    ``rounds.jsonl``. Raises ``UserError`` for bad input, before any work, and ``RunError`` for a run that
    stopped.
    """
    settings = make_config(config, overrides)
    check_logging(settings)
    directory = start_run(settings, Path(out) if out else None)
    return run(directory, *([on_round] if on_round else []))


def run(directory: RunDirectory, *listeners: OnRound) -> Result:
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

        def tell(row: Json) -> None:
            for listener in (book.on_round, *listeners):
                listener(row)

        return Result(directory, _execute(directory, tell))


def _execute(directory: RunDirectory, on_round: OnRound) -> Json:
    if directory.config.backend.kind == "inline":
        return execute(directory, InlineExecutor, on_round)
    from fedfmd.flower.simulation import launch  # the shell around the core; it brings Flower

    return launch(directory, on_round)


def check_logging(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for a logbook that is asked for and not installed."""
    check_installed(wandb=config.logging.wandb, mlflow=config.logging.mlflow)
