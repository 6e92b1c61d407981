"""A pool of worker processes of this machine: jobs in turn, and another process for one that is lost."""

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from fedfmd.errors import RunError
from fedfmd.machine.liveness import DIED, FAILED_STARTS, LATE, TICK_SECONDS, Silence, Watch
from fedfmd.machine.processes import end_process
from fedfmd.wire.packages import Package
from fedfmd.workers.fork_server import ForkServer
from fedfmd.workers.process import Alive, Job


@dataclass(eq=False)
class WorkerProcess:
    """A process of the pool, and what it was asked."""

    place: int
    """Its number, which the one that replaces it takes over."""
    connection: Connection
    pid: int | None = None
    """Null until it is ready."""
    job: int | None = None
    """Number of the job that it has not answered; null while it is idle."""
    due: float = float("inf")
    """When the job counts as lost."""
    end: str = DIED
    """Why it will have ended."""
    silence: Silence = field(default_factory=Silence)


@dataclass(frozen=True)
class Answered:
    """What became of a job: a package, or the reason why there is none."""

    job: int
    package: Package | None = None
    reason: str = ""


@dataclass
class ProcessPool:
    """Workers of one experiment, given as JSON; a new process takes the place of one that died or froze."""

    fork_server: ForkServer
    experiment: str
    size: int
    members: list[WorkerProcess] = field(default_factory=list)
    idle: deque[WorkerProcess] = field(default_factory=deque)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self.members += [self._hire(place) for place in range(self.size)]

    def submit(self, number: int, job: Job, due: float) -> None:
        """Give a job to the worker that has been idle longest; there must be one.

        It is lost when it has no answer at ``due``, on the monotonic clock.
        """
        member = self.idle.popleft()
        member.job, member.due = number, due
        with suppress(OSError):  # of one that has died: its answer is looked for, and that is seen then
            member.connection.send(job)

    def wait(self) -> list[Answered]:
        """Wait a moment for something to happen; gives the jobs that have come to an end.

        Raises ``RunError`` when no worker can be started.
        """
        heard = wait([member.connection for member in self.members], TICK_SECONDS)
        done = [self._listen(member) for member in tuple(self.members) if member.connection in heard]
        self._end_lost()
        return [answered for answered in done if answered is not None]

    def close(self) -> None:
        """End all workers, those in the middle of a job, too."""
        for member in self.members:
            member.connection.close()
            if member.pid is not None:
                end_process(member.pid)
        self.members.clear()

    def _hire(self, place: int) -> WorkerProcess:
        member = WorkerProcess(place, self.fork_server.fork())
        with suppress(OSError):
            member.connection.send(self.experiment)
        return member

    def _listen(self, member: WorkerProcess) -> Answered | None:
        """Take what a worker says, or replace one that is lost; gives its job when that has ended."""
        try:
            said = member.connection.recv()
        except (EOFError, OSError):
            return self._replace(member)
        if isinstance(said, Alive):
            member.silence.end(said.pid)
            if member.pid is None:
                member.pid = said.pid
                self.watch.start()
                self.idle.append(member)
            return None
        if member.job is None:
            raise RunError(f"a worker cannot start: {said.reason}")
        answered = Answered(member.job, said.package, said.reason)
        member.job, member.due = None, float("inf")
        self.idle.append(member)
        return answered

    def _replace(self, member: WorkerProcess) -> Answered | None:
        member.connection.close()
        if member.pid is None:
            self.watch.fail(f"{FAILED_STARTS} processes in a row have died")
        if member in self.idle:
            self.idle.remove(member)
        self.members[self.members.index(member)] = self._hire(member.place)
        return None if member.job is None else Answered(member.job, reason=member.end)

    def _end_lost(self) -> None:
        """End the processes that are late, or silent for too long; their connections then close."""
        passed = self.watch.seconds_listened()
        for member in self.members:
            if member.pid is None:
                continue
            member.silence.seconds += passed
            if time.monotonic() > member.due:
                member.end = LATE
                end_process(member.pid)
            elif member.silence.frozen(member.pid):
                end_process(member.pid)
