"""``fedfmd train``: centralised training, and where it stands beside published results."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.command import Accept, Quiet, Set, Verbose, check_resumed
from fedfmd.cli.voice import conclude, console, errors, resumable, speak
from fedfmd.errors import UserError, pasted


def train(
    config: Annotated[Path | None, typer.Argument(help="Experiment file (TOML), with [train].")] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to create; default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run directory.")] = None,
    accept: Accept = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train centrally, without federation, and compare the result with published ones.

    Example: `fedfmd train configs/train-authors.toml --set train.epochs=2`

    On several GPUs: `torchrun --nproc-per-node 4 -m fedfmd train configs/train-modern.toml`
    """
    from fedfmd.central import joined
    from fedfmd.cli.actions.train import find_run, train_shown
    from fedfmd.records.documents import TrainSummary
    from fedfmd.terminal.published import comparison_table, result_table
    from fedfmd.terminal.whole import print_words

    speak(quiet, verbose)
    check_resumed(resume, accept, config, out)
    if resume is None and config is None:
        raise UserError("fedfmd train: give a config, as configs/train-authors.toml, or --resume DIR")
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks
        console.quiet = errors.quiet = True
    with joined() as world:
        directory = find_run(world, config, set_ or [], out, resume, accept=accept)
        console.say(f"run directory: {directory.path}")
        with resumable(f"fedfmd train --resume {pasted(directory.path)}"):
            summary = train_shown(directory, world, console)
        if world.leads:
            ending = TrainSummary.from_json(summary)
            print_words(console, result_table(ending), comparison_table(directory.config, ending))
    if world.leads:
        conclude(directory.path)
