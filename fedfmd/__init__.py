"""Federated learning of dynamic-convolution networks under client resource limits."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfmd.api import Result as Result
    from fedfmd.api import load_model as load_model
    from fedfmd.api import resume as resume
    from fedfmd.api import simulate as simulate

try:
    __version__ = version("fedfmd")
except PackageNotFoundError:  # source that nobody has installed
    __version__ = "0+source"
__all__ = ["Result", "__version__", "load_model", "resume", "simulate"]


def __getattr__(name: str) -> Any:
    """Bring the Python interface when it is used: importing torch takes seconds that ``--help`` has not."""
    if name in ("Result", "load_model", "resume", "simulate"):
        from fedfmd import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedfmd' has no attribute {name!r}")
