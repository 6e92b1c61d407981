"""Start what a run's workers live in while its data are prepared: Ray, or processes of this machine.

Knows no PyTorch, which this process imports meanwhile.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.records.schema import Json
from fedfmd.rounds.places import check_places, with_workers
from fedfmd.workers.start import workers_here

if TYPE_CHECKING:
    from fedfmd.aggregation import ServerOptimizer
    from fedfmd.records.rundir import RunDirectory

OnRound = Callable[[Json], None]
Launch = Callable[["RunDirectory", OnRound, "ServerOptimizer | None"], Json]
"""Runs a run directory to its end, telling every row of ``rounds.jsonl``; returns the summary.

A server optimiser takes the place of the one that ``server.strategy`` names.
"""


@contextmanager
def launching(backend: BackendConfig) -> Iterator[Launch]:
    """Start what ``backend`` asks for and give what runs a directory there; all of it ends with the ``with``.

    Raises ``UserError`` for more workers than make sense here, or where this process uses Ray already, and
    ``RunError`` when Ray cannot start.
    """
    backend = with_workers(backend)
    if backend.ray_address is None:  # whose workers are elsewhere
        check_places("backend.workers", backend.workers)
    with _on_ray(backend) if backend.kind == "ray" else _here(backend) as launch:
        yield launch


@contextmanager
def _here(backend: BackendConfig) -> Iterator[Launch]:
    with workers_here(backend) as make_executor:

        def launch(directory: "RunDirectory", on_round: OnRound, optimizer: "ServerOptimizer | None") -> Json:
            from fedfmd.rounds.lifecycle import execute

            return execute(directory, make_executor, on_round, optimizer=optimizer)

        yield launch


@contextmanager
def _on_ray(backend: BackendConfig) -> Iterator[Launch]:
    from fedfmd.flower.ray_grid import ray_grid  # brings Flower and Ray

    with ray_grid(backend) as grid:

        def launch(directory: "RunDirectory", on_round: OnRound, optimizer: "ServerOptimizer | None") -> Json:
            from fedfmd.flower.simulation import run_on_ray

            del optimizer
            return run_on_ray(grid, directory, on_round)

        yield launch
