"""The Python interface: a run from a mapping or a file, with its rows as data frames."""

from pathlib import Path

import pytest

from fedfmd import simulate
from fedfmd.config import dump_config, parse_config
from fedfmd.errors import UserError

CONFIG = {
    "name": "tiny",
    "data": {"train_samples": 120, "test_samples": 40},
    "partition": {"scheme": "sampled", "clients": 6, "samples_per_client": 10},
    "model": {"width": 0.25, "kernels": 2},
    "server": {"rounds": 2, "cohort": 3},
    "backend": {"kind": "inline", "threads": 1},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_run_is_a_function_with_frames(tmp_path: Path) -> None:
    heard: list[int] = []
    result = simulate(CONFIG, out=tmp_path / "run", on_round=lambda row: heard.append(row["round"]))
    assert heard == list(result.rounds.index) == [0, 1, 2]
    assert len(result.clients) == 6
    assert result.clients["macs"].sum() == result.rounds["cumulative.macs"].iloc[-1]
    assert result.summary["final_top1"] == result.rounds["top1"].iloc[-1]
    assert result.report().is_file()
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_file_with_overrides_gives_the_same_run(tmp_path: Path) -> None:
    one = simulate(CONFIG, out=tmp_path / "one")
    file = tmp_path / "tiny.toml"
    file.write_text(dump_config(parse_config(CONFIG | {"server": {"rounds": 7, "cohort": 3}})))
    other = simulate(file, overrides=["server.rounds=2"], out=tmp_path / "other")
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


def test_bad_input_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"server.rounds = 0"):
        simulate(CONFIG | {"server": {"rounds": 0}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
