"""Every key with its range, unit and meaning; one reader, one voice for errors."""

from fedfmd.config.experiment import ExperimentConfig, dump_config, load_config, parse_config

__all__ = ["ExperimentConfig", "dump_config", "load_config", "parse_config"]
