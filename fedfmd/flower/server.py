"""The ServerApp for ``flwr run .``: the same run as ``fedfmd simulate``, under a SuperLink.

The run config has these keys: ``config``, the experiment file, without which it is the quickstart; ``set``,
overrides separated by spaces, as in ``"server.rounds=5 client.epochs=2"``, or a JSON list of them, which
carries any character; ``out``, the run directory. Relative paths are looked up where the SuperLink runs, and
configs in the app, too, which holds no code: what runs is what is installed. With ``clients`` above 0 the
nodes are real clients, with room for that many, and ``data`` is the file with the server's test set; an
``out`` that was interrupted is then continued. ``min_clients`` have to be there to begin, by default all;
a round goes on after ``round_timeout`` seconds with the answers that are there. ``statistics`` is a file with
what the clients have agreed on. With ``task = "statistics"`` they agree on it, and ``out`` is that file. Why
it ended before there was a run directory is in ``OUT.RUN.failed``.
"""

import json
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedfmd.config.experiment import ExperimentConfig, load_config
from fedfmd.config.templates import QUICKSTART
from fedfmd.deployment.layout import ROUND_SECONDS
from fedfmd.errors import RunError, UserError
from fedfmd.files import write_atomic
from fedfmd.flower.deployment import Deployment, agree, print_round, run_deployed
from fedfmd.flower.grid import GridExecutor
from fedfmd.flower.inbox import Inbox
from fedfmd.pages.report import write_report
from fedfmd.records.unfinished import free_run_folder
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.summary import summary_table

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Prepare a run directory and run it to its end on the nodes of ``grid``."""
    options = {key: str(value) for key, value in context.run_config.items()}
    if int(options.get("clients", "0")):
        out = Path(options["out"]).resolve()
        with _reasons(out.with_name(f"{out.name}.{context.run_id}.failed")):
            _on_clients(Inbox(grid, context.run_id), _config(options), out, options)
    else:
        config = _config(options)
        out = Path(options["out"]) if options["out"] else free_run_folder(config.name)
        _run_on_workers(grid, config, out.resolve())


def _config(options: dict[str, str]) -> ExperimentConfig:
    """Read the experiment; raises ``UserError`` where it is none."""
    overrides, clients = overrides_in(options["set"]), int(options.get("clients", "0"))
    if clients:
        overrides.append(f"partition.clients={clients}")
    return load_config(_find(options["config"]) if options["config"] else QUICKSTART, overrides)


def _on_clients(inbox: Inbox, config: ExperimentConfig, out: Path, options: dict[str, str]) -> None:
    names = json.loads(options.get("names") or "{}")
    deployment = Deployment(
        clients=int(options["clients"]),
        data=Path(options["data"]),
        min_clients=int(options.get("min_clients", "0")),
        round_seconds=float(options.get("round_timeout", ROUND_SECONDS)),
        statistics=Path(options["statistics"]) if options.get("statistics") else None,
        names={int(client): str(name) for client, name in names.items()},
    )
    (agree if options.get("task") == "statistics" else run_deployed)(inbox, config, out, deployment)


@contextmanager
def _reasons(file: Path) -> Iterator[None]:
    """Write down why this ended; the operator may see files of results, and no more."""
    try:
        yield
    except (UserError, RunError, OSError) as error:
        with suppress(OSError):  # of a full disk
            write_atomic(file, f"{error}\n")
        raise


def overrides_in(text: str) -> list[str]:
    """Read a run config's ``set``; raises ``UserError`` for a JSON document that is no list of texts."""
    if not text.startswith("["):
        return shlex.split(text)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(override, str) for override in found):
        raise UserError(f"set = {text}: must be a JSON list of texts SECTION.KEY=VALUE")
    return found


def _run_on_workers(grid: Grid, config: ExperimentConfig, out: Path) -> None:
    warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)  # Flower starts it
    directory = start_run(config, out)
    console = PlainConsole()
    console.say(f"run directory: {directory.path}")
    workers = directory.config.backend.workers or 1
    summary = execute(directory, lambda e: GridExecutor(grid, e, workers), print_round)
    console.print(summary_table(summary))
    console.say(f"report: {write_report([directory.path])}")


def _find(name: str) -> Path:
    """Return a config file where the SuperLink runs, or of the app, whose folder Python imports from."""
    places = [Path(name), *(Path(folder, name) for folder in sys.path)]
    return next((place for place in places if place.is_file()), places[0])
