"""Inline, Ray with one, two and three workers, and ``flwr run``: one result, to the bit."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tiny_runs import assert_same_run, kill, launch, rows, run_inline, tiny_config
from waiting import wait_until

from fedfmd.config.experiment import dump_config
from fedfmd.experiment import Experiment
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import start_run

Started = Callable[[str], list[int]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The tiny run in a plain loop."""
    return run_inline(tmp_path_factory.mktemp("oracle") / "run")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Give a folder that leaves room for the names of Ray's sockets, 107 characters at most."""
    with TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "workers", [2, *(pytest.param(workers, marks=pytest.mark.slow) for workers in (1, 3))]
)
def test_any_number_of_ray_workers_gives_the_bits_of_the_plain_loop(
    oracle: RunDirectory, tmp_path: Path, started: Started, workers: int
) -> None:
    directory = start_run(tiny_config(backend={"workers": workers}), tmp_path / "run")
    seen: list[int] = []
    summary = launch(directory, lambda row: seen.append(row["round"]))
    assert_same_run(oracle, directory)
    assert seen == [0, 1, 2, 3]
    assert (summary["status"], summary["rounds"]) == ("finished", 3)


@pytest.mark.slow
def test_parts_of_the_model_sum_to_the_same_bits_on_ray(tmp_path: Path, started: Started) -> None:
    """Clients of many widths, compressed, asynchronous: their parts meet in the same sum anywhere."""
    limited = {
        "server": {"mode": "buffered", "buffer": 3},
        "policy": {"kind": "auto", "width_mode": "rolling"},
        "budget": {"macs_fraction": 0.3},
        "devices": {"kind": "lognormal"},
        "compression": {"uplink": "int8"},
        "diagnostics": {"enabled": True},
    }
    inline = run_inline(tmp_path / "inline", **limited)
    directory = start_run(tiny_config(**limited, backend={"workers": 2}), tmp_path / "ray")
    launch(directory, lambda row: None)
    assert_same_run(inline, directory)


def test_the_ledgers_agree_with_the_rounds(oracle: RunDirectory) -> None:
    rounds, clients = rows(oracle, "rounds.jsonl"), rows(oracle, "clients.jsonl")
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    for row in rounds:
        mine = [client for client in clients if client["round"] == row["round"]]
        assert row["cohort"] == len(mine) == row["completed"]
        assert row["macs"] == sum(client["macs"] for client in mine)
        assert row["uplink_bytes"] == sum(client["uplink_bytes"] for client in mine)
        assert len({client["client"] for client in mine}) == len(mine)


def test_evaluating_on_clients_does_not_change_the_model(oracle: RunDirectory, tmp_path: Path) -> None:
    measured = run_inline(tmp_path / "run", evaluation={"clients": 3})
    assert (measured.path / "model.safetensors").read_bytes() == (
        oracle.path / "model.safetensors"
    ).read_bytes()
    assert all(0 <= row["client_top1"] <= 1 for row in measured.rounds()[1:])


@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_buffers_and_norms_do_not_depend_on_the_packing(tmp_path: Path, norm: str) -> None:
    """BatchNorm's buffers are averaged exactly, too: one order of four clients, or four of one."""
    from fedfmd.rounds.inline import InlineExecutor
    from fedfmd.rounds.lifecycle import execute

    class Wide(InlineExecutor):
        def __init__(self, experiment: Experiment):
            super().__init__(experiment)
            self.workers = 4

    config = tiny_config(model={"norm": norm}, backend={"kind": "inline"})
    one, four = (start_run(config, tmp_path / name) for name in ("one", "four"))
    execute(one, InlineExecutor)
    execute(four, Wide)
    assert_same_run(one, four)


def test_flwr_run_gives_the_bits_of_the_plain_loop(
    oracle: RunDirectory,
    tmp_path: Path,
    short_folder: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``flwr run .`` with the same config file, an override, and a place for the result."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setenv("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
    # Flower's Ray joins the cluster that was started last on this machine, also when that is long dead.
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(dump_config(tiny_config(server={"rounds": 99}, backend={"workers": 2})))
    run_config = f'config="{config}" set="server.rounds=3" out="{out}"'
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(scripts), prepend=os.pathsep)
    command = [str(scripts / "flwr"), "run", ".", "--run-config", run_config]
    try:
        submitted = subprocess.run(
            [*command, "--federation-config", "num-supernodes=2"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        assert wait_until(lambda: (out / "summary.json").exists(), 120), submitted.stdout
    finally:
        kill(started(""))
    assert_same_run(oracle, RunDirectory.open(out))


def test_the_marker_reaches_every_process(started: Started) -> None:
    """The other tests rest on it: a child of a child is found, and is gone when it ends."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        assert wait_until(lambda: len(started("input()")) == 2)
        assert parent.stdin is not None
        parent.stdin.close()
    assert started("input()") == []
