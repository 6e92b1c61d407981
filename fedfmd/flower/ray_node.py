"""What runs in a worker's process: Flower's ClientApp, and an answer to whoever asks whether it lives."""

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedfmd.flower.client import app

PR_SET_PDEATHSIG = 1


class Whereabouts(NamedTuple):
    """Where a worker's process is."""

    machine: str
    pid: int


class ClientAppActor:
    """Hosts the ClientApp in a process of its own, an actor of Ray with two threads: work, and pulse."""

    def __init__(self) -> None:
        _end_with_parent()

    def handle(self, message: Message) -> Message:
        """Let the ClientApp answer; what it raises becomes an error reply, as Flower's own nodes do it."""
        node = message.metadata.dst_node_id
        context = Context(message.metadata.run_id, node, {}, RecordDict(), {})
        try:
            return app(message, context)
        except Exception:
            reason = traceback.format_exc()
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def pulse(self) -> Whereabouts:
        """Answer from a thread beside the work: a long training does not delay it, a frozen process does."""
        return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())


def end_process(pid: int) -> None:
    """Kill a process of this machine that does not react any more; one that is gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def processor_ticks(pid: int) -> int:
    """Return the processor time that a process of this machine has used, in clock ticks; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _end_with_parent() -> None:
    """Let the kernel end this process with Ray's on this machine: one that is frozen would stay for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
