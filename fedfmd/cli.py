"""The command line. It parses, calls and prints; what it calls knows nothing of it."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedfmd.deploy.command import app as deploy
from fedfmd.errors import RunError, UserError

if TYPE_CHECKING:  # imported where needed, so that --help does not wait for torch
    from fedfmd.config import ExperimentConfig
    from fedfmd.records.rundir import RunDirectory

app = typer.Typer(
    help="Federated learning of dynamic-convolution networks under client resource limits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data = typer.Typer(help="Fetch and look at data and partitions.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(deploy, name="deploy")

console = Console()
errors = Console(stderr=True)

DEFAULT_CONFIG = Path("configs/quickstart.toml")
Config = Annotated[Path, typer.Argument(help="Experiment file (TOML).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, as in `server.rounds=5`; repeatable."),
]


class Backend(StrEnum):
    """Where clients are computed."""

    ray = "ray"
    inline = "inline"


@app.command()
def simulate(
    config: Annotated[Path | None, typer.Argument(help=f"Experiment file; default {DEFAULT_CONFIG}.")] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run directory.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Instead of the config's `backend.kind`.")] = None,
    workers: Annotated[int | None, typer.Option(help="Instead of the config's `backend.workers`.")] = None,
) -> None:
    """Run a federated experiment and write its report.

    Example: `fedfmd simulate configs/quickstart.toml --set server.rounds=5 --out runs/first`
    """
    from fedfmd.api import check_logging
    from fedfmd.records.rundir import RunDirectory
    from fedfmd.runs import free_run_folder, start_run

    if resume is not None:
        if config or set_ or out or backend or workers:
            raise UserError(
                f"--resume {resume}: takes its config from that run; give no other option with it"
            )
        directory = RunDirectory.open(resume)
        if (resume / "epochs.jsonl").exists():
            raise UserError(f"--resume {resume}: is a run of fedfmd train; continue it with that")
        if directory.finished():
            raise UserError(f"--resume {resume}: this run is finished; there is nothing to continue")
    else:
        settings = _settings(config or DEFAULT_CONFIG, set_ or [], backend, workers)
        check_logging(settings)
        with console.status("preparing data ..."):
            directory = start_run(settings, out or free_run_folder(settings.name))
    _run(directory)


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Experiment file (TOML), with [train].")] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run directory.")] = None,
) -> None:
    """Train centrally, as the paper does, and put the result beside the published ones.

    Example: `fedfmd train configs/train-authors.toml --set train.epochs=2`

    On several GPUs: `torchrun --nproc-per-node 4 -m fedfmd train configs/train-modern.toml`
    """
    from fedfmd.central import comparison_table, find_run, joined, result_table, train_shown

    if resume is not None and (config or set_ or out):
        raise UserError(f"--resume {resume}: takes its config from that run; give no other option with it")
    if resume is None and config is None:
        raise UserError("fedfmd train: give a config, as configs/train-authors.toml, or --resume DIR")
    console.quiet = errors.quiet = os.environ.get("RANK", "0") != "0"  # one of torchrun's processes speaks
    with joined() as world:
        directory = find_run(world, config, set_ or [], out, resume)
        hint = f"continue with: fedfmd train --resume {directory.path}"
        console.print(f"run directory: {directory.path}", soft_wrap=True)
        try:
            summary = train_shown(directory, world, console)
        except KeyboardInterrupt:
            errors.print(f"interrupted; {hint}", soft_wrap=True)
            raise typer.Exit(130) from None
        except RunError as error:
            raise RunError(f"{error}\n{hint}") from None
        if world.leads:
            console.print(result_table(summary), comparison_table(directory.config, summary))


@app.command()
def profile(
    file: Annotated[
        Path | None, typer.Argument(help="Experiment, for its model, or a list of [[models]] (TOML).")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Depth; repeatable; default resnet18.")] = None,
    conv: Annotated[
        list[str] | None, typer.Option(help="Convolution; repeatable; default static and fmdconv.")
    ] = None,
    width: Annotated[list[float] | None, typer.Option(help="Multiplier of channels; repeatable.")] = None,
    kernels: Annotated[list[int] | None, typer.Option(help="K; repeatable; default 4.")] = None,
    norm: Annotated[str, typer.Option(help="Norm of the backbone.")] = "bn",
    image_size: Annotated[int, typer.Option(min=8, help="Pixels a side; from 128 on ImageNet's stem.")] = 32,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeatable; default 32.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure seconds and memory, or only count.")] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved turns whose median counts.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default all cores.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Figure to draw, .png or .svg.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Only measure this machine's MAC/s, and write them to this JSON file.")
    ] = None,
) -> None:
    """Say what models cost: parameters, MACs, bytes, memory and seconds, beside the static network.

    Example: `fedfmd profile --conv fmdconv --conv odconv --kernels 1 --kernels 4 --no-measure`
    """
    from fedfmd.profiling.command import calibrate_machine, profile_models

    if calibrate is not None:
        calibrate_machine(console, calibrate, threads)
        return
    options = {"names": name, "convs": conv, "widths": width, "kernels": kernels}
    profile_models(
        console,
        file,
        {key: values for key, values in options.items() if values},
        norm=norm,
        image_size=image_size,
        classes=classes,
        batch_sizes=batch or [32],
        repeats=repeats if measure else 0,
        threads=threads,
        device=device,
        out=out,
        figure=figure,
    )


@app.command()
def study(
    config: Annotated[Path | None, typer.Argument(help="Study file (TOML).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default studies/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the study in this folder.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time; default one a core or GPU.")
    ] = None,
) -> None:
    """Run a grid of experiments with seeds, compare them at equal cost, and write the report.

    Started again, it keeps finished runs and continues interrupted ones.

    Example: `fedfmd study configs/study-kernels.toml`
    """
    from fedfmd.study.command import study_shown

    try:
        study_shown(console, config, out, resume, jobs)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default the (first) run's.")] = None,
) -> None:
    """Write one self-contained HTML page, with figures and tables beside it.

    Example: `fedfmd report runs/quickstart`
    """
    from fedfmd.report import write_report

    console.print(f"report: {write_report(runs, out)}", soft_wrap=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100 or fashion-mnist.")],
    root: Annotated[Path, typer.Option(help="Folder to download into.")] = Path("data"),
) -> None:
    """Download a dataset and check it.

    Example: `fedfmd data fetch cifar10 --root data`
    """
    from fedfmd.data import fetch as fetch_dataset

    fetch_dataset(name, root)
    console.print(f"{name} is in {root}")


@data.command()
def inspect(
    config: Config,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Picture to draw; default NAME-partition.png.")] = None,
) -> None:
    """Print and draw which client has what.

    Example: `fedfmd data inspect configs/quickstart.toml`
    """
    from fedfmd.config import load_config
    from fedfmd.data import open_prepared
    from fedfmd.data.inspect import draw_partition, inspect_text
    from fedfmd.runs import partition_data, prepare_data

    settings = load_config(config, set_ or [])
    dataset = open_prepared(prepare_data(settings))
    partition = partition_data(settings, dataset.train_labels)
    console.print(inspect_text(dataset, partition))
    picture = out or Path(f"{settings.name}-partition.png")
    draw_partition(dataset, partition, picture)
    console.print(f"picture: {picture}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and how to get it.

    Example: `fedfmd doctor`
    """
    from fedfmd.doctor import examine

    table, healthy = examine()
    console.print(table)
    if not healthy:
        raise typer.Exit(1)


def _settings(
    config: Path, overrides: list[str], backend: Backend | None, workers: int | None
) -> "ExperimentConfig":
    from fedfmd.config import load_config

    extra = [f'backend.kind="{backend.value}"'] if backend else []
    extra += [f"backend.workers={workers}"] if workers is not None else []
    return load_config(config, [*overrides, *extra])


def _run(directory: "RunDirectory") -> None:
    from fedfmd.api import run
    from fedfmd.progress import RunProgress, summary_table

    settings = directory.config
    checkpoint = directory.recover()
    console.print(f"run directory: {directory.path}", soft_wrap=True)
    try:
        with RunProgress(console, settings.server.rounds, checkpoint.round if checkpoint else 0) as progress:
            result = run(directory, progress.on_round)
    except KeyboardInterrupt:
        errors.print(f"interrupted; continue with: fedfmd simulate --resume {directory.path}", soft_wrap=True)
        raise typer.Exit(130) from None
    except RunError as error:
        hint = f"continue with: fedfmd simulate --resume {directory.path}"
        raise RunError(f"{error}\n{hint}") from None
    console.print(summary_table(result.summary))
    console.print(f"report: {result.report()}", soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, a stopped run exit code 1."""
    try:
        app()
    except UserError as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except RunError as error:
        errors.print(f"stopped: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(1)
