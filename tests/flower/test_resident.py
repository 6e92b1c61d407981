"""The processes for messages, each the copy of one that stays: with a real fork server and a Runtime API."""

import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import active_children, forkserver
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec
from waiting import wait_until

from fedfmd.flower import resident

server: Any = forkserver._forkserver


class Runtime(ThreadingHTTPServer):
    """What a SuperNode offers the processes for its messages; it has none, and says so when allowed to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.asked: list[str] = []
        self.may_answer = Event()


class Asked(BaseHTTPRequestHandler):
    server: Runtime

    def do_POST(self) -> None:
        self.server.asked.append(self.path.rpartition("/")[2])
        self.server.may_answer.wait()
        self.send_error(404)

    def log_message(self, *said: object) -> None:
        """Print nothing."""


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        thread = Thread(target=runtime.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield runtime
        finally:
            runtime.may_answer.set()
            runtime.shutdown()
            thread.join()


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[resident.ForkingExecutor]:
    """With less to import: what it is to import is tried by the runs on real clients."""
    monkeypatch.setattr(resident, "PRELOADED", ["flwr.supernode.runtime.run_clientapp"])
    executor = resident.ForkingExecutor()
    yield executor
    executor.close()
    assert wait_until(lambda: not active_children())
    server._stop()


def message(runtime: Runtime, number: int) -> ExecutionSpec:
    return ExecutionSpec(
        task_type=TaskType.CLIENT_APP,
        runtime_api_address=f"127.0.0.1:{runtime.server_port}",
        token=f"token-{number}",
        insecure=True,
        root_certificates_path=None,
        runtime_dependency_install=False,
        parent_pid=os.getpid(),
        suppress_output=False,
        task_id=number,
    )


def parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_each_message_has_a_process_whatever_became_of_the_fork_server(
    executor: resident.ForkingExecutor, runtime: Runtime
) -> None:
    """Copies of one process while it lives; another one takes its place."""
    executor.reconcile()
    first = server._forkserver_pid
    for number in (1, 2):
        executor.launch(message(runtime, number))
    assert wait_until(lambda: runtime.asked.count("pull-task-input") == 2)
    assert [parent(process.pid) for process in active_children()] == [first, first]
    runtime.may_answer.set()
    assert wait_until(lambda: not active_children())
    os.kill(first, signal.SIGKILL)
    executor.launch(message(runtime, 3))
    assert server._forkserver_pid != first
    assert wait_until(lambda: runtime.asked.count("pull-task-input") == 3)


def test_at_the_end_no_process_stays(executor: resident.ForkingExecutor, runtime: Runtime) -> None:
    executor.reconcile()
    executor.launch(message(runtime, 1))
    assert wait_until(lambda: runtime.asked)
    executor.close()
    runtime.may_answer.set()
    assert wait_until(lambda: not active_children())


def test_nothing_but_client_apps_is_taken(executor: resident.ForkingExecutor) -> None:
    executor.reconcile()
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())
