"""The config of a run: as it is now, which users edit, and as the rounds so far were computed with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfmd.config.experiment import ExperimentConfig, changed_keys, dump_config, load_config
from fedfmd.config.fingerprint import PLACES
from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.records import filenames

MORE_ROUNDS = "server.rounds"
FREE = frozenset({MORE_ROUNDS, *(f"{section}.{key}" for section, keys in PLACES.items() for key in keys)})
"""Keys that may change between two parts of a run and leave the rounds that are done as they are."""
Changes = Mapping[str, tuple[Any, Any]]
"""Old and new value by key."""


@dataclass(frozen=True)
class Settings:
    """The two files of it in a run's ``folder``."""

    folder: Path

    @property
    def now(self) -> ExperimentConfig:
        """The resolved config; the parts that it names are those that the run has recorded."""
        return load_config(self.folder / filenames.CONFIG, run=self.folder)

    @property
    def started(self) -> ExperimentConfig:
        """The config that the rounds so far were computed with."""
        return load_config(filenames.computed_config(self.folder), run=self.folder)

    def write(self, config: ExperimentConfig) -> None:
        """Make ``config`` the run's config from here on."""
        for name in (filenames.CONFIG, filenames.STARTED_CONFIG):
            write_atomic(self.folder / name, dump_config(config))

    def changes(self, now: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which ``now`` is not the config that the run was started with."""
        return changed_keys(self.started, now)

    def check(self, changes: Changes, *, accept: bool = False) -> None:
        """Raise ``UserError`` when ``changes`` need to be accepted."""
        refused = {key: values for key, values in changes.items() if key not in FREE}
        if refused and not accept:
            raise UserError(
                f"{self.folder}: {filenames.CONFIG}, with what --set and --backend change, differs from the "
                f"run's start: {told_changes(refused)}; undo the change, or take it from here on with "
                "--accept"
            )


def told_changes(changes: Changes) -> str:
    """Put changed keys into words: old -> new."""
    return ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changes.items())
