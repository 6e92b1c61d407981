"""Why a run has stopped, in words for a person."""

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import origins
from fedfmd.contracts import blame
from fedfmd.errors import RunError, UserError, place_of, refused
from fedfmd.records import filenames
from fedfmd.records.runlog import LOGGER

ELSEWHERE = "go on with a copy elsewhere"
"""What helps beside making room, where a folder holds work that goes on."""


def disk_reason(error: OSError) -> str:
    """Say what the system refused, where, and what helps a run or study to go on."""
    return place_of(error) + refused(error, ELSEWHERE)


def stop_reason(error: BaseException, config: ExperimentConfig) -> str:
    """Say why a run has stopped; what neither the machine nor a part of the user's explains is raised on."""
    if isinstance(error, OSError):
        return disk_reason(error)
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, (UserError, MemoryError)) or not (reason := blame(error, origins(config))):
        raise error
    LOGGER.debug("stopped by", exc_info=error)
    return f"{reason}; {filenames.LOG} has the traceback"
