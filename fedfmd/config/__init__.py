"""Every key with its range, unit and meaning; one reader, one voice for errors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfmd.config.experiment import ExperimentConfig, dump_config, load_config, parse_config

__all__ = ["ExperimentConfig", "dump_config", "load_config", "parse_config"]


def __getattr__(name: str) -> Any:
    """Bring the schema when it is used: building it takes time that ``--help`` has not."""
    if name not in __all__:
        raise AttributeError(f"module 'fedfmd.config' has no attribute {name!r}")
    from fedfmd.config import experiment

    return getattr(experiment, name)
