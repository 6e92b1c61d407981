"""The ClientApp: work orders in, work results out. All of the work is done by ``fedfmd.worker``.

In a simulation one process hosts many virtual clients, and module state lives as long as the process: the
worker, with its model and memory-mapped data, is built by the first order and reused by all later ones.
"""

import json
from dataclasses import asdict

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedfmd.courier import from_record, to_record
from fedfmd.packages import WorkOrder, pack, unpack
from fedfmd.process import prepare_process
from fedfmd.worker import Worker, cached_worker

app = ClientApp()


@app.query()
def get_ready(message: Message, context: Context) -> Message:
    """Build the worker before there is work; reply when done."""
    del context
    _worker(json.loads(from_record(message.content).meta)["experiment"])
    return Message(to_record(pack({}, {})), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the order's clients; reply with their exact sum and a row for each."""
    del context
    worker, order, vector = _read(message)
    return Message(to_record(worker.train(order, vector).pack()), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on the clients' own pictures; reply with counts."""
    del context
    worker, order, vector = _read(message)
    result = asdict(worker.evaluate(order, vector))
    return Message(to_record(pack({"evaluation": result}, {})), reply_to=message)


def _read(message: Message) -> tuple[Worker, WorkOrder, Tensor]:
    meta, tensors = unpack(from_record(message.content))
    return _worker(meta["experiment"]), WorkOrder.from_json(meta["order"]), tensors["vector"]


def _worker(document: str) -> Worker:
    worker = cached_worker(document)
    prepare_process(worker.config.backend.threads)
    return worker
