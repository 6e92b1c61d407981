"""Federated learning of dynamic-convolution networks under client resource limits."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfmd.api import Result as Result
    from fedfmd.api import StudyResult as StudyResult
    from fedfmd.api import TrainResult as TrainResult
    from fedfmd.api import load_model as load_model
    from fedfmd.api import load_run as load_run
    from fedfmd.api import profile as profile
    from fedfmd.api import report as report
    from fedfmd.api import resume as resume
    from fedfmd.api import simulate as simulate
    from fedfmd.api import study as study
    from fedfmd.api import train as train
    from fedfmd.nn.model_file import read_card as read_card
    from fedfmd.registry import register as register

    __version__: str

_HOMES = {
    "Result": "fedfmd.api",
    "StudyResult": "fedfmd.api",
    "TrainResult": "fedfmd.api",
    "load_model": "fedfmd.api",
    "load_run": "fedfmd.api",
    "profile": "fedfmd.api",
    "read_card": "fedfmd.nn.model_file",
    "register": "fedfmd.registry",
    "report": "fedfmd.api",
    "resume": "fedfmd.api",
    "simulate": "fedfmd.api",
    "study": "fedfmd.api",
    "train": "fedfmd.api",
}
"""Where the public names live; a module is imported when one of its names is first used."""
__all__ = [
    "Result",
    "StudyResult",
    "TrainResult",
    "__version__",
    "load_model",
    "load_run",
    "profile",
    "read_card",
    "register",
    "report",
    "resume",
    "simulate",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    """Bring the Python interface when it is used: importing torch takes seconds that ``--help`` has not."""
    if name == "__version__":
        return _version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedfmd' has no attribute {name!r}")


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fedfmd")
    except PackageNotFoundError:  # source that nobody has installed
        return "0+source"


def __dir__() -> list[str]:
    """Return the public names, those not imported yet included."""
    return sorted({*globals(), *_HOMES})
