"""The command line. It parses, calls and prints; what it calls knows nothing of it."""

import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

import fedfmd
from fedfmd.cli.command import Command, Set
from fedfmd.cli.data import app as data
from fedfmd.cli.deploy import app as deploy
from fedfmd.cli.simulate import Backend, check_resumed, overridden, resumed, simulated
from fedfmd.cli.voice import (
    FINISHED_OTHERWISE,
    INTERRUPTED,
    VOICE,
    conclude,
    console,
    errors,
    print_anything,
    resumable,
    show_notes,
    speak,
)
from fedfmd.config.templates import QUICKSTART
from fedfmd.errors import DISK, RunError, UserError, pasted
from fedfmd.machine.signals import stoppable
from fedfmd.records import filenames
from fedfmd.records.runlog import LOGGER

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data, name="data")
app.add_typer(deploy, name="deploy")

Config = Annotated[Path, typer.Argument(help="Experiment file (TOML).")]


Accept = Annotated[
    bool, typer.Option("--accept", help="With --resume: take a changed config, or part, from here on.")
]


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the folder of the results at the end, and errors.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print what goes into the log, too, as failed clients.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the report in a browser at the end.")]


class ExportFormat(StrEnum):
    """What a network can be exported to."""

    onnx = "onnx"


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"fedfmd {fedfmd.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning of dynamic-convolution networks under client resource limits."""


@app.command(cls=Command)
def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="Experiment file (TOML); default the quickstart.")
    ] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run directory.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Instead of the config's `server.rounds`; with --resume, more rounds.")
    ] = None,
    accept: Accept = False,
    backend: Annotated[Backend | None, typer.Option(help="Instead of the config's `backend.kind`.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Instead of the config's `backend.workers`: processes that train clients at a time."
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    open_: Open = False,
) -> None:
    """Run a federated experiment and write its report.

    Example: `fedfmd simulate configs/quickstart.toml --set server.rounds=5 --out runs/first`
    """
    speak(quiet, verbose)
    overrides = overridden(set_, rounds, backend, workers)
    check_resumed(resume, accept, config, out)
    ended = (
        simulated(config or QUICKSTART, overrides, out)
        if resume is None
        else resumed(resume, overrides, accept=accept)
    )
    if ended is None:
        return
    directory, page = ended
    conclude(directory.path, page if open_ else None)
    from fedfmd.records.rundir import LOST_STATE

    if any(note.kind == LOST_STATE for note in directory.notes()):
        raise typer.Exit(FINISHED_OTHERWISE)


@app.command(cls=Command)
def train(
    config: Annotated[Path | None, typer.Argument(help="Experiment file (TOML), with [train].")] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run directory.")] = None,
    accept: Accept = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train centrally, as the paper does, and put the result beside the published ones.

    Example: `fedfmd train configs/train-authors.toml --set train.epochs=2`

    On several GPUs: `torchrun --nproc-per-node 4 -m fedfmd train configs/train-modern.toml`
    """
    from fedfmd.central import joined
    from fedfmd.cli.train import find_run, train_shown
    from fedfmd.records.documents import TrainSummary
    from fedfmd.terminal.published import comparison_table, result_table

    speak(quiet, verbose)
    check_resumed(resume, accept, config, out)
    if resume is None and config is None:
        raise UserError("fedfmd train: give a config, as configs/train-authors.toml, or --resume DIR")
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks
        console.quiet = errors.quiet = True
    with joined() as world:
        directory = find_run(world, config, set_ or [], out, resume, accept=accept)
        console.print(f"run directory: {directory.path}", soft_wrap=True)
        with resumable(f"fedfmd train --resume {pasted(directory.path)}"):
            summary = train_shown(directory, world, console)
        if world.leads:
            ending = TrainSummary.from_json(summary)
            console.print(result_table(ending), comparison_table(directory.config, ending))
    if world.leads:
        conclude(directory.path)


@app.command()
def profile(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="Experiment, for its model, or a list of [[models]] (TOML).")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Depth; repeatable; default resnet18.")] = None,
    conv: Annotated[
        list[str] | None, typer.Option(help="Convolution; repeatable; default static and fmdconv.")
    ] = None,
    width: Annotated[list[float] | None, typer.Option(help="Multiplier of channels; repeatable.")] = None,
    kernels: Annotated[list[int] | None, typer.Option(help="K; repeatable; default 4.")] = None,
    norm: Annotated[str | None, typer.Option(help="Norm of the backbone; default bn.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=8, max=512, help="Pixels a side, default 32; from 128 on ImageNet's stem."),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="Number of classes; default 10.")] = None,
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
    device_card: Annotated[
        Path | None, typer.Option(help="Only measure this machine, and write (or continue) this card, .toml.")
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="What the card's search for memory may reach, as 768m or 2g; default 4 GB."
        ),
    ] = None,
    plug: Annotated[
        Path | None,
        typer.Option(help="Log of this machine's plug, .csv, growing meanwhile, for the card's power."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Machine with --serve-link, to which the card's link is."),
    ] = None,
    serve_link: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Only answer other machines' --server here, until Ctrl-C."),
    ] = None,
) -> None:
    """Say what models cost: parameters, MACs, bytes, memory and seconds, beside the static network.

    Example: `fedfmd profile --conv fmdconv --conv odconv --kernels 1 --kernels 4 --no-measure`
    """
    from fedfmd.cli.profile import answer_links, calibrate_machine, make_card, profile_models
    from fedfmd.units import memory_size

    if serve_link is not None:
        _given_alone(context, "--serve-link")
        answer_links(console, serve_link)
        return
    if device_card is not None:
        _given_alone(context, "--device-card", "memory_limit", "plug", "server")
        limit = None if memory_limit is None else memory_size(memory_limit, "--memory-limit", 100 << 20)
        make_card(console, device_card, memory_limit=limit, plug=plug, server=server)
        return
    for option, value in (("--plug", plug), ("--server", server), ("--memory-limit", memory_limit)):
        if value is not None:
            raise UserError(f"{option}: counts only with --device-card")
    if calibrate is not None:
        _given_alone(context, "--calibrate", "threads")
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


@app.command(cls=Command)
def study(
    config: Annotated[Path | None, typer.Argument(help="Study file (TOML).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default studies/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the study in this folder.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time; default one per core or GPU.")
    ] = None,
    set_: Set = None,
    quiet: Quiet = False,
    open_: Open = False,
) -> None:
    """Run a grid of experiments with seeds, compare them at equal cost, and write the report.

    Started again, it keeps finished runs and continues interrupted ones.

    Example: `fedfmd study configs/study-kernels.toml --set seeds=[0] --set server.rounds=2`
    """
    from fedfmd.cli.study import study_shown

    speak(quiet, verbose=False)
    try:
        page = study_shown(console, config, out, resume, jobs, set_ or [])
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    conclude(page.parent, page if open_ else None)


@app.command(cls=Command)
def plan(
    config: Annotated[Path, typer.Argument(help="Experiment or study file (TOML).")],
    set_: Set = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="COST=NUMBER",
            help="Say how many rounds a total of `macs`, `bytes`, `device_seconds` or `energy_joules` "
            "allows.",
        ),
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time a few training steps here, or leave time out.")] = True,
) -> None:
    """Say what a run will do and cost before it runs: what each tier can afford, and what each policy gives.

    Example: `fedfmd plan configs/quickstart.toml --set budget.macs_fraction=0.3 --until macs=100e9`
    """
    from fedfmd.cli.plan import plan_shown

    plan_shown(console, config, set_ or [], until, measure)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name is the runs' and the study's.")],
    data_: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Your images: FOLDER/train/CLASS/* or train/CLIENT/CLASS/*, and val/CLASS/*."
        ),
    ] = None,
) -> None:
    """Write a commented experiment and a study to start from.

    Example: `fedfmd new my-study`
    """
    from fedfmd.studies.starter import make_starter

    make_starter(folder, data_)
    console.print(f"made {folder}: look at it, change it, then", soft_wrap=True)
    for command in ("plan", "simulate"):
        console.print(f"  fedfmd {command} {pasted(folder / 'experiment.toml')}", soft_wrap=True)
    console.print(f"  fedfmd study {pasted(folder / filenames.STUDY)}", soft_wrap=True)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="DIR[=NAME]...", help="Run directories, and what to call them.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default the (first) run's.")] = None,
    open_: Open = False,
) -> None:
    """Write one self-contained HTML page, with figures and tables beside it.

    Example: `fedfmd report runs/first=FMDConv runs/static=Static --out runs/comparison`
    """
    from fedfmd.pages.report import write_report

    named = dict(_named(run) for run in runs)
    labels = {folder: name for folder, name in named.items() if name}
    page = write_report(list(named), out, labels=labels)
    console.print(f"report: {page}", soft_wrap=True)
    conclude(page.parent, page if open_ else None)


def _named(text: str) -> tuple[Path, str]:
    """Read DIR=NAME; a folder may have an equals sign in its own name."""
    folder, _, name = text.rpartition("=")
    return (Path(folder), name) if folder and not Path(text).exists() else (Path(text), "")


Json_ = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="Runs, studies or folders of them; default runs and studies."
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="Field or key to sort by, downwards with - before it.")
    ] = "-changed",
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="List only such runs; repeatable.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Key of the config to show; default those that differ.")
    ] = None,
    as_json: Json_ = False,
) -> None:
    """List runs and studies: their status, accuracy and costs, and in which keys they differ.

    Example: `fedfmd runs --where model.conv=fmdconv --sort -top1`
    """
    from fedfmd.cli.runs import list_runs

    list_runs(console, folders or [], sort=sort, where=where or [], keys=key or [], as_json=as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Finished run, or a model file.")],
    out: Annotated[Path, typer.Option(help="File to write, .onnx; parts of tiers are named after it.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.onnx,
    width: Annotated[float | None, typer.Option(help="Share of the channels; default all.")] = None,
    kernels: Annotated[int | None, typer.Option(help="Kernels of a dynamic layer; default all.")] = None,
    depth: Annotated[int | None, typer.Option(help="First stages, with their exits; default all.")] = None,
    client: Annotated[
        int | None, typer.Option(help="Client whose own norms to take, where they stay on clients.")
    ] = None,
    tiers: Annotated[bool, typer.Option("--tiers", help="Every part that the run's devices get.")] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images to try the files on; default all.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads while trying.")] = 1,
    table: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
) -> None:
    """Write a run's network, or the part that a device gets, as ONNX, and try it against PyTorch.

    Example: `fedfmd export runs/first --width 0.5 --kernels 2 --out phone.onnx`
    """
    from fedfmd.cli.export import export_shown
    from fedfmd.export import Wanted

    del format_  # there is one so far
    wanted = Wanted(width=width, kernels=kernels, depth=depth, client=client, tiers=tiers)
    export_shown(console, run, out, wanted, images=images, threads=threads, table=table)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="Run directories.")],
    as_json: Json_ = False,
) -> None:
    """Show in what the configs of runs differ, and their results side by side.

    Example: `fedfmd compare runs/static runs/fmdconv`
    """
    from fedfmd.cli.runs import show_comparison

    show_comparison(console, folders, as_json=as_json)


@app.command()
def watch(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="Runs, studies or folders of them; default runs and studies."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 shows the pages to others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8008,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the reports of runs in a browser, as they grow.

    Example: `fedfmd watch runs/my-study --open`
    """
    from fedfmd.cli.runs import watch_runs

    watch_runs(console, folders or [], host, port, open_page=open_)


@deploy.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def node(context: typer.Context) -> None:
    """Run a client: Flower's SuperNode, with its options, for the installed app alone.

    Example: `fedfmd deploy node --superlink hub.example.org:8000 --root-certificates keys/ca.crt
    --auth-supernode-private-key keys/node.key --node-config 'client-id=2 data="/home/me/pictures.safetensors"
    state="/home/me/state"'`
    """
    from fedfmd.flower.node import main

    main(context.args)


@app.command()
def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="A deployment, or what was handed to a client: looked at, too.")
    ] = None,
) -> None:
    """Say what this machine has, what is missing, and how to get it.

    Of a deployment also versions, ports, certificates and, on a client, the server and the pack.

    Example: `fedfmd doctor`
    """
    from fedfmd.machine.doctor import examined
    from fedfmd.terminal.doctor import findings_table

    findings = examined()
    if folder is not None:
        from fedfmd.deployment.doctor import findings_on

        findings += findings_on(folder)
    console.print(findings_table(findings))
    if not all(finding.found for finding in findings if finding.needed):
        raise typer.Exit(1)


def _given_alone(context: typer.Context, option: str, *beside: str) -> None:
    """Raise ``UserError`` for what is given together with an option that does something else."""
    own = option.removeprefix("--").replace("-", "_")
    for name in context.params:
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in (own, *beside):
            shown = name.upper() if name == "file" else f"--{name.replace('_', '-')}"
            raise UserError(f"{shown}: goes not with {option}")


def main() -> None:
    """Run the command line; docs/reference/run-directory.md says what the exit codes mean."""
    LOGGER.addHandler(VOICE)
    print_anything()
    with warnings.catch_warnings():
        show_notes()
        _run_app()


def _run_app() -> None:
    try:
        with stoppable() as signals:
            app()
    except UserError as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True, highlight=False)
        sys.exit(2)
    except RunError as error:
        errors.print(f"stopped: {error}", style="red", soft_wrap=True, highlight=False)
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        errors.print(
            f"stopped: {where}{error.strerror}; make room or choose another folder, then try again",
            style="red", soft_wrap=True, highlight=False,
        )  # fmt: skip
        sys.exit(1)
    except SystemExit:
        if signals:
            sys.exit(128 + signals[0])
        raise
