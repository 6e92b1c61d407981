"""What the commands do, from Python: ``fedfmd.simulate(config)`` gives a result with data frames."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfmd.aggregation import ServerOptimizer
from fedfmd.config.experiment import (
    CENTRAL_ALONE,
    FEDERATED_ALONE,
    ExperimentConfig,
    Overrides,
    check_asked,
    make_config,
)
from fedfmd.errors import InputWarning, UserError
from fedfmd.launch import Launch, OnRound, launching
from fedfmd.machine.processes import available_cores
from fedfmd.nn.model_file import load_model as load_model
from fedfmd.records import filenames
from fedfmd.records.documents import Ending, RunSummary, TrainSummary, figures_of
from fedfmd.records.logbook import check_installed, open_logbook
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.records.unfinished import check_free
from fedfmd.results.runs import changed_files, changed_notes
from fedfmd.rounds.divergence import DivergenceWatch
from fedfmd.rounds.engine import ignore_round
from fedfmd.rounds.lifecycle import start_run
from fedfmd.rounds.limits import check_machine
from fedfmd.rounds.resumption import open_interrupted
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.rounds import RunProgress

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from fedfmd.central.run import TrainDirectory
    from fedfmd.studies.runner import RunOutcome


@dataclass(frozen=True, repr=False)
class _RunResult:
    """What a run leaves, federated or central."""

    directory: RunDirectory
    summary: Json
    """Empty for a run that is still going, or was killed."""

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    def load_model(self) -> "nn.Module":
        """Load the final network as it was measured last; see ``fedfmd.load_model``."""
        return load_model(self.path)

    def report(self) -> Path:
        """Write the report and give its path."""
        return report(self.path)

    def __repr__(self) -> str:
        """Return what a prompt shows: where it is, and how it ended."""
        return f"{type(self).__name__}({str(self.path)!r}, {self.summary.get('status') or 'not ended'})"


@dataclass(frozen=True, repr=False)
class Result(_RunResult):
    """A run: finished, or as far as it got. A notebook shows it as a table and a plot."""

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """One row per round, the index its number; nested figures as columns such as ``cumulative.macs``."""
        return _frame(self.directory.rounds(), "round")

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """One row a client and round; the plan and the budget as columns such as ``plan.width``."""
        return _frame(self.directory.clients())

    @cached_property
    def evaluations(self) -> "pd.DataFrame":
        """One row per round, client and model that it measured on its own images."""
        return _frame(self.directory.evaluations())

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from fedfmd.pages.notebook import run_html

        return run_html(str(self.path), self.summary, self.directory.rounds(), "round")


@dataclass(frozen=True, repr=False)
class TrainResult(_RunResult):
    """A run of centralised training. A notebook shows it as a table and a plot."""

    directory: "TrainDirectory"

    @cached_property
    def epochs(self) -> "pd.DataFrame":
        """One row an epoch, the index its number."""
        return _frame(self.directory.epochs(), "epoch")

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from fedfmd.pages.notebook import run_html

        return run_html(str(self.path), self.summary, self.directory.epochs(), "epoch")


@dataclass(frozen=True)
class StudyResult:
    """A study whose runs have ended, finished or failed. A notebook shows it as a table."""

    folder: Path
    outcomes: "tuple[RunOutcome, ...]"
    """What became of each run, in the order of the study."""

    @cached_property
    def runs(self) -> dict[str, Result]:
        """The runs that finished, by the name of their folder."""
        done = [outcome.folder for outcome in self.outcomes if outcome.status != "failed"]
        return {name: _opened(self.folder / filenames.RUNS / name) for name in done}

    @cached_property
    def table(self) -> "pd.DataFrame":
        """One row a finished run: its arm, its seed and its summary."""
        import pandas as pd

        rows = [
            {"arm": outcome.arm, "seed": outcome.seed, **figures_of(self.runs[outcome.folder].summary)}
            for outcome in self.outcomes
            if outcome.folder in self.runs
        ]
        return pd.json_normalize(rows)

    @property
    def page(self) -> Path:
        """The study's report."""
        return self.folder / filenames.REPORT

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from fedfmd.pages.notebook import table_html

        keys = ("arm", "seed", "status", "reason")
        return table_html(str(self.folder), [{k: getattr(o, k) for k in keys} for o in self.outcomes])


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
    any work, and ``RunError`` for a run that stopped. In a notebook a bar shows how far it is.

    Examples:
        >>> result = fedfmd.simulate("experiment.toml", overrides={"server.rounds": 5})
        >>> result.rounds["top1"]
    """
    check_asked(overrides, CENTRAL_ALONE, "fedfmd.train")
    settings = make_config(config, overrides)
    check_installed(settings.logging)
    _check_optimizer(settings, optimizer)
    if out is not None:
        check_free(Path(out))
    with launching(settings.backend) as launch:
        source = f"{config}: " if isinstance(config, str | Path) else ""
        directory = start_run(settings, Path(out) if out else None, source=source)
        return run(directory, launch, *([on_round] if on_round else []), optimizer=optimizer)


def resume(
    path: str | Path,
    *,
    overrides: Overrides = (),
    accept: bool = False,
    on_round: OnRound | None = None,
    optimizer: ServerOptimizer | None = None,
) -> Result:
    """Continue an interrupted run directory to its end.

    ``overrides`` may set more ``server.rounds``; other changes, and parts that have changed, are taken with
    ``accept``. ``optimizer`` is the server optimiser that was given to ``simulate``, made as it was then.
    Raises ``UserError`` where it is missing, or is another one.

    Examples:
        >>> fedfmd.resume("runs/quickstart", overrides={"server.rounds": 20})
    """
    check_asked(overrides, CENTRAL_ALONE, "fedfmd.train")
    directory = open_interrupted(Path(path), overrides, accept=accept)
    if directory.complete():
        raise UserError(f"{path}: this run is finished; there is nothing to continue")
    _check_optimizer(directory.config, optimizer)
    with launching(directory.config.backend) as launch:
        return run(directory, launch, *([on_round] if on_round else []), optimizer=optimizer)


def load_run(path: str | Path) -> Result | TrainResult:
    """Return a run from its directory, as far as it got; raises ``UserError`` where there is none.

    Examples:
        >>> fedfmd.load_run("runs/quickstart").rounds["top1"].max()
    """
    from fedfmd.central.run import TrainDirectory

    folder = Path(path)
    if filenames.holds_central_run(folder):
        directory = TrainDirectory(folder)
        summary = directory.summary() or {}
        _tell_changes(folder, TrainSummary.partly(summary)[0])
        return TrainResult(directory, summary)
    return _opened(folder)


def train(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    on_epoch: OnRound | None = None,
) -> TrainResult:
    """Train centrally to the end, with all images in one place, in this process.

    The arguments are those of ``simulate``; ``on_epoch`` hears every row of ``epochs.jsonl``. Raises
    ``UserError`` for bad input, before any work, and ``RunError`` for a run that stopped.

    Examples:
        >>> fedfmd.train("train.toml", overrides={"train.epochs": 2}).epochs["top1"]
    """
    from fedfmd.central.run import start_training
    from fedfmd.central.run import train as train_centrally
    from fedfmd.central.world import World

    check_asked(overrides, FEDERATED_ALONE, "fedfmd.simulate")
    world = World()
    directory = start_training(make_config(config, overrides), Path(out) if out else None, world)
    return TrainResult(directory, train_centrally(directory, world, _no_step, on_epoch or ignore_round))


def study(
    config: str | Path,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    jobs: int | None = None,
) -> StudyResult:
    """Run a study's file, or continue the study in ``out``, and write its tables, figures and report.

    ``overrides`` change keys of the file, or set keys of the experiment in every arm, as ``simulate``'s do.
    ``out`` is the folder, by default ``studies/NAME``; ``jobs`` is how many runs go on at a time, by default
    one a core. A failed run stops no other, and is in ``outcomes``. Raises ``UserError`` for bad input.

    Examples:
        >>> fedfmd.study("study.toml").table.groupby("arm")["final_top1"].mean()
    """
    from fedfmd.studies.course import Witness, bring_to_end
    from fedfmd.studies.plan import load_study

    planned = load_study(Path(config), overrides)
    folder = Path(out) if out else Path(filenames.STUDIES) / planned.name
    ended = bring_to_end(planned, folder, jobs, Witness())
    if any(outcome.status != "failed" for outcome in ended.outcomes):
        from fedfmd.pages.study.output import write_study  # brings the plotting libraries

        write_study(ended.study, folder, ended.outcomes, ended.tunings)
    return StudyResult(folder, tuple(ended.outcomes))


def profile(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    batch_sizes: Sequence[int] = (32,),
    repeats: int = 0,
) -> "pd.DataFrame":
    """Return what the network of an experiment costs, beside the static one: a row for each.

    Parameters, MACs and bytes are counted; ``repeats`` above 0 also measures seconds and memory here.
    ``config`` is as for ``simulate``, or a file of ``[[models]]``. Raises ``UserError`` for bad input.

    Examples:
        >>> fedfmd.profile("experiment.toml")[["label", "parameters", "forward_macs"]]
    """
    import pandas as pd

    from fedfmd.profiling.profile import analyse, measure
    from fedfmd.profiling.variants import Task, read_models, task_of

    if isinstance(config, str | Path):
        models, task = read_models(Path(config))
    else:
        settings = make_config(config)
        models, task = [settings.model], task_of(settings)
    made = analyse(models, task or Task(), batch_sizes, device="cpu")
    if repeats:
        made = measure(made, repeats=repeats, threads=available_cores(), tell=lambda _: None)
    return pd.json_normalize(made.to_json()["models"])


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run, or one that compares several, and return the path of its page.

    ``out`` is the page, or a folder for it. Raises ``UserError`` for what is no run.

    Examples:
        >>> fedfmd.report("runs/one", "runs/two", out="comparison")
    """
    from fedfmd.pages.report import write_report  # brings the plotting libraries

    return write_report([Path(run) for run in runs], Path(out) if out else None)


def run(
    directory: RunDirectory,
    launch: Launch,
    *listeners: OnRound,
    optimizer: ServerOptimizer | None = None,
) -> Result:
    """Run a new or interrupted run directory to its end; the logbooks of its config listen, too."""
    config = directory.config
    check_machine(config)
    with ExitStack() as stack:
        stack.callback(directory.unlock)
        checkpoint = directory.recover()
        book = stack.enter_context(
            open_logbook(
                directory.path,
                config,
                config.logging,
                last_round=checkpoint.round if checkpoint else -1,
            )
        )
        watch = DivergenceWatch(directory.rounds())
        bar = stack.enter_context(_notebook_bar(directory)).on_round

        def tell(row: Json) -> None:
            for listener in (book.on_round, watch.on_round, bar, *listeners):
                listener(row)

        return Result(directory, launch(directory, tell, optimizer))


@contextmanager
def _notebook_bar(directory: RunDirectory) -> Iterator[RunProgress]:
    """Show how far a run is, where that is a notebook's cell."""
    console = PlainConsole()
    shown = console if console.is_jupyter else PlainConsole(quiet=True)
    with RunProgress(shown, directory.config.server.rounds, directory.rounds_done()) as progress:
        yield progress


def _opened(path: Path) -> Result:
    directory = RunDirectory.open(path)
    summary = directory.summary() or {}
    _tell_changes(path, RunSummary.partly(summary)[0])
    return Result(directory, summary)


def _tell_changes(folder: Path, ending: Ending) -> None:
    for note in changed_notes(changed_files(folder, ending)):
        warnings.warn(f"{folder}: {note}", InputWarning, stacklevel=4)


def _frame(rows: Sequence[Json], index: str | None = None) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.json_normalize(list(rows))
    return frame.set_index(index) if index else frame


def _no_step(epoch: int, seen: int) -> None:
    """Listen to no step."""
    del epoch, seen


def _check_optimizer(config: ExperimentConfig, optimizer: ServerOptimizer | None) -> None:
    if optimizer is not None and config.backend.kind != "inline":
        raise UserError(
            f"backend.kind = '{config.backend.kind}': an optimizer from Python serves this process only; "
            "needs backend.kind = 'inline'"
        )
