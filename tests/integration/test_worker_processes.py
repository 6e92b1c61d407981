"""Inline with several workers: processes of this machine, with the bits of the plain loop, whoever dies."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same_run, kill, run_inline, tiny_config
from waiting import wait_until

import fedfmd
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import RunError, UserError
from fedfmd.machine import liveness
from fedfmd.records.schema import Json

Started = Callable[[str], list[int]]
FORK_SERVER = "fedfmd.workers.fork_server"
LIMITED: dict[str, dict[str, Any]] = {
    "server": {"mode": "buffered", "buffer": 3},
    "policy": {"kind": "auto", "width_mode": "rolling"},
    "budget": {"macs_fraction": 0.3},
    "devices": {"kind": "lognormal"},
    "compression": {"uplink": "int8"},
    "evaluation": {"clients": 3},
    "diagnostics": {"enabled": True},
}
SECURE: dict[str, dict[str, Any]] = {"privacy": {"secure": "secagg"}, "server": {"rounds": 2}}


def several(workers: int = 2, **changes: dict[str, Any]) -> ExperimentConfig:
    return tiny_config(**changes, backend={"kind": "inline", "workers": workers})


def once_at(round: int, action: Callable[[], object]) -> Callable[[Json], None]:
    def listen(row: Json) -> None:
        if row["round"] == round:
            action()

    return listen


def born(started: Started) -> list[int]:
    """List the workers: what shares the fork server's command line, but for the oldest, which is itself."""
    return sorted(started(FORK_SERVER))[1:]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param(LIMITED, id="limited"),
        pytest.param(SECURE, id="secure", marks=pytest.mark.slow),
    ],
)
def test_processes_give_the_bits_of_the_plain_loop(
    tmp_path: Path, started: Started, changes: dict[str, Any]
) -> None:
    result = fedfmd.simulate(several(**changes), out=tmp_path / "run")
    assert_same_run(run_inline(tmp_path / "oracle", **changes), result.directory)


def test_the_server_of_processes_computes_with_the_threads_of_the_plain_loop(
    tmp_path: Path, started: Started
) -> None:
    """It measures the initial model, whose bits depend on them; PyTorch starts with all cores."""
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    try:
        fedfmd.simulate(
            several(server={"rounds": 1}),
            out=tmp_path / "run",
            on_round=lambda _: seen.append(torch.get_num_threads()),
        )
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, id="frozen"),
    ],
)
def test_a_lost_worker_is_replaced_and_changes_nothing(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.setattr(liveness, "SILENCE_SECONDS", 3.0)
    lost: list[int] = []

    def lose() -> None:
        lost.append(born(started)[0])
        os.kill(lost[0], how)

    config = several(server={"rounds": 4})
    result = fedfmd.simulate(config, out=tmp_path / "run", on_round=once_at(1, lose))
    assert lost
    assert_same_run(run_inline(tmp_path / "oracle", server={"rounds": 4}), result.directory)


def test_clients_that_kill_or_hang_their_process_fail_alone(tmp_path: Path, started: Started) -> None:
    places = [(1, 2, "kill"), (2, 5, "hang")]
    faults = {"at": [{"round": r, "client": c, "kind": k} for r, c, k in places]}
    config = several(faults=faults, server={"rounds": 2, "cohort": 8}, client={"deadline_seconds": 6.0})
    rows = fedfmd.simulate(config, out=tmp_path / "run").directory.clients()
    bad = [(row["round"], row["client"], row["status"]) for row in rows if row["status"] != "completed"]
    assert bad == [(1, 2, "failed"), (2, 5, "failed")]


def test_a_run_whose_workers_cannot_be_replaced_stops_and_goes_on_later(
    tmp_path: Path, started: Started
) -> None:
    lose_all = once_at(1, lambda: kill([started(FORK_SERVER)[0]]))
    with pytest.raises(RunError, match="the process that starts workers has ended"):
        fedfmd.simulate(several(), out=tmp_path / "run", on_round=lose_all)
    assert wait_until(lambda: not started(FORK_SERVER)), "workers end with the process that started them"
    assert "starts workers" in json.loads((tmp_path / "run" / "summary.json").read_text())["reason"]
    assert_same_run(run_inline(tmp_path / "oracle"), fedfmd.resume(tmp_path / "run").directory)


def test_what_several_workers_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "main_part", torch.nn.Conv2d, raising=False)
    with pytest.raises(UserError, match=r"main_part': is registered in the script .* backend\.workers = 1"):
        fedfmd.simulate(several(model={"conv": "__main__:main_part"}), out=tmp_path / "run")
    with pytest.raises(UserError, match=r"backend\.workers = 1024: at most"):
        fedfmd.simulate(several(1024), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


HANGS_IN_ONE_WORKER = '''
import sys
import time
import traceback
from pathlib import Path

from torch import nn

from fedfmd.training import watchdog

watchdog.STALL_SECONDS = 4.0
WHERE = "test"
HUNG = Path(__file__).with_name("hung")


class Hanging(nn.GroupNorm):
    """The first worker that comes WHERE it is to hang does, while its pulse goes on."""

    def __init__(self, channels):
        super().__init__(1, channels)

    def forward(self, images):
        there = any(f.name == WHERE and f.filename.endswith("worker.py") for f in traceback.extract_stack())
        if there and "fork_server" in sys.argv[0] and not HUNG.exists():
            HUNG.touch()
            time.sleep(3600)
        return super().forward(images)
'''


def test_a_worker_that_hangs_while_it_tests_the_model_is_not_waited_for(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline is set, and it gives signs of life: the server knows what a test takes."""
    assert_nobody_waits("test", tmp_path, monkeypatch)


@pytest.mark.parametrize("where", ["train", "examine"])
def test_a_worker_that_gets_no_further_is_replaced_without_a_deadline(
    where: str, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_nobody_waits(where, tmp_path, monkeypatch)


def assert_nobody_waits(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one worker hang for an hour; the run goes on, and has the bits of one where none does."""
    module = HANGS_IN_ONE_WORKER.replace('"test"', f'"{where}"').replace(
        "4.0", "1800.0" if where == "test" else "4.0"
    )
    (tmp_path / f"hanging_in_{where}.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    changes: dict[str, Any] = {
        "model": {"norm": f"hanging_in_{where}:Hanging"},
        "partition": {"holdout": 0.2},
        "evaluation": {"clients": 3},
    }
    result = fedfmd.simulate(several(**changes), out=tmp_path / "run")
    assert (tmp_path / "hung").exists()
    assert_same_run(run_inline(tmp_path / "oracle", **changes), result.directory)
