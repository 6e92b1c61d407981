"""What trains the clients of an inline run: this process, or workers that are forked from a second one.

Knows no PyTorch, so that the second process can start while this one imports it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.workers.fork_server import ForkServer

if TYPE_CHECKING:
    from fedfmd.experiment import Experiment
    from fedfmd.rounds.packing import Executor

MakeExecutor = Callable[["Experiment"], "Executor"]


@contextmanager
def workers_here(backend: BackendConfig) -> Iterator[MakeExecutor]:
    """Start what takes time before a run's data are ready; gives what makes its executor.

    One worker is a plain loop in this process, more are processes of their own; they end with the
    ``with``.
    """
    if not backend.apart:
        yield _plain_loop
        return
    with ForkServer() as fork_server, ExitStack() as stack:

        def make(experiment: "Experiment") -> "Executor":
            from fedfmd.workers.executor import PoolExecutor

            return stack.enter_context(closing(PoolExecutor(experiment, fork_server, backend.workers or 1)))

        yield make


def _plain_loop(experiment: "Experiment") -> "Executor":
    from fedfmd.rounds.inline import InlineExecutor

    return InlineExecutor(experiment)
