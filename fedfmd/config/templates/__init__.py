"""Configs that come with the package: the quickstart, and what ``fedfmd new`` starts a study from."""

from pathlib import Path

_FOLDER = Path(__file__).parent
QUICKSTART = _FOLDER / "quickstart.toml"
"""The experiment that runs where none is named; ``configs/quickstart.toml`` is the same file."""
EXPERIMENT, STUDY = _FOLDER / "experiment.toml", _FOLDER / "study.toml"
"""Texts for ``string.Template``."""
