"""What the files of a run directory and of a study's folder are called, and how one knows such a folder.

A model file is called the same wherever it is: see ``fedfmd.nn.model_file``. Tables and figures, which
nothing reads back, are named where they are written.
"""

from pathlib import Path

from fedfmd.registry import PARTS_FILE

RUNS, STUDIES = "runs", "studies"
"""Where runs and studies are made unless told otherwise; a study keeps its runs in a folder ``runs``, too."""

CONFIG, STARTED_CONFIG = "config.toml", ".config.toml"
"""The config, which users edit, and the one that the rounds so far were computed with."""
ENVIRONMENT = "environment.json"
PARTITION, PARTITION_TENSORS = "partition.json", "partition.safetensors"
"""Who has what: for people and reports, and for the workers."""
PARTS = PARTS_FILE
CONTROL = "control.json"
"""How near a static control comes to the network that it stands for."""
MEMBERS = "clients.json"
"""Of a deployment: what each client said of itself."""
STATISTICS = "statistics.json"
"""Of a deployment whose clients agreed on them: mean, standard deviation, and the sums behind them."""
ROUNDS, CLIENTS, EVALUATIONS = "rounds.jsonl", "clients.jsonl", "evaluations.jsonl"
EPOCHS = "epochs.jsonl"
"""The one ledger of a centralised run."""
NOTES = "notes.jsonl"
SUMMARY = "summary.json"
LOG = "log.txt"
REPORT = "report.html"
CHECKPOINTS, CLIENT_STATES = "checkpoint", "client-states"
"""Folders with the last two checkpoints, and with what clients keep between rounds."""
LOCK = ".lock"
"""Held by the process that works in the folder; a study's folder has one, too."""

STUDY = "study.toml"
OUTCOMES = "outcomes.json"
"""What became of each run of a study."""
SEARCH, TUNINGS = "search", "search.json"
"""The runs of a study's search, and what it found for each arm."""
FORECASTS = "forecasts.json"
"""Training MACs of runs by the hash of their config, of which the rungs of a search follow."""


def holds_run(folder: Path) -> bool:
    """Return whether ``folder`` is a run directory, whose config is in from the moment that it appears."""
    return (folder / CONFIG).is_file()


def computed_config(folder: Path) -> Path:
    """Return the file of the config that a run's rounds were computed with.

    It is the hidden one, as users edit the other; a copy of a run may lack it.
    """
    started = folder / STARTED_CONFIG
    return started if started.is_file() else folder / CONFIG


def holds_federated_run(folder: Path) -> bool:
    """Return whether ``folder`` has the ledgers of a federated run."""
    return (folder / CLIENTS).is_file()


def holds_central_run(folder: Path) -> bool:
    """Return whether ``folder`` has the ledger of a centralised run."""
    return (folder / EPOCHS).is_file()


def no_run(folder: Path) -> str:
    """Say that a folder is no run directory, and what it is where that is known."""
    text = f"{folder}: is no run directory, it holds no {CONFIG}"
    return f"{text}; it is a study's, name runs in {folder / RUNS}" if (folder / STUDY).is_file() else text
