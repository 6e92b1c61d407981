"""Runs a run directory through Flower's simulation engine on Ray, in a process of its own.

``launch`` starts that process and watches it: one Ctrl-C does not end Flower's engine, and a backend that
cannot start would leave the ServerApp waiting, so both are ended from outside. What the two share is the run
directory: the rounds are read from it as they are written, and so is the reason when a run stops.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fedfmd.errors import RunError
from fedfmd.flower.exchange import remove_exchange
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.sections import BackendConfig

POLL_SECONDS = 0.02
STOP_TIMEOUT_SECONDS = 15.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


def launch(directory: RunDirectory, on_round: Callable[[Json], None]) -> Json:
    """Run ``directory`` to its end in a child process; returns the summary.

    Raises ``RunError`` when the run stopped, and ``KeyboardInterrupt`` after the child has ended in order.
    """
    directory.recover()
    directory.reopen()
    directory.unlock()  # the child takes over
    path = directory.path
    with (path / "log.txt").open("ab") as log, (path / "rounds.jsonl").open("rb") as rounds:
        rounds.seek(0, os.SEEK_END)
        child = _start(path, log)
        try:
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
                _report(rounds, on_round)
        finally:
            _end(child)
        _report(rounds, on_round)
    return _outcome(directory, child.returncode)


def run_directory(directory: RunDirectory) -> None:
    """Run ``directory`` through Flower and Ray in this process, which is left to Ray afterwards."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from fedfmd.flower.client import app as client_app
    from fedfmd.flower.engine import improve_simulation
    from fedfmd.flower.grid import GridExecutor
    from fedfmd.process import prepare_process
    from fedfmd.runs import execute

    backend = directory.config.backend
    workers = backend.workers or 1
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        prepare_process(backend.threads)
        here = backend.ray_address is None
        execute(directory, lambda e: GridExecutor(grid, e, workers, on_this_machine=here))

    improve_simulation()
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=workers,
        backend_config=backend_config(backend),
    )


def backend_config(backend: BackendConfig) -> dict[str, Any]:
    """Say to Flower's simulation engine what Ray has to provide.

    ``max_restarts``: a worker that dies is started again; without it Flower's pool gives a dead one away
    for ever.
    """
    workers, threads = backend.workers or 1, backend.threads
    here = {"num_cpus": workers * threads, "include_dashboard": False}
    return {
        "client_resources": {"num_cpus": threads, "num_gpus": backend.gpus_per_worker, "max_restarts": -1},
        "init_args": here if backend.ray_address is None else {"address": backend.ray_address},
    }


def _start(path: Path, log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedfmd.flower.simulation", str(path)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**QUIET, **os.environ},
        start_new_session=True,
    )


def _report(rounds: BinaryIO, on_round: Callable[[Json], None]) -> None:
    """Tell of every line that is whole by now; a torn one is read again next time."""
    while (line := rounds.readline()).endswith(b"\n"):
        on_round(json.loads(line))
    rounds.seek(-len(line), os.SEEK_CUR)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child, and whatever Ray left in its session; no write of a ledger is cut in two."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    remove_exchange(child.pid)


def _outcome(directory: RunDirectory, returncode: int) -> Json:
    summary = directory.summary()
    if summary and summary["status"] == "finished":
        return summary
    if summary:
        raise RunError(f"{directory.path}: {summary['reason']}")
    raise RunError(f"{directory.path}: ended with code {returncode}; see log.txt there")


def _exit_in_order(directory: RunDirectory, code: int) -> None:
    """End this process now, but not in the middle of a write; what runs is repeated by a resumed run."""
    with directory.writing():
        os._exit(code)


def _root_cause(error: BaseException) -> str:
    """Give the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def _exit_with_parent(directory: RunDirectory) -> None:
    """End when the launcher is gone: its end of our standard input then closes.

    Nobody else is left then to end what Ray started in our session; some of it would stay for ever.
    """
    with suppress(OSError):
        while os.read(0, 1):
            pass
    remove_exchange(os.getpid())
    with directory.writing():
        os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Entry point of the child process."""
    directory = RunDirectory.open(Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: _exit_in_order(directory, 143))
    threading.Thread(target=_exit_with_parent, args=(directory,), daemon=True).start()
    logging.getLogger("flwr").setLevel(logging.INFO)
    try:
        run_directory(directory)
    except Exception as error:
        # The thread of the ServerApp would wait for ever for workers that do not come.
        logging.exception("the simulation ended early")
        directory.stop(f"the simulation could not go on: {_root_cause(error)}")
        _exit_in_order(directory, 1)


if __name__ == "__main__":
    main()
