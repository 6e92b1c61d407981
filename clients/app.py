"""The ClientApp: work orders in, work results out. All of the work is done by ``fedfmd.worker``.

In a simulation one process hosts many virtual clients, and module state lives as long as the process: the
worker, with its model and memory-mapped data, is built by the first order and reused by all later ones.
"""

from dataclasses import asdict

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedfmd.courier import from_record, to_record
from fedfmd.nn import Temperatures
from fedfmd.packages import WorkOrder, pack, unpack
from fedfmd.process import prepare_process
from fedfmd.worker import Worker, cached_worker

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the order's clients; reply with their exact sum and a row for each."""
    del context
    meta, tensors = unpack(from_record(message.content))
    result = _worker(meta["experiment"]).train(WorkOrder.from_json(meta["order"]), tensors["state"])
    return Message(to_record(result.pack()), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on the clients' own pictures; reply with counts."""
    del context
    meta, tensors = unpack(from_record(message.content))
    worker = _worker(meta["experiment"])
    result = worker.evaluate(tuple(meta["clients"]), Temperatures(**meta["temperatures"]), tensors["state"])
    return Message(to_record(pack({"evaluation": asdict(result)}, {})), reply_to=message)


def _worker(document: str) -> Worker:
    worker = cached_worker(document)
    prepare_process(worker.experiment.config.backend.threads)
    return worker
