"""The command line. It parses, calls and prints; what it calls knows nothing of it."""

import sys
import warnings
from typing import Annotated

import typer

import fedfmd
from fedfmd.cli.approve import approve
from fedfmd.cli.command import App
from fedfmd.cli.data import app as data
from fedfmd.cli.deploy import app as deploy
from fedfmd.cli.doctor import doctor
from fedfmd.cli.export import export
from fedfmd.cli.new import new
from fedfmd.cli.plan import plan
from fedfmd.cli.profile import profile
from fedfmd.cli.report import report
from fedfmd.cli.runs import compare, runs, watch
from fedfmd.cli.simulate import simulate
from fedfmd.cli.study import study
from fedfmd.cli.train import train
from fedfmd.cli.voice import VOICE, console, errors, print_anything, show_notes
from fedfmd.errors import ASTRAY, DISK, RunError, UserError, place_of, refused
from fedfmd.machine.signals import stoppable
from fedfmd.records.runlog import LOGGER

app = App(
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data, name="data")
app.add_typer(deploy, name="deploy")
for command in (
    simulate, train, profile, study, plan, new, report, runs, export, compare, watch, approve, doctor,
):  # fmt: skip
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"fedfmd {fedfmd.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning of dynamic-convolution networks under client resource limits."""


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
        errors.say(f"error: {error}", style="red")
        sys.exit(2)
    except RunError as error:
        errors.say(f"stopped: {error}", style="red")
        sys.exit(1)
    except OSError as error:
        if not (reason := _told(error)):
            raise
        errors.say(f"stopped: {reason}, then try again", style="red")
        sys.exit(1)
    except SystemExit:
        if signals:
            sys.exit(128 + signals[0])
        raise


def _told(error: OSError) -> str:
    """Return what happened, and what helps, where the disk and no mistake in the program is to blame."""
    if error.errno in ASTRAY and error.filename:
        return f"{place_of(error)}{error.strerror}; bring back what belongs there"
    return place_of(error) + refused(error, "choose another folder") if error.errno in DISK else ""
