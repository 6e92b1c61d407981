"""Logbooks, read back by the tools that they are for."""

import time
from pathlib import Path

import pytest

from fedfmd.config.experiment import parse_config
from fedfmd.config.sections.logging import LoggingConfig
from fedfmd.errors import UserError
from fedfmd.records import logbook
from fedfmd.records.logbook import check_installed, open_logbook, scalars

CONFIG = parse_config({"name": "tiny", "server": {"rounds": 3}})


def row(round: int, top1: float | None) -> dict:
    usage = {"layer1.0.conv1": [0.25, 0.75]}
    return {
        "round": round,
        "top1": top1,
        "macs": 5 * round,
        "cumulative": {"macs": 10 * round, "device_seconds": None},
        "diagnostics": {"kernel_usage": usage},
    }


def write(folder: Path, rows: list[dict], *, last_round: int = -1, **asked: bool) -> None:
    with open_logbook(folder, CONFIG, LoggingConfig.model_validate(asked), last_round=last_round) as book:
        for each in rows:
            book.on_round(each)


def test_numbers_are_named_by_their_path() -> None:
    assert dict(scalars(row(2, None))) == {
        "round": 2,
        "macs": 10,
        "cumulative/macs": 20,
        "diagnostics/kernel_usage/layer1.0.conv1/0": 0.25,
        "diagnostics/kernel_usage/layer1.0.conv1/1": 0.75,
    }
    assert dict(scalars({"flag": True, "text": "7"})) == {}


def read_tensorboard(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_tensorboard_reads_every_round(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0.125), row(1, None), row(2, 0.5)])

    assert read_tensorboard(tmp_path, "top1") == [(0, 0.125), (2, 0.5)]
    assert read_tensorboard(tmp_path, "cumulative/macs") == [(0, 0), (1, 10), (2, 20)]
    assert read_tensorboard(tmp_path, "diagnostics/kernel_usage/layer1.0.conv1/1")[0] == (0, 0.75)


def test_a_resumed_run_drops_what_it_repeats(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0.0), row(1, 0.25), row(2, 0.75)])
    write(tmp_path, [row(2, 0.5), row(3, 0.625)], last_round=1)

    assert read_tensorboard(tmp_path, "top1") == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.625)]


def test_a_file_of_events_sorts_behind_the_earlier_ones(tmp_path: Path) -> None:
    """Whatever numbers the process gives its files: by name, `...9` stands behind `...10`."""
    (tmp_path / "tensorboard").mkdir()
    earlier = tmp_path / "tensorboard" / f"events.out.tfevents.{int(time.time()):010d}.host.9.9"
    earlier.touch()
    write(tmp_path, [row(0, 0.5)])

    assert sorted((tmp_path / "tensorboard").iterdir())[0] == earlier


def test_nothing_is_written_when_nothing_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0.5)], tensorboard=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_what_is_missing_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "_installed", lambda name: name != package)
    with pytest.raises(UserError, match=rf"logging\.{package} = true: .* pip install 'fedfmd\[{package}\]'"):
        check_installed(LoggingConfig.model_validate({package: True}))


def test_mlflow_reads_every_round_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(tmp_path, [row(0, 0.0), row(1, 0.25)], tensorboard=False, mlflow=True)
    write(tmp_path, [row(2, 0.5)], tensorboard=False, mlflow=True, last_round=1)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fedfmd").experiment_id])
    history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "top1")]
    assert sorted(history) == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert run.data.params["server/rounds"] == "3"
    assert run.info.status == "FINISHED"


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    write(tmp_path, [row(0, 0.0), row(1, 0.25)], tensorboard=False, wandb=True)

    (record,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"cumulative/macs" in record.read_bytes()
