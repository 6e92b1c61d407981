"""The runs whose writes are recorded and cut: tiny, three rounds; and the commands that run and resume them.

A folder holds one run directory, or a study's folder, named ``it``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import tomli_w

from fedfmd.records.rows import repeatable
from fedfmd.records.rundir import RunDirectory

NAME = "it"
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"server": {"strategy": "fedavgm"}},
    "scaffold": {"client": {"scaffold": True, "momentum": 0.0}},
    "buffered": {
        "server": {"mode": "buffered", "buffer": 1},
        "devices": {"kind": "tiers", "tiers": [{"name": "a", "like": "phone-mid"}]},
    },
    "study": {},
}
ARMS = [{"name": "a"}, {"name": "b", "set": {"client.learning_rate": 0.01}}]


def write_given(kind: str, file: Path) -> None:
    """Write the experiment of a kind: four clients, two a round, each with eight images; or a study of it."""
    document: dict[str, Any] = {
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
    study = {"seeds": [0], "arms": ARMS, "experiment": document}
    file.write_text(tomli_w.dumps({"name": NAME, **(study if kind == "study" else document)}))


def start(kind: str, given: Path, folder: Path) -> list[str]:
    """Return the arguments of ``fedfmd`` that run to the end from nothing."""
    return [_command(kind), str(given), "--out", str(folder / NAME)]


def go_on(kind: str, given: Path, folder: Path) -> list[str]:
    """Return the arguments that bring what is there to its end: anew where there is nothing, else resumed."""
    there = folder / NAME / "study.toml" if kind == "study" else folder / NAME
    return [_command(kind), "--resume", str(folder / NAME)] if there.exists() else start(kind, given, folder)


def _command(kind: str) -> str:
    return "study" if kind == "study" else "simulate"


def results(kind: str, folder: Path) -> str:
    """Return a hash of all that a finished run gives: tensors and rows, but for measured time."""
    digest = hashlib.sha256()
    runs = sorted((folder / NAME / "runs").glob("[!.]*")) if kind == "study" else [folder / NAME]
    for run in runs:
        digest.update(run.name.encode() + (run / "model.safetensors").read_bytes())
        for ledger in RunDirectory.ledger_names:
            text = (run / ledger).read_text()
            assert not text or text.endswith("\n")
            rows = [repeatable(json.loads(line)) for line in text.splitlines()]
            digest.update(json.dumps(rows, sort_keys=True).encode())
        assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        leftovers = [path for path in run.rglob(".*") if path.suffix in (".tmp", ".fedfmd-new")]
        assert not leftovers, leftovers
    assert "</html>" in (folder / NAME / "report.html").read_text()
    return digest.hexdigest()
