"""The ClientApp: work orders in, work results out. All of the work is done by ``fedfmd.training.worker``.

In a simulation one process hosts many virtual clients, and module state lives as long as the process: the
worker, with its model and memory-mapped data, is built by the first order and reused by all later ones. In a
deployment the node is one client, named by its node config, and opens nothing but its own images.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import wraps

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedfmd.deployment.assignment import RefusedOrderError, read_assignment
from fedfmd.deployment.client import RealClient, count_images
from fedfmd.deployment.identity import identity_of, is_real_client
from fedfmd.devices.participant import Host
from fedfmd.errors import RunError, UserError
from fedfmd.flower.messages import from_record, to_record
from fedfmd.machine.process import prepare_process
from fedfmd.records.schema import Record, SchemaError
from fedfmd.secure.messages import Ask
from fedfmd.training.worker import Worker, cached_worker
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import RESULT, BadPackageError, Package, WorkOrder, WorkResult, pack, unpack
from fedfmd.wire.testing import ServerTestOrder, ServerTestResult
from fedfmd.workers.exchange import Place

app = ClientApp()
Handler = Callable[[Message, Context], Message]


def discreet(handler: Handler) -> Handler:
    """Tell the server of a real client's failure no more than its kind: an error's text may quote files."""

    @wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except (RefusedOrderError, BadPackageError):
            raise  # what these say is of the server's message
        except Exception as error:
            if not is_real_client(context.node_config):
                raise
            told = RunError(f"{type(error).__name__}; the client's own log says more")
            if not isinstance(error, UserError):
                raise told from error
            print(f"error: {error}", flush=True)
            raise told from None

    return answer


@app.query()
@discreet
def get_ready(message: Message, context: Context) -> Message:
    """Build the worker before there is work; reply when done, a real client with who it is.

    A real client that is asked for sums over its images, or for a stage of a secure sum, answers that.
    """
    told, _ = Instructions.of(from_record(message.content))
    if told.statistics and told.deployment is not None:
        totals = count_images(identity_of(context.node_config), read_assignment(told.deployment))
        return Message(to_record(pack({"statistics": asdict(totals)}, {})), reply_to=message)
    worker = _worker(told, context)
    if told.stage is not None and isinstance(worker, RealClient):
        answer = worker.stage(told.stage).to_json()
        return Message(to_record(pack({"stage": answer}, {})), reply_to=message)
    said = {"introduction": asdict(worker.introduce())} if isinstance(worker, RealClient) else {}
    return Message(to_record(pack(said, {})), reply_to=message)


@app.train()
@discreet
def train(message: Message, context: Context) -> Message:
    """Train the order's clients; reply with their exact sum and a row for each."""
    work = AskedWork.of(message, context)
    if isinstance(work.worker, RealClient):
        result = work.worker.train(work.order, work.vector)
        result = _with_downlink(result, from_record(message.content).wire_bytes)
    else:
        result = work.worker.train(work.order, work.vector, work.memory)
    return Message(to_record(result.pack()), reply_to=message)


@app.evaluate()
@discreet
def evaluate(message: Message, context: Context) -> Message:
    """Measure models on the clients' own images, or the global one on the server's; reply with counts."""
    found = AskedWork.of(message, context).measured()
    return Message(to_record(pack({RESULT: found.to_json()}, {})), reply_to=message)


@dataclass(frozen=True, kw_only=True)
class Instructions(Record):
    """The document of a message from the server."""

    order: WorkOrder | None = None
    examination: ExaminationOrder | None = None
    test: ServerTestOrder | None = None
    deployment: str | None = None
    """Describes the experiment to a real client."""
    experiment: str | None = None
    """Describes it to a worker of a simulation."""
    statistics: bool = False
    """Whether a real client is asked for sums over its images, to agree on a normalisation."""
    host: Host | None = None
    """What the server plans with for this client."""
    stage: Ask | None = None
    """A stage of a secure sum, asked of a real client."""
    place: Place | None = None
    """Where a worker on the server's machine finds its vector."""

    @classmethod
    def of(cls, package: Package) -> tuple["Instructions", dict[str, Tensor]]:
        """Read a message, and its tensors; raises ``BadPackageError`` for any other."""
        meta, tensors = unpack(package)
        try:
            return cls.exactly(meta), tensors
        except SchemaError as error:
            raise BadPackageError(f"malformed order: {error}") from None


@dataclass(frozen=True)
class AskedWork:
    """What is asked, who carries it out, from which state, and the memory for its sum, if that is shared."""

    worker: Worker | RealClient
    told: Instructions
    vector: Tensor
    memory: Tensor | None

    @property
    def order(self) -> WorkOrder:
        """What to train; raises ``BadPackageError`` where nothing is to be."""
        if self.told.order is None:
            raise BadPackageError("the message holds no order")
        return self.told.order

    def measured(self) -> ExaminationResult | ServerTestResult:
        """Measure what is asked; raises as ``order`` does, and ``RefusedOrderError`` at a real client."""
        if self.told.examination is not None:
            return self.worker.examine(self.told.examination, self.vector)
        if self.told.test is None:
            raise BadPackageError("the message holds no order to measure")
        if isinstance(self.worker, RealClient):
            raise RefusedOrderError("an order to test on the server's images, which are not here")
        return self.worker.test(self.told.test, self.vector)

    @classmethod
    def of(cls, message: Message, context: Context) -> "AskedWork":
        """Read a message; raises ``BadPackageError`` for one without a state, or that is none of ours."""
        told, tensors = Instructions.of(from_record(message.content))
        worker = _worker(told, context)
        # A real client lets no server name files on its machine.
        if told.place is not None and not isinstance(worker, RealClient):
            return cls(worker, told, told.place.open_vector(), told.place.open_sum())
        if "vector" not in tensors:
            raise BadPackageError("the message holds no state to start from")
        return cls(worker, told, tensors["vector"], None)


def _with_downlink(result: WorkResult, wire_bytes: int) -> WorkResult:
    """Write down what a real client received; the server writes down what it sent."""
    return replace(result, rows=tuple(replace(row, downlink_wire_bytes=wire_bytes) for row in result.rows))


def _worker(told: Instructions, context: Context) -> Worker | RealClient:
    worker: Worker | RealClient
    if told.deployment is not None:
        given = read_assignment(told.deployment)
        worker = RealClient(identity_of(context.node_config), given, told.host)
    elif is_real_client(context.node_config):
        raise RefusedOrderError("this node is one client, not a worker; set clients in the run config")
    else:
        worker = cached_worker(told.experiment or "")
    prepare_process(worker.config.backend.threads)
    return worker
