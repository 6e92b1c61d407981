"""Runs a run directory in this process: Flower's ServerApp over Flower nodes that are processes on Ray."""

from collections.abc import Callable
from contextlib import ExitStack

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedfmd.experiment import Experiment
from fedfmd.flower.grid import GridExecutor
from fedfmd.flower.ray_grid import RayGrid, server_context
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.lifecycle import execute


def run_on_ray(grid: RayGrid, directory: RunDirectory, on_round: Callable[[Json], None]) -> Json:
    """Run ``directory`` to its end on workers that are there, or on their way; returns the summary."""
    backend = directory.config.backend
    summary: Json = {}
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        with ExitStack() as stack:

            def make_executor(experiment: Experiment) -> GridExecutor:
                here = backend.ray_address is None
                there = len(list(grid.get_node_ids()))  # perhaps more than memory holds while they train
                workers = min(there, backend.workers or there)
                executor = GridExecutor(grid, experiment, workers, on_this_machine=here)
                stack.callback(executor.close)
                return executor

            summary.update(execute(directory, make_executor, on_round))

    server_app(grid, server_context())
    return summary
