"""Centralised runs, tiny: 48 pictures, a network of some thousand weights, one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedfmd.config.experiment import ExperimentConfig, changed, dump_config
from fedfmd.records.rows import repeatable


def tiny_config(**changes: dict[str, Any]) -> ExperimentConfig:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 48, "test_samples": 30},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
        "train": {
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 0.05,
            "device": "cpu",
            "threads": 1,
            "tensorboard": False,
        },
    }
    return changed({"name": "tiny", **document}, changes)


def start_command(*arguments: object, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
    """Start ``python -m fedfmd``, or ``torchrun -m fedfmd`` with several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "fedfmd", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **environment},
    )


def run_command(*arguments: object, processes: int = 1, **environment: str) -> tuple[int, str]:
    process = start_command(*arguments, processes=processes, **environment)
    text, _ = process.communicate(timeout=180)
    return process.returncode, text


def write_config(path: Path, config: ExperimentConfig) -> Path:
    path.write_text(dump_config(config))
    return path


def untimed_epochs(path: Path) -> list[dict[str, Any]]:
    """Read a run's epochs without what is measured anew in every run."""
    rows = [json.loads(line) for line in (path / "epochs.jsonl").read_text().splitlines()]
    return [repeatable(row) for row in rows]
