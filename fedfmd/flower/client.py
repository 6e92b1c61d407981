"""The ClientApp: work orders in, work results out. All of the work is done by ``fedfmd.training.worker``.

In a simulation one process hosts many virtual clients, and module state lives as long as the process: the
worker, with its model and memory-mapped data, is built by the first order and reused by all later ones. In a
deployment the node is one client, named by its node config, and opens nothing but its own pictures.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedfmd.deploy.client import RealClient
from fedfmd.deploy.identity import identity_of, is_real_client
from fedfmd.devices.participant import Host
from fedfmd.errors import RunError
from fedfmd.flower.exchange import Place
from fedfmd.flower.messages import from_record, to_record
from fedfmd.process import prepare_process
from fedfmd.training.worker import Worker, cached_worker
from fedfmd.wire.packages import WorkOrder, WorkResult, pack, unpack

app = ClientApp()


@app.query()
def get_ready(message: Message, context: Context) -> Message:
    """Build the worker before there is work; reply when done, a real client with who it is."""
    worker = _worker(json.loads(from_record(message.content).meta), context)
    said = {"introduction": asdict(worker.introduce())} if isinstance(worker, RealClient) else {}
    return Message(to_record(pack(said, {})), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the order's clients; reply with their exact sum and a row for each."""
    work = Work.of(message, context)
    if isinstance(work.worker, RealClient):
        result = work.worker.train(work.order, work.vector)
        result = _with_downlink(result, from_record(message.content).wire_bytes)
    else:
        result = work.worker.train(work.order, work.vector, work.memory)
    return Message(to_record(result.pack()), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on the clients' own pictures; reply with counts."""
    work = Work.of(message, context)
    result = asdict(work.worker.evaluate(work.order, work.vector))
    return Message(to_record(pack({"evaluation": result}, {})), reply_to=message)


@dataclass(frozen=True)
class Work:
    """An order, who carries it out, what it starts from, and the memory for its sum, if that is shared."""

    worker: Worker | RealClient
    order: WorkOrder
    vector: Tensor
    memory: Tensor | None

    @classmethod
    def of(cls, message: Message, context: Context) -> "Work":
        """Read a message."""
        meta, tensors = unpack(from_record(message.content))
        worker, order = _worker(meta, context), WorkOrder.from_json(meta["order"])
        # A real client lets no server name files on its machine.
        if "place" not in meta or isinstance(worker, RealClient):
            return cls(worker, order, tensors["vector"], None)
        place = Place(**meta["place"])
        return cls(worker, order, place.open_vector(), place.open_sum())


def _with_downlink(result: WorkResult, wire_bytes: int) -> WorkResult:
    """Write down what a real client received; the server writes down what it sent."""
    return replace(result, rows=tuple(replace(row, downlink_wire_bytes=wire_bytes) for row in result.rows))


def _worker(meta: dict[str, Any], context: Context) -> Worker | RealClient:
    worker: Worker | RealClient
    if "deployment" in meta:
        host = Host(**meta["host"]) if "host" in meta else None
        worker = RealClient(identity_of(context.node_config), json.loads(meta["deployment"]), host)
    elif is_real_client(context.node_config):
        raise RunError("this node is one client, not a worker; set clients in the run config")
    else:
        worker = cached_worker(meta["experiment"])
    prepare_process(worker.config.backend.threads)
    return worker
