"""Kill -9, Ctrl-C and a full disk at work: what was written stays, and a resumed run ends the same."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import assert_same_run, kill, launch, run_inline, tiny_config
from waiting import wait_until

from fedfmd.config.experiment import ExperimentConfig, dump_config
from fedfmd.errors import RunError
from fedfmd.flower.cluster import short_root
from fedfmd.machine import liveness
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.workers.exchange import SHARED_MEMORY

Started = Callable[[str], list[int]]
ROUNDS = {"rounds": 24}
WORKER = "ray::ClientAppActor"


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The run that nobody disturbs."""
    return run_inline(tmp_path_factory.mktemp("oracle") / "run", server=ROUNDS)


def config_for(kind: str) -> ExperimentConfig:
    backend = {"kind": kind, "workers": 2} if kind == "ray" else {"kind": kind}
    return tiny_config(server=ROUNDS, backend=backend)


def new_run(path: Path, kind: str = "ray") -> RunDirectory:
    return start_run(config_for(kind), path)


def command_line(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, which hears SIGHUP even where the tests do not."""
    code = "import sys; from fedfmd.cli.app import main; sys.argv[0] = 'fedfmd'; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def simulate(tmp_path: Path, kind: str) -> subprocess.Popen[str]:
    config = tmp_path / "tiny.toml"
    config.write_text(dump_config(config_for(kind)))
    return command_line("simulate", config, "--out", tmp_path / "run")


def has_rounds(path: Path, count: int) -> Callable[[], bool]:
    """Say whether a run that may not exist yet has written ``count`` rounds, round 0 among them."""
    ledger = path / "rounds.jsonl"
    return lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= count


def once_at(round: int, action: Callable[[], None]) -> Callable[[dict], None]:
    """Do something when a round has been written."""
    return lambda row: action() if row["round"] == round else None


def finish_inline(directory: RunDirectory) -> None:
    execute(directory, InlineExecutor)


@pytest.mark.slow
def test_a_killed_ray_worker_changes_nothing(oracle: RunDirectory, tmp_path: Path, started: Started) -> None:
    directory = new_run(tmp_path / "run")
    launch(directory, once_at(2, lambda: kill(started(WORKER)[:1])))
    assert_same_run(oracle, directory)


def test_a_frozen_ray_worker_is_replaced_and_changes_nothing(
    oracle: RunDirectory, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE_SECONDS", 3.0)
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend(started(WORKER)[:1])
        os.kill(frozen[0], signal.SIGSTOP)

    directory = new_run(tmp_path / "run")
    launch(directory, once_at(2, freeze))
    assert frozen
    assert_same_run(oracle, directory)


@pytest.mark.slow
def test_a_worker_that_freezes_at_the_end_does_not_delay_it(tmp_path: Path, started: Started) -> None:
    """The last round is written, nobody asks the worker any more; it must be gone all the same."""
    directory = new_run(tmp_path / "run")
    launch(directory, once_at(ROUNDS["rounds"], lambda: os.kill(started(WORKER)[0], signal.SIGSTOP)))
    assert directory.finished()


@pytest.mark.parametrize(
    "service",
    [
        pytest.param("gcs_server", marks=pytest.mark.slow),
        pytest.param("raylet/raylet", marks=pytest.mark.slow),
        pytest.param("ray::RuntimeEnvAgent", marks=pytest.mark.slow),
    ],
)
def test_a_part_of_ray_that_dies_is_the_reason_why_the_run_stops(
    oracle: RunDirectory, tmp_path: Path, started: Started, service: str
) -> None:
    """Workers outlive it for a few seconds: a long run has not ended by then."""
    directory = start_run(tiny_config(server={"rounds": 10_000}, backend={"workers": 2}), tmp_path / "run")

    def kill_service() -> None:
        assert wait_until(lambda: started(service)), "a service may come later than the first rounds"
        kill(started(service)[:1])

    with pytest.raises(RunError, match=r"Ray's (head|process) .* has died"):
        launch(directory, once_at(2, kill_service))
    assert "has died" in (directory.summary() or {})["reason"]
    assert wait_until(lambda: not started("")), started("")


@pytest.mark.slow
def test_a_killed_driver_takes_everything_with_it_and_resumes(
    oracle: RunDirectory, tmp_path: Path, started: Started
) -> None:
    """One of its workers is frozen by then; its folders are removed by the next start."""
    process = simulate(tmp_path, "ray")
    assert wait_until(has_rounds(tmp_path / "run", 4), 120)
    left = folders_of(process.pid)
    assert len(left) == 2
    os.kill(started(WORKER)[0], signal.SIGSTOP)
    process.kill()
    process.communicate()
    # Ray's agents look only now and then whether what they belong to is still there.
    assert wait_until(lambda: not started(""), 90)
    resumed = command_line("simulate", "--resume", tmp_path / "run")
    text, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, text
    assert_same_run(oracle, RunDirectory.open(tmp_path / "run"))
    assert not [folder for folder in left if folder.exists()]


def folders_of(pid: int) -> set[Path]:
    """List the folders that a run on Ray holds, in temporary files and shared memory.

    Any other start on this machine may remove them once it is dead, so they are asked for while it lives.
    """
    opened = {link.resolve() for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {path for path in opened if path.parent in (short_root(), SHARED_MEMORY) and path.is_dir()}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        pytest.param("inline", signal.SIGINT, marks=pytest.mark.slow),
        ("inline", signal.SIGTERM),
        pytest.param("inline", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_says_how_to_resume_and_leaves_nothing_behind(
    oracle: RunDirectory, tmp_path: Path, started: Started, kind: str, sent: signal.Signals
) -> None:
    process = simulate(tmp_path, kind)
    assert wait_until(has_rounds(tmp_path / "run", 4), 120)
    process.send_signal(sent)
    text, _ = process.communicate(timeout=180)
    assert process.returncode == 128 + sent, text
    assert f"fedfmd simulate --resume {tmp_path / 'run'}" in text
    assert "Traceback" not in text
    assert wait_until(lambda: not started("")), started("")
    directory = RunDirectory.open(tmp_path / "run")
    finish_inline(directory)
    assert_same_run(oracle, directory)


def kill_and_finish(tmp_path: Path, delay: float) -> RunDirectory:
    """Kill -9 a plain-loop run ``delay`` seconds after its first round, and finish it here."""
    process = simulate(tmp_path, "inline")
    assert wait_until(has_rounds(tmp_path / "run", 1), 60)
    time.sleep(delay)
    process.kill()
    process.communicate()
    directory = RunDirectory.open(tmp_path / "run")
    if not directory.finished():
        finish_inline(directory)
    return directory


def test_a_killed_plain_loop_resumes_to_the_same_bits(oracle: RunDirectory, tmp_path: Path) -> None:
    assert_same_run(oracle, kill_and_finish(tmp_path, 0.3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(oracle: RunDirectory, tmp_path: Path, seed: int) -> None:
    assert_same_run(oracle, kill_and_finish(tmp_path, random.Random(seed).uniform(0, 2)))


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_written(
    oracle: RunDirectory, tmp_path: Path
) -> None:
    """A limit on the size of a file stands for the full disk; it tears the line that meets it."""
    directory = new_run(tmp_path / "run", "inline")
    clients = directory.path / "clients.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (clients.stat().st_size + 10, before[1]))

    try:
        with pytest.raises(
            RunError, match=r"/run: File too large; make room or go on with a copy elsewhere$"
        ) as error:
            execute(directory, InlineExecutor, once_at(5, fill_the_disk))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(directory.path) in str(error.value)
    assert (directory.summary() or {})["reason"] in str(error.value)
    assert not clients.read_bytes().endswith(b"\n")
    assert [row["round"] for row in directory.rounds()] == list(range(6))
    finish_inline(directory)
    assert_same_run(oracle, directory)


def test_two_processes_cannot_continue_the_same_run(tmp_path: Path, started: Started) -> None:
    process = simulate(tmp_path, "inline")
    assert wait_until(has_rounds(tmp_path / "run", 1), 60)
    os.kill(process.pid, signal.SIGSTOP)
    second = command_line("simulate", "--resume", tmp_path / "run")
    text, _ = second.communicate(timeout=180)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "another process" in text
