"""Carries work orders to Flower nodes and their replies back."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from torch import Tensor

from fedfmd.courier import from_record, to_record
from fedfmd.errors import RunError
from fedfmd.evaluation import Evaluation
from fedfmd.experiment import Experiment
from fedfmd.nn import Temperatures
from fedfmd.packages import BadPackageError, LostOrder, Package, WorkOrder, WorkResult, pack, unpack

POLL_SECONDS = 0.02
NODES_TIMEOUT_SECONDS = 120.0


class GridExecutor:
    """An executor over the nodes of a Flower grid: a node is a worker, whatever clients it is given.

    Flower's own strategies send one message a client, wait for all replies and sample nodes; here the
    server names the clients, a node gets the next order once it has answered, and replies are folded in as
    they come, so traffic and memory grow with the workers and not with the cohort.
    """

    def __init__(self, grid: Grid, experiment: Experiment, workers: int):
        self.grid = grid
        self.experiment = experiment
        self.document = json.dumps(experiment.to_json(), sort_keys=True)
        self.nodes = wait_for_nodes(grid, workers)
        self.workers = len(self.nodes)

    def train(self, orders: Sequence[WorkOrder], state: Tensor) -> Iterator[WorkResult | LostOrder]:
        """Run the orders, one at a time on each node; replies come in order of completion."""
        tensors = pack({}, {"state": state}).tensors
        metas = [json.dumps({"experiment": self.document, "order": order.to_json()}) for order in orders]
        packages = [Package(meta, tensors) for meta in metas]
        for index, reply in self._exchange(packages, MessageType.TRAIN):
            yield _read(orders[index], len(state), reply)

    def evaluate(
        self, clients: Sequence[tuple[int, ...]], temperatures: Temperatures, state: Tensor
    ) -> Iterator[Evaluation]:
        """Evaluate groups of clients; a group whose worker is lost is left out."""
        tensors = pack({}, {"state": state}).tensors
        common = {"experiment": self.document, "temperatures": asdict(temperatures)}
        packages = [Package(json.dumps({**common, "clients": group}), tensors) for group in clients]
        for _, reply in self._exchange(packages, MessageType.EVALUATE):
            if not reply.has_error():
                meta, _ = unpack(from_record(reply.content))
                yield Evaluation(**meta["evaluation"])

    def _exchange(self, packages: Sequence[Package], kind: str) -> Iterator[tuple[int, Message]]:
        waiting = deque(enumerate(packages))
        idle = deque(self.nodes)
        pending: dict[str, tuple[int, int]] = {}
        while waiting or pending:
            while waiting and idle:
                index, package = waiting.popleft()
                node = idle.popleft()
                pending[self._push(package, kind, node)] = (index, node)
            for reply in self._pull(pending):
                index, node = pending.pop(reply.metadata.reply_to_message_id)
                idle.append(node)
                yield index, reply

    def _push(self, package: Package, kind: str, node: int) -> str:
        message = Message(to_record(package), dst_node_id=node, message_type=kind)
        (identifier,) = self.grid.push_messages([message])
        return identifier

    def _pull(self, pending: dict[str, tuple[int, int]]) -> list[Message]:
        replies = list(self.grid.pull_messages(list(pending)))
        if not replies:
            time.sleep(POLL_SECONDS)
        return replies


def wait_for_nodes(grid: Grid, workers: int, timeout: float = NODES_TIMEOUT_SECONDS) -> list[int]:
    """Wait until ``workers`` nodes are there: a ServerApp starts before its nodes are registered.

    Raises ``RunError`` when there is none at all in ``timeout`` seconds; fewer than asked for are enough.
    """
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= workers:
            return nodes[:workers]
        if time.monotonic() > deadline:
            if not nodes:
                raise RunError(f"no Flower node connected in {timeout:.0f} s")
            return nodes
        time.sleep(POLL_SECONDS)


def _read(order: WorkOrder, elements: int, reply: Message) -> WorkResult | LostOrder:
    if reply.has_error():
        return LostOrder(order=order, reason=_last_line(reply.error.reason))
    try:
        return WorkResult.unpack(from_record(reply.content), order, elements)
    except BadPackageError as error:
        return LostOrder(order=order, reason=str(error))


def _last_line(reason: str | None) -> str:
    """Keep what a person needs of a remote traceback."""
    lines = [line.strip() for line in (reason or "no reason given").splitlines() if line.strip()]
    return lines[-1][:500]
