"""A pool of worker processes on Ray: jobs in turn, a pulse, and another process for one that is lost."""

import time
from dataclasses import dataclass, field
from typing import Any

import ray
from flwr.app import Message
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedfmd.flower.ray_node import ClientAppActor, Whereabouts
from fedfmd.machine.liveness import PULSE_SECONDS, TICK_SECONDS, Silence, Watch
from fedfmd.machine.processes import end_process

END_SECONDS = 5.0
"""How long the end of a run waits for the end of workers that do not answer."""


@dataclass(eq=False)
class RayWorker:
    """A process of the pool: what it was asked, and where it is once it has answered."""

    actor: Any
    question: Any
    """Ray's reference to the answer that is still due; null between two questions."""
    where: Whereabouts | None = None
    """Null until it is ready."""
    silence: Silence = field(default_factory=Silence)
    """Since it was asked."""
    asked_again: float = 0.0
    """When to ask next."""
    ending: Any = None
    """Ray's reference to the end of its process, once that was ordered on another machine."""
    job: Any = None
    """Ray's reference to the reply that is still due; null while it is idle."""
    tag: str = ""


@dataclass(frozen=True)
class Done:
    """What became of a job: a reply, or null where its worker is lost."""

    tag: str
    reply: Message | None


@dataclass
class RayPool:
    """Workers on Ray, as many as asked for; a new process takes the place of one that died or froze."""

    size: int
    cpus: int
    gpus: float
    workers: list[RayWorker] = field(default_factory=list)
    idle: list[RayWorker] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self.workers += [self._hire() for _ in range(self.size)]

    def submit(self, tag: str, message: Message) -> None:
        """Give a job to the worker that was busy last, so that others hold nothing; one must be idle."""
        worker = self.idle.pop()
        worker.tag, worker.job = tag, worker.actor.handle.remote(message)

    def wait(self, seconds: float) -> list[Done]:
        """Wait up to ``seconds`` for something to happen; gives the jobs that have come to an end.

        Raises ``RunError`` when no worker can be started.
        """
        self._ask()
        due = [ref for worker in self.workers for ref in (worker.job, worker.question) if ref is not None]
        if not due:
            time.sleep(min(seconds, PULSE_SECONDS))
            return []
        ready, _ = ray.wait(due, timeout=seconds)
        if ready:
            ready, _ = ray.wait(due, num_returns=len(due), timeout=0)
        done = [found for worker in tuple(self.workers) for found in self._look(worker, set(ready))]
        self._end_frozen()
        return done

    def close(self) -> None:
        """End all workers, those that do not answer, too."""
        asked = {w.question: w.where for w in self.workers if w.question is not None and w.where is not None}
        here = ray.get_runtime_context().get_node_id()
        silent = [asked[question] for question in _unready(list(asked), TICK_SECONDS)]
        for where in silent:
            if where.machine == here:
                end_process(where.pid)
        _unready([_end(where) for where in silent if where.machine != here], END_SECONDS)
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers.clear()

    def _hire(self) -> RayWorker:
        options: Any = {"num_cpus": self.cpus, "num_gpus": self.gpus, "concurrency_groups": {"pulse": 1}}
        actor = ray.remote(**options)(ClientAppActor).remote()
        return RayWorker(actor, _ask_for_pulse(actor))

    def _ask(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.question is None and now >= worker.asked_again:
                worker.question = _ask_for_pulse(worker.actor)

    def _look(self, worker: RayWorker, ready: set[Any]) -> list[Done]:
        """Take what a worker has answered."""
        done: list[Done] = []
        try:
            if worker.job in ready:
                done.append(Done(worker.tag, ray.get(worker.job)))
                worker.job = None
                self.idle.append(worker)
            if worker.question in ready:
                self._alive(worker, ray.get(worker.question))
        except RayError as error:
            done += self._replace(worker, error)
        return done

    def _alive(self, worker: RayWorker, where: Whereabouts) -> None:
        if worker.where is None:
            self.watch.start()
            self.idle.append(worker)
        worker.where, worker.question = where, None
        worker.silence.end(where.pid)
        worker.asked_again = time.monotonic() + PULSE_SECONDS

    def _replace(self, worker: RayWorker, error: RayError) -> list[Done]:
        """Put another process in a lost worker's place."""
        if worker.where is None:
            self.watch.fail(_last_line(error))
        if worker in self.idle:
            self.idle.remove(worker)
        self.workers[self.workers.index(worker)] = self._hire()
        return [Done(worker.tag, None)] if worker.job is not None else []

    def _end_frozen(self) -> None:
        """End the processes that are silent for too long; Ray then says of each that it has died."""
        passed, here = self.watch.seconds_listened(), ray.get_runtime_context().get_node_id()
        for worker in self.workers:
            if worker.question is None or worker.where is None:
                continue
            worker.silence.seconds += passed
            if worker.where.machine == here:
                if worker.silence.frozen(worker.where.pid):
                    end_process(worker.where.pid)
            elif worker.silence.too_long and worker.ending is None:
                worker.ending = _end(worker.where)


def _ask_for_pulse(actor: Any) -> Any:
    return actor.pulse.options(concurrency_group="pulse").remote()


def _unready(references: list[Any], seconds: float) -> list[Any]:
    """Wait up to ``seconds`` for all of them; gives those that are not there by then."""
    if not references:
        return []
    return list(ray.wait(references, num_returns=len(references), timeout=seconds)[1])


def _end(where: Whereabouts) -> Any:
    """Have a process killed on another machine: Ray's own way is to ask it, and it does not react.

    Gives Ray's reference to the end of that.
    """
    there = NodeAffinitySchedulingStrategy(where.machine, soft=False)
    options: Any = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
    return ray.remote(**options)(end_process).remote(where.pid)


def _last_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:500]
