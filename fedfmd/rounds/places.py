"""How many workers and threads a run has; known, and checked, before PyTorch is imported."""

import sys

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.errors import UserError
from fedfmd.machine.processes import available_cores, memory_bytes

MOST_PER_CORE = 16
"""Workers, or threads of a worker, for each core: beyond, they only wait for each other."""
WORKER_BYTES = 400_000_000
"""Memory of a worker beside what training takes: Python and PyTorch."""
SERVER_BYTES = 1_000_000_000
"""Memory of the process that leads a run, and of Ray's own."""


def with_workers(backend: BackendConfig) -> BackendConfig:
    """Fill in the number of workers where the config leaves it open: on Ray one for each core.

    Fewer where memory holds fewer.
    """
    if backend.kind == "inline" or backend.workers is not None:
        return backend
    return backend.model_copy(update={"workers": min(available_cores(), held_workers(memory_bytes()))})


def held_workers(memory: int | None, training_bytes: int = 0) -> int:
    """Count the workers that a machine with so many bytes of memory holds, at least 1.

    ``training_bytes`` is what training takes in each of them; a machine that does not say holds any number.
    """
    if memory is None:
        return sys.maxsize
    return max(1, (memory - SERVER_BYTES) // (WORKER_BYTES + training_bytes))


def check_places(key: str, count: int | None) -> None:
    """Raise ``UserError`` for more threads or workers than make sense here."""
    cores = available_cores()
    if count is not None and count > MOST_PER_CORE * cores:
        here = "1 core" if cores == 1 else f"{cores} cores"
        raise UserError(f"{key} = {count}: at most {MOST_PER_CORE * cores} on this machine of {here}")
