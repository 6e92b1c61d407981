"""What runs in a worker's process: Flower's ClientApp, and an answer to whoever asks whether it lives.

The app brings PyTorch, and is imported in the worker alone: who starts one need not have imported it yet.
"""

import os
import traceback
from typing import NamedTuple

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedfmd.machine.processes import end_with_parent


class Whereabouts(NamedTuple):
    """Where a worker's process is."""

    machine: str
    pid: int


class ClientAppActor:
    """Hosts the ClientApp in a process of its own, an actor of Ray with two threads: work, and pulse."""

    def __init__(self) -> None:
        end_with_parent()
        from fedfmd.flower.client import app

        self.app = app

    def handle(self, message: Message) -> Message:
        """Let the ClientApp answer; what it raises becomes an error reply, as Flower's own nodes do it."""
        node = message.metadata.dst_node_id
        context = Context(message.metadata.run_id, node, {}, RecordDict(), {})
        try:
            return self.app(message, context)
        except Exception:
            reason = traceback.format_exc()
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def pulse(self) -> Whereabouts:
        """Answer from a thread beside the work: a long training does not delay it, a frozen process does."""
        return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())
