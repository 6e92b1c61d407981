"""The example package, installed beside fedfmd: it serves inline, on Ray, in a study and after a break."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
KINDS = {
    "conv", "norm", "partition", "policy", "selection", "compression", "aggregation", "strategy", "algorithm",
}  # fmt: skip
SMALL = [
    "data.train_samples=120", "data.test_samples=20", "model.width=0.1", "server.rounds=2",
    "logging.tensorboard=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(folder),
        str(PLUGIN),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return folder


def fedfmd(site: Path, here: Path, *arguments: str, sets: list[str] = SMALL) -> str:
    """Run a command in a folder, with the package installed; returns what it says."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-m", "fedfmd", *arguments]
    command += [word for key in sets for word in ("--set", key)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_an_installed_package_brings_every_kind_of_part(site: Path, tmp_path: Path) -> None:
    """All of them are recorded, and have done what they are for."""
    config = str(PLUGIN / "example.toml")
    fedfmd(site, tmp_path, "simulate", config, "--backend", "inline", "--out", "whole")
    whole = tmp_path / "whole"
    parts = json.loads((whole / "parts.json").read_text())["registered"]
    assert {part["kind"] for part in parts} == KINDS
    assert {(part["version"], part["folder"]) for part in parts} == {("1.0", None)}
    clients = rows(whole, "clients.jsonl")
    assert [row["client"] for row in clients] == [0, 1, 2, 3, 4, 5]
    assert [row["steps"] for row in clients[:3]] == [2, 2, 2]
    assert all(
        row["downlink_bytes"] - 3 <= 4 * (row["uplink_bytes"] - 4) <= row["downlink_bytes"] for row in clients
    )
    counts = json.loads((whole / "partition.json").read_text())["label_counts"]
    assert {sum(count > 0 for count in client) for client in counts} == {3}


@pytest.mark.slow
def test_parts_of_a_package_serve_on_ray_and_after_a_break(site: Path, tmp_path: Path) -> None:
    """Inline in one go, and on Ray with a break between the rounds: the same bits."""
    config = str(PLUGIN / "example.toml")
    fedfmd(site, tmp_path, "simulate", config, "--backend", "inline", "--out", "whole")
    more = [*(key for key in SMALL if not key.startswith("server.rounds")), "server.rounds=1"]
    fedfmd(site, tmp_path, "simulate", config, "--workers", "2", "--out", "broken", sets=more)
    fedfmd(site, tmp_path, "simulate", "--resume", "broken", "--rounds", "2", sets=[])
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "broken"))
    assert {name: a.tobytes() for name, a in first.items()} == {n: a.tobytes() for n, a in second.items()}


@pytest.mark.slow
def test_a_study_runs_over_parts_of_a_package(site: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f"""
name = "plugin"
base = "{PLUGIN / "example.toml"}"
seeds = [0]

[axes]
"model.conv" = ["static", "separable"]
"server.rounds" = [1]
"data.train_samples" = [120]
"data.test_samples" = [20]
""")
    fedfmd(site, tmp_path, "study", "study.toml", sets=[])
    summaries = list((tmp_path / "studies" / "plugin" / "runs").glob("*/summary.json"))
    assert [json.loads(file.read_text())["status"] for file in summaries] == ["finished"] * 2
