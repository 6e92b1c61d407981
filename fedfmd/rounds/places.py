"""How many workers and threads a run has; known, and checked, before PyTorch is imported."""

from fedfmd.config.sections import BackendConfig
from fedfmd.errors import UserError
from fedfmd.machine.processes import available_cores

MOST_PER_CORE = 16
"""Workers, or threads of a worker, for each core: beyond, they only wait for each other."""


def with_workers(backend: BackendConfig) -> BackendConfig:
    """Fill in the number of workers where the config leaves it open: on Ray one for each core."""
    if backend.kind == "inline" or backend.workers is not None:
        return backend
    return backend.model_copy(update={"workers": available_cores()})


def check_places(key: str, count: int | None) -> None:
    """Raise ``UserError`` for more threads or workers than make sense here."""
    cores = available_cores()
    if count is not None and count > MOST_PER_CORE * cores:
        raise UserError(f"{key} = {count}: at most {MOST_PER_CORE * cores} on this machine of {cores} cores")
