"""What runs in a worker's process: orders in, results out, and a pulse beside the work."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from fedfmd.errors import FAULTS, UserError
from fedfmd.machine.liveness import PULSE_SECONDS
from fedfmd.machine.process import prepare_process
from fedfmd.training.worker import Worker, cached_worker
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import RESULT, Package, WorkOrder, pack
from fedfmd.wire.testing import ServerTestOrder, ServerTestResult
from fedfmd.workers.exchange import Place


@dataclass(frozen=True)
class Job:
    """What a worker is to do."""

    order: WorkOrder | ExaminationOrder | ServerTestOrder
    place: Place
    """Where it finds the vector, and where it puts the sum."""


@dataclass(frozen=True)
class Alive:
    """A sign of life; the first one says that the worker is ready."""

    pid: int


@dataclass(frozen=True)
class JobResult:
    """What became of a job, or of the start: a package, or the reason why there is none."""

    package: Package | None = None
    reason: str = ""


class SharedConnection:
    """A connection that two threads speak on."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.turn = threading.Lock()

    def say(self, word: Alive | JobResult) -> None:
        """Tell the server something; raises ``OSError`` when it is gone."""
        with self.turn:
            self.connection.send(word)


def serve(connection: Connection) -> None:
    """Work for the server at the other end until it closes the connection; first it names the experiment."""
    voice = SharedConnection(connection)
    with suppress(EOFError, OSError):
        try:
            worker = cached_worker(connection.recv())
            prepare_process(worker.config.backend.threads)
        except UserError as error:
            voice.say(JobResult(reason=str(error)))
            return
        threading.Thread(target=_pulse, args=(voice,), daemon=True).start()
        while True:
            voice.say(_carried_out(worker, connection.recv()))


def _carried_out(worker: Worker, job: Job) -> JobResult:
    vector = job.place.open_vector()
    try:
        if isinstance(job.order, ExaminationOrder):
            return _told(worker.examine(job.order, vector))
        if isinstance(job.order, ServerTestOrder):
            return _told(worker.test(job.order, vector))
        return JobResult(worker.train(job.order, vector, job.place.open_sum()).pack())
    except FAULTS as error:
        return JobResult(reason=f"{type(error).__name__}: {error}")


def _told(found: ExaminationResult | ServerTestResult) -> JobResult:
    return JobResult(pack({RESULT: found.to_json()}, {}))


def _pulse(voice: SharedConnection) -> None:
    """Give signs of life from a thread: a long training delays none, a frozen process gives none."""
    with suppress(OSError):
        while True:
            voice.say(Alive(os.getpid()))
            time.sleep(PULSE_SECONDS)
