"""What the bits of a trained model depend on in its config, as one hash."""

import hashlib
import json
from collections.abc import Mapping

from fedfmd.config.experiment import ExperimentConfig

PLACES: Mapping[str, set[str]] = {
    "data": {"root"},
    "backend": {"kind", "workers", "ray_address", "gpus_per_worker"},
}
"""Keys by section that say where the images lie, which are known by their content, and what computes."""
WITHOUT_EFFECT: Mapping[str, bool | set[str]] = {
    **PLACES,
    "name": True,
    "server": {"checkpoint_every"},
    "evaluation": True,
    "diagnostics": True,
    "energy": True,
    "logging": True,
    "devices": {"trace", "states", "calibration"},
    "train": {"evaluate_every", "checkpoint_every", "tensorboard"},
}
"""Keys that name, place, measure or record a run, and what in a machine computes it."""


def config_sha256(config: ExperimentConfig) -> str:
    """Return the SHA-256 of the config's keys that can change a bit of the trained model."""
    document = config.model_dump(mode="json", exclude=WITHOUT_EFFECT, exclude_none=True)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
