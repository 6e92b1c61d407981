"""The ServerApp for ``flwr run .``: the same run as ``fedfmd simulate``, under a SuperLink.

The run config has three keys: ``config``, the experiment file; ``set``, overrides separated by spaces, as in
``"server.rounds=5 client.epochs=2"``; ``out``, the run directory. Relative paths are looked up where the
SuperLink runs, and configs also among those that travel with the app.
"""

import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedfmd.config import load_config
from fedfmd.process import prepare_process
from fedfmd.simulate import execute, free_run_folder, start_run
from server.grid import GridExecutor

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Prepare a run directory and run it to its end on the nodes of ``grid``."""
    options = {key: str(value) for key, value in context.run_config.items()}
    config = load_config(_find(options["config"]), shlex.split(options["set"]))
    out = Path(options["out"]) if options["out"] else free_run_folder(config.name)
    directory = start_run(config, out.resolve())
    backend = directory.config.backend
    workers, threads = backend.workers or 1, backend.threads or 1
    prepare_process(workers * threads)
    execute(directory, lambda experiment: GridExecutor(grid, experiment, workers), _print_round)


def _find(name: str) -> Path:
    here = Path(name)
    return here if here.exists() else Path(__file__).parent.parent / name


def _print_round(row: dict[str, object]) -> None:
    from fedfmd.progress import figures

    print(f"round {row['round']}: {figures(row)}", flush=True)
