"""The horizon: what schedules given as a share refer to, recorded where a run begins."""

from pathlib import Path
from typing import Any

import pytest

from fedfmd.config.experiment import parse_config
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import open_experiment, start_run


def started(out: Path, **server: int) -> RunDirectory:
    document: dict[str, Any] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "iid", "clients": 4},
        "temperature": {"curve": "linear", "anneal_fraction": 0.5},
        "server": {"cohort": 2, **server},
        "backend": {"kind": "inline"},
    }
    return start_run(parse_config(document), out)


def kernel_temperatures(directory: RunDirectory, rounds: int) -> list[float]:
    experiment = open_experiment(directory)
    return [experiment.temperatures(round).kernel for round in range(1, rounds + 1)]


def test_a_start_records_its_rounds_as_the_horizon(tmp_path: Path) -> None:
    directory = started(tmp_path / "run", rounds=12)
    assert directory.config.server.horizon == 12
    assert directory.config.backend.threads == 1


def test_more_rounds_keep_the_schedule_of_the_horizon(tmp_path: Path) -> None:
    short, longer = started(tmp_path / "short", rounds=8), started(tmp_path / "longer", rounds=20, horizon=8)
    assert kernel_temperatures(short, 8) == kernel_temperatures(longer, 8)
    assert kernel_temperatures(longer, 20) == pytest.approx([34, 25.75, 17.5, 9.25, *[1] * 16])
    other = started(tmp_path / "other", rounds=20)
    assert kernel_temperatures(other, 8) != kernel_temperatures(short, 8)
