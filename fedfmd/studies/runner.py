"""Run a study's experiments, several at a time, each in a process of its own.

A study may be killed at any moment. Its runs then end with it, because each reads from a pipe that closes;
started again it keeps what is finished, continues what is not from the last checkpoint, and refuses a run
directory that another config has made.
"""

import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedfmd.config.conditions import applied
from fedfmd.config.documents import leaves
from fedfmd.config.experiment import ExperimentConfig, load_config
from fedfmd.config.parts import check_shared, origins
from fedfmd.errors import RunError, UserError, pasted
from fedfmd.files import remove_leftovers, take_lock, write_atomic
from fedfmd.machine.children import module_command
from fedfmd.machine.gpus import visible_gpus
from fedfmd.machine.processes import available_cores
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.stopping import ELSEWHERE, disk_reason
from fedfmd.records.tail import Tail
from fedfmd.studies.child import PLANNED
from fedfmd.studies.plan import PlannedRun, Study

POLL_SECONDS = 0.1
LOCK_PATIENCE_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 15.0

RunStatus = Literal["waiting", "kept", "finished", "failed"]


@dataclass(frozen=True)
class RunOutcome:
    """What became of one run: ``kept`` was finished before the study started, ``waiting`` is not yet."""

    arm: str
    seed: int
    folder: str
    status: RunStatus
    reason: str = ""
    seconds: float = 0.0


@dataclass
class _Active:
    run: PlannedRun
    process: "subprocess.Popen[bytes]"
    started: float
    gpu: str | None
    ledger: "Ledger"


class Ledger:
    """How many rounds of training a run has written down, counted as they come."""

    def __init__(self, folder: Path, run: PlannedRun):
        self._tail, self._lines = Tail(run_folder(folder, run) / filenames.ROUNDS), 0

    def rounds_done(self) -> int:
        """Count the rounds; the first line is of round 0, before any training."""
        cut, lines = self._tail.read()
        self._lines = (0 if cut else self._lines) + len(lines)
        return max(self._lines - 1, 0)


class Listener:
    """What a study tells as it goes; a listener that shows something overrides these."""

    def on_start(self, run: PlannedRun, rounds_done: int) -> None:
        """Hear that a run begins, or continues after ``rounds_done`` rounds."""

    def on_rounds(self, run: PlannedRun, rounds_done: int) -> None:
        """Hear how many rounds a run has behind it."""

    def on_end(self, outcome: RunOutcome) -> None:
        """Hear what became of a run."""


def run_study(
    study: Study, folder: Path, claim: int, *, jobs: int, listener: Listener, gpus: Sequence[str] = ()
) -> list[RunOutcome]:
    """Bring every run of the study to its end, at most ``jobs`` at a time; a failed run stops no other.

    ``claim`` is what ``claimed`` gave for the folder. Runs that compute on a GPU are spread over ``gpus``,
    names for ``CUDA_VISIBLE_DEVICES``. Raises ``RunError`` when the disk fails.
    """
    for run in study.runs:
        check_shared(run.config)
    try:
        return _run_all(study, folder, claim, jobs, listener, gpus)
    except OSError as error:
        reason = disk_reason(error)
        raise RunError(
            f"{folder}: {reason}; continue with: fedfmd study --resume {pasted(folder)}"
        ) from error


def _run_all(
    study: Study, folder: Path, claim: int, jobs: int, listener: Listener, gpus: Sequence[str]
) -> list[RunOutcome]:
    (folder / filenames.RUNS).mkdir(parents=True, exist_ok=True)
    waiting = deque(run for run in study.runs if not _finished(run, folder))
    left = {run.folder for run in waiting}
    outcomes = [_outcome(run, "kept") for run in study.runs if run.folder not in left]
    write_outcomes(folder, [*outcomes, *(_outcome(run, "waiting") for run in waiting)])
    for outcome in outcomes:
        listener.on_end(outcome)
    active: list[_Active] = []
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.popleft()
                gpu = least_used_gpu(run, gpus, [task.gpu for task in active])
                active.append(_start(run, folder, claim, listener, gpu))
            time.sleep(POLL_SECONDS)
            for task in list(active):
                listener.on_rounds(task.run, task.ledger.rounds_done())
                if task.process.poll() is not None:
                    active.remove(task)
                    outcomes.append(_ended(task, folder))
                    listener.on_end(outcomes[-1])
    finally:
        _stop(active)
    order = {run.folder: i for i, run in enumerate(study.runs)}
    outcomes.sort(key=lambda outcome: order[outcome.folder])
    write_outcomes(folder, outcomes)
    return outcomes


@contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Make a study's folder, or claim the one that is there; gives the claim, a descriptor.

    The runs inherit it, so that it ends when the last of them has ended. Raises ``UserError`` when another
    process works there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None
    try:
        lock = take_lock(folder / filenames.LOCK, LOCK_PATIENCE_SECONDS)
    except BlockingIOError:
        raise UserError(f"{folder}: another process is working on this study") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; {ELSEWHERE}") from None
    with lock:
        remove_leftovers(folder)
        yield lock.fileno()


def keep_study(study: Study, folder: Path) -> None:
    """Write the study into its folder, complete in itself; raises ``UserError``."""
    try:
        write_atomic(folder / filenames.STUDY, study.dump())
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None


def places(study: Study, jobs: int | None) -> tuple[int, list[str]]:
    """Return how many runs go on at a time, ``jobs`` at most, and the GPUs that they are spread over.

    Without ``jobs`` as many as there are GPUs, or as have a core for each of their workers.
    """
    backends = [run.config.backend for run in study.runs]
    gpus = visible_gpus() if any(backend.device == "cuda" for backend in backends) else []
    most = len(gpus) or available_cores() // max(backend.workers or 1 for backend in backends)
    return max(1, min(jobs or most, len(study.runs))), gpus


def check_runs(study: Study, folder: Path, *, but: Sequence[str] = ()) -> None:
    """Raise ``UserError`` if a run directory in ``folder`` was made by another config than the study's.

    The keys ``but`` may differ.
    """
    for run in study.runs:
        path = run_folder(folder, run)
        if not path.exists():
            continue
        before, now = results_keys(load_config(path / PLANNED, run=path)), results_keys(run.config)
        changed = [key for key in before | now if key not in but and before.get(key) != now.get(key)]
        if changed:
            key = changed[0]
            raise UserError(
                f"{path}: was made with {key} = {before.get(key)!r}, the study now says {now.get(key)!r}; "
                "choose another --out, or undo the change"
            )


def run_folder(folder: Path, run: PlannedRun) -> Path:
    """Return the run directory of a run."""
    return folder / filenames.RUNS / run.folder


def write_outcomes(folder: Path, outcomes: Sequence[RunOutcome]) -> None:
    """Keep what became of each run."""
    write_atomic(folder / filenames.OUTCOMES, json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")


def _finished(run: PlannedRun, folder: Path) -> bool:
    path = run_folder(folder, run)
    if not path.exists():
        return False
    directory = RunDirectory.open(path)
    return directory.finished() and directory.config.server.rounds >= run.config.server.rounds


def results_keys(config: ExperimentConfig) -> dict[str, Any]:
    """Everything that a result depends on: of the backend only the device."""
    document = config.model_dump(mode="json")
    return leaves(document | {"backend": {"device": config.backend.device}})


def least_used_gpu(run: PlannedRun, gpus: Sequence[str], busy: Sequence[str | None]) -> str | None:
    """Choose the GPU with the fewest of the runs that are at work; null for a run without one."""
    if run.config.backend.device == "cpu" or not gpus:
        return None
    return min(gpus, key=busy.count)


def _start(run: PlannedRun, folder: Path, claim: int, listener: Listener, gpu: str | None) -> _Active:
    document = applied(run.config)
    parts = [part.to_json() for part in origins(run.config)]
    order = {"path": str(run_folder(folder, run)), "config": document, "parts": parts}
    (folder / "logs").mkdir(exist_ok=True)
    ledger = Ledger(folder, run)
    listener.on_start(run, ledger.rounds_done())
    with _log_file(folder, run).open("wb") as log:
        process = subprocess.Popen(
            module_command("fedfmd.studies.child"),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(claim,),
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}),
            start_new_session=True,  # Ctrl-C reaches the study alone, which then ends its runs in order
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    return _Active(run, process, time.monotonic(), gpu, ledger)


def _log_file(folder: Path, run: PlannedRun) -> Path:
    return folder / "logs" / f"{run.folder}.txt"


def _ended(task: _Active, folder: Path) -> RunOutcome:
    _close(task.process)
    seconds = time.monotonic() - task.started
    if task.process.returncode == 0 and _finished(task.run, folder):
        return _outcome(task.run, "finished", seconds=seconds)
    log = _log_file(folder, task.run)
    lines = log.read_text(errors="replace").strip().splitlines()
    code = task.process.returncode
    reason = lines[-1] if lines and code == 1 else f"ended with code {code}; see {log}"
    return _outcome(task.run, "failed", reason, seconds)


def _outcome(run: PlannedRun, status: RunStatus, reason: str = "", seconds: float = 0.0) -> RunOutcome:
    return RunOutcome(run.arm, run.seed, run.folder, status, reason, round(seconds, 3))


def _stop(active: Sequence[_Active]) -> None:
    """End the runs in order, between two writes; one that does not end is killed."""
    for task in active:
        _close(task.process)
    for task in active:
        try:
            task.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            task.process.kill()
            task.process.wait()


def _close(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
