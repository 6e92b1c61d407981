"""The newest Flower that ``pyproject.toml`` allows, in an environment of its own: the same bits."""

import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from tiny_runs import assert_same_run, run_inline, tiny_config

from fedfmd.config.experiment import dump_config
from fedfmd.records.rundir import RunDirectory

ROOT = Path(__file__).parents[2]


def newest_bound() -> str:
    """Give the version below which Flower is allowed, as ``1.43``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (flower,) = [line for line in project["dependencies"] if line.startswith("flwr[")]
    return flower.rpartition("<")[2]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment that has the newest allowed Flower, and sees this one for all the rest."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    major, minor = newest_bound().split(".")
    wanted = f"flwr=={major}.{int(minor) - 1}.*"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{wanted} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_newest_allowed_flower_gives_the_same_bits(python: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(dump_config(tiny_config(backend={"workers": 2})))
    code = (
        "import sys, flwr\n"
        "from importlib.metadata import version\n"
        f"assert flwr.__file__.startswith({str(tmp_path)!r}), flwr.__file__\n"
        "print(version('flwr'))\n"
        "from fedfmd.cli.app import main\n"
        "sys.argv[0] = 'fedfmd'\n"
        "main()\n"
    )
    done = subprocess.run(
        [python, "-c", code, "simulate", config, "--out", tmp_path / "run"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    bound = newest_bound()
    assert done.stdout.split(".")[1] == str(int(bound.split(".")[1]) - 1), done.stdout
    assert_same_run(run_inline(tmp_path / "oracle"), RunDirectory.open(tmp_path / "run"))
