"""Real runs, tiny: what they share, and how two of them are compared."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedfmd import api
from fedfmd.config.experiment import ExperimentConfig, changed
from fedfmd.launch import launching
from fedfmd.records.rows import repeatable
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run


def tiny_config(**changes: dict[str, Any]) -> ExperimentConfig:
    """Eight clients, four a round, each with 30 pictures, and a network of 11,000 weights."""
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "sampled", "clients": 8, "samples_per_client": 30},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
        "client": {"batch_size": 10},
        "server": {"rounds": 3, "cohort": 4, "strategy": "fedavgm"},
        "evaluation": {"batch_size": 16},  # so that workers share the test
    }
    return changed({"name": "tiny", **document}, changes)


def launch(directory: RunDirectory, on_round: Callable[[Any], None]) -> dict[str, Any]:
    """Run a directory to its end where its config says, as the command line does; returns the summary."""
    with launching(directory.config.backend) as launched:
        return api.run(directory, launched, on_round).summary


def kill(pids: list[int]) -> None:
    """Kill -9; one that is gone already is fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def run_inline(out: Path, **changes: dict[str, Any]) -> RunDirectory:
    """Run the tiny config in this process."""
    backend = {"kind": "inline"}
    directory = start_run(tiny_config(**{**changes, "backend": backend}), out)
    execute(directory, InlineExecutor)
    return directory


def rows(directory: RunDirectory, name: str) -> list[Any]:
    """Read a ledger whole: a torn line is an error here."""
    text = (directory.path / name).read_text()
    assert not text or text.endswith("\n")
    return [repeatable(json.loads(line)) for line in text.splitlines()]


def assert_same_run(one: RunDirectory, other: RunDirectory) -> None:
    """Same weights to the bit, and the same ledgers but for measured time."""
    model = "model.safetensors"
    assert (one.path / model).read_bytes() == (other.path / model).read_bytes()
    for ledger in RunDirectory.ledger_names:
        assert rows(one, ledger) == rows(other, ledger)
