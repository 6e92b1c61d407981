"""What starts the process for each message on a client: Flower's SuperExec, with processes that are forked.

Flower 1.41's own starts Python anew for a message, and imports torch and Flower in it: seconds of a processor
that a small client does not have. Here a process that has imported all of that, and has done nothing else,
stays, Python's fork server, and each message gets a copy of it. The copy is a process of its own as before:
what one message leaves behind, or dies of, does not reach the next. A fork server that dies is started again.

One private place of Flower's is changed, in this process: the choice of how SuperExec starts processes.
"""

import multiprocessing
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing import active_children, forkserver
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.supernode.runtime.run_clientapp import run_clientapp

superexec: Any = import_module("flwr.supercore.superexec.run_superexec")
command: Any = import_module("flwr.supercore.cli.flower_superexec")
PRELOADED = ["httpcore", "fedfmd.flower.client", run_clientapp.__module__]
"""What answering a message imports; httpx imports httpcore only when it first connects."""

TRIES = 5
"""How often a process for a message is asked for, while the fork server dies and is started again."""
PAUSE_SECONDS = 0.2
"""Between two tries."""


def main() -> None:
    """Run a SuperExec with the arguments of ``flower-superexec``."""
    superexec.get_executor = lambda *_, **__: ForkingExecutor()
    with suppress(KeyboardInterrupt):  # by which Flower ends it with the node, at work or just begun
        command.flower_superexec()


class ForkingExecutor(SubprocessExecutor):
    """Starts the process for a message as a copy of one that has everything imported."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_: Any
    ) -> tuple[set[TaskType], set[str]]:
        """Take messages for ClientApps alone."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process that answers a message."""
        settings = {
            "runtime_api_address": spec.runtime_api_address,
            "token": spec.token,
            "insecure": spec.insecure,
            "certificates": validate_and_resolve_root_certificates(
                spec.root_certificates_path, spec.insecure
            ),
            "parent_pid": spec.parent_pid,
        }
        for _ in range(TRIES):
            try:
                self.context.Process(target=run_clientapp, kwargs=settings).start()
                return LaunchResult.accepted()
            except (OSError, EOFError):  # the fork server died just now
                time.sleep(PAUSE_SECONDS)
        return LaunchResult.failed("no process for the message could be started")

    def reconcile(self) -> None:
        """Start the fork server where there is none, and forget the processes that have ended."""
        forkserver.ensure_running()
        active_children()

    def close(self) -> None:
        """End the processes that are still at work."""
        for process in active_children():
            process.terminate()
