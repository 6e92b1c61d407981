"""Flower's Grid over workers on Ray: its nodes are places in a pool of processes, and answer in this process.

What Flower itself does for a ServerApp, and apps have no public way to do, is here and nowhere else: giving
this process an identity, and each message its name.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.errors import RunError
from fedfmd.flower.cluster import Cluster, ray_cluster
from fedfmd.flower.pool import RayPool
from fedfmd.machine.liveness import DIED

RUN, SERVER = 1, 1
"""The only run of this grid, and its server's number among the nodes."""
WAIT_SECONDS = 0.2
"""How long a look for replies lasts when there are none."""
CHECK_SECONDS = 2.0
"""Pause between two looks whether Ray itself lives."""


class RayGrid(Grid):
    """A grid whose nodes are as many as the workers of ``pool``; any worker may answer for any node.

    A message waits here until a worker is free, so one that is being started delays nobody. A worker that is
    lost with its message is an error reply, as it is under Flower's own SuperLink.
    """

    def __init__(self, pool: RayPool, cluster: Cluster):
        self.pool = pool
        self.cluster = cluster
        self.waiting: deque[Message] = deque()
        self.out: dict[str, Message] = {}
        """What workers have, by its name."""
        self.replies: dict[str, Message] = {}
        """What nobody has asked for yet, by the name of the message it answers."""
        self.checked = time.monotonic()
        self._run: Any = None

    def set_run(self, run: Any) -> None:
        """Set the run that this grid belongs to."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run that was set."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """List the nodes."""
        return [SERVER + 1 + place for place in range(self.pool.size)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; gives their names."""
        names = []
        for message in messages:
            name = uuid4().hex
            message.metadata.__dict__["_message_id"] = name
            self.waiting.append(message)
            names.append(name)
        self._hand_out()
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that are there, after a short wait if there are none.

        Raises ``RunError`` when Ray has died, or can start no worker.
        """
        wanted = list(message_ids)
        if not any(name in self.replies for name in wanted):
            self._work(WAIT_SECONDS)
        return [self.replies.pop(name) for name in wanted if name in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and give their replies, those that come within ``timeout`` seconds."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        names, replies = set(self.push_messages(messages)), list[Message]()
        while names and time.monotonic() < deadline:
            found = self.pull_messages(names)
            names -= {reply.metadata.reply_to_message_id for reply in found}
            replies += found
        return replies

    def _hand_out(self) -> None:
        while self.waiting and self.pool.idle:
            message = self.waiting.popleft()
            name = message.metadata.message_id
            self.out[name] = message
            self.pool.submit(name, message)

    def _work(self, seconds: float) -> None:
        if time.monotonic() - self.checked > CHECK_SECONDS:
            self.cluster.check()
            self.checked = time.monotonic()
        for done in self.pool.wait(seconds):
            message = self.out.pop(done.tag)
            self.replies[done.tag] = done.reply or _lost(message)
        self._hand_out()


@contextmanager
def ray_grid(backend: BackendConfig) -> Iterator[RayGrid]:
    """Start workers on Ray as ``backend`` says, on a Ray of their own or on the cluster it names.

    Raises ``RunError`` when Ray cannot start or has no room for one worker; with less room than asked for
    there are fewer workers.
    """
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, RUN
    cpus, gpus = backend.threads or 1, backend.gpus_per_worker
    with ray_cluster(backend) as cluster:
        size = min(backend.workers or 1, cluster.room(cpus, gpus))
        if not size:
            raise RunError(
                f"Ray has no machine with {cpus} CPUs (backend.threads) and {gpus:g} GPUs "
                "(backend.gpus_per_worker) for a worker"
            )
        pool = RayPool(size, cpus, gpus)
        try:
            yield RayGrid(pool, cluster)
        finally:
            pool.close()


def server_context() -> Context:
    """Return the context in which a ServerApp runs on this grid."""
    return Context(RUN, SERVER, {}, RecordDict(), {})


def _lost(message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, DIED), reply_to=message)
