"""Real clients behind Flower's messages, without its processes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from fedfmd.deployment.layout import PICTURES
from fedfmd.flower import real_clients
from fedfmd.flower.client import app


class Nodes:
    """A grid whose nodes are the clients of a folder, each with its own pictures; they answer at once."""

    def __init__(self, folder: Path, clients: int):
        self.folder = folder
        self.clients = clients
        self.asked: list[tuple[int, Message]] = []
        self.waiting: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self.clients + 1)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            client = message.metadata.dst_node_id - 1
            message.metadata.__dict__["_message_id"] = f"m{len(self.asked)}"
            self.asked.append((client, message))
            self.waiting.append(self.answer(client, message))
            names.append(message.metadata.message_id)
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        del names
        found, self.waiting = self.waiting, []
        return found

    def answer(self, client: int, message: Message) -> Message:
        return app(message, self.context(client))

    def context(self, client: int) -> Context:
        own: dict[str, bool | float | int | str] = {
            "client-id": client,
            "data": str(self.folder / "data" / f"client-{client}" / PICTURES),
            "state": str(self.folder / f"state-{client}"),
            "threads": 1,
        }
        return Context(run_id=0, node_id=client + 1, node_config=own, state=RecordDict(), run_config={})


@contextmanager
def as_one_task(cache: Path) -> Iterator[None]:
    """Let this process be a task of Flower's, with prepared images in ``cache``, that waits for nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(cache))
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1, raising=False)
        patch.setattr(real_clients, "POLL_SECONDS", 0.001)
        yield
