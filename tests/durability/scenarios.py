"""The runs whose writes are recorded and cut: tiny, three rounds; ``scenarios.py KIND FOLDER`` runs one.

A folder holds one run directory, or a study's folder, named ``it``.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import tomli_w

from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.errors import RunError
from fedfmd.records.rows import repeatable
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.studies.plan import Study, load_study
from fedfmd.studies.runner import STUDY_FILE, Listener, check_runs, keep_study, run_study

NAME = "it"
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"server": {"strategy": "fedavgm"}},
    "scaffold": {"client": {"scaffold": True, "momentum": 0.0}},
    "buffered": {
        "server": {"mode": "buffered", "buffer": 1},
        "devices": {"kind": "tiers", "tiers": [{"name": "a", "like": "phone-mid"}]},
    },
}
ARMS = [{"name": "a"}, {"name": "b", "set": {"client.learning_rate": 0.01}}]


def config(kind: str) -> ExperimentConfig:
    """Return the experiment of a kind: four clients, two a round, each with eight images."""
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 60, "test_samples": 20},
        "partition": {"scheme": "sampled", "clients": 4, "samples_per_client": 8},
        "model": {"name": "resnet8", "width": 0.25, "conv": "static", "stem": "imagenet"},
        "client": {"batch_size": 8, "augment": False},
        "server": {"rounds": 3, "cohort": 2},
        "backend": {"kind": "inline", "threads": 1},
        "logging": {"tensorboard": False},
    }
    for section, values in KINDS[kind].items():
        document[section] = document.get(section, {}) | values
    return parse_config({"name": NAME, **document})


def start(kind: str, folder: Path) -> None:
    """Run to the end from nothing."""
    if kind == "study":
        bring_to_end(study(folder.parent), folder / NAME)
    else:
        execute(start_run(config(kind), folder / NAME), InlineExecutor)


def go_on(kind: str, folder: Path) -> None:
    """Bring what a crash has left to its end: anew where there is nothing, else resumed."""
    kept = folder / NAME / STUDY_FILE
    if kind == "study" and kept.exists():
        bring_to_end(load_study(kept), folder / NAME)
    elif kind == "study" or not (folder / NAME).exists():
        start(kind, folder)
    elif not (directory := RunDirectory.open(folder / NAME)).finished():
        execute(directory, InlineExecutor)


def bring_to_end(planned: Study, folder: Path) -> None:
    """Bring a study to its end, as ``fedfmd study`` does; raises ``RunError`` where one of its runs fails."""
    check_runs(planned, folder)
    keep_study(planned, folder)
    outcomes = run_study(planned, folder, jobs=1, listener=Listener())
    failed = [outcome.reason for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise RunError("; ".join(failed))


def study(folder: Path) -> Study:
    """Write the file of a study with two arms of the plain kind into a folder, and read it."""
    experiment = applied(config("plain"))
    del experiment["name"], experiment["seed"]
    file = folder / "given.toml"
    file.write_text(tomli_w.dumps({"name": NAME, "seeds": [0], "arms": ARMS, "experiment": experiment}))
    return load_study(file)


def results(kind: str, folder: Path) -> str:
    """Return a hash of all that a finished run gives: tensors and rows, but for measured time."""
    digest = hashlib.sha256()
    runs = sorted((folder / NAME / "runs").glob("[!.]*")) if kind == "study" else [folder / NAME]
    for run in runs:
        digest.update(run.name.encode() + (run / "model.safetensors").read_bytes())
        for ledger in RunDirectory.ledgers:
            text = (run / ledger).read_text()
            assert not text or text.endswith("\n")
            rows = [repeatable(json.loads(line)) for line in text.splitlines()]
            digest.update(json.dumps(rows, sort_keys=True).encode())
        assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        leftovers = [path for path in run.rglob(".*") if path.suffix in (".tmp", ".new")]
        assert not leftovers, leftovers
    return digest.hexdigest()


if __name__ == "__main__":
    start(sys.argv[1], Path(sys.argv[2]))
