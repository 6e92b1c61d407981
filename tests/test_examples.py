"""Every example runs, as its own text says, in a folder of its own."""

import ast
import os
import shutil
import subprocess
import sys
from importlib import import_module
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


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: "-".join(path.parts[-2:])
)
def test_what_an_example_imports_is_there(script: Path) -> None:
    """A quick look at each: these names are what users build on (docs/stability.md)."""
    imports = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if (node.module or "").startswith("fedfmd.") or node.module == "fedfmd":
            home = import_module(node.module or "")
            public = getattr(home, "__all__", None)
            for alias in node.names:
                assert hasattr(home, alias.name), f"{script.name}: {node.module} has no {alias.name}"
                assert public is None or alias.name in public
