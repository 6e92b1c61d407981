"""Every example runs, as its own text says, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedfmd.records.rundir import RunDirectory

ROOT = Path(__file__).parents[1]


QUICK = {"quick_start", "own_strategy"}


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
        for path in sorted((ROOT / "examples").glob("*.py"))
    ],
)
def test_example(script: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    environment = {**os.environ, "FEDFMD_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), "server.rounds=2", "client.epochs=1", "backend.threads=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    directory = RunDirectory.open(run)
    assert (directory.summary() or {})["status"] == "finished"  # its own parts are known to the script alone
    assert [row["round"] for row in directory.rounds()] == [0, 1, 2]
    assert str(Path("runs", run.name)) in done.stdout
