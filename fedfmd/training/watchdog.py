"""Deadlines: a client's own, watched between its steps, and a hard end for work that hangs inside a step.

Work without a deadline may take any time, but not without getting on: it counts as hung when no step and no
batch of it ends for half an hour.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

HARD_FACTOR = 1.5
HARD_GRACE_SECONDS = 2.0
HUNG_EXIT_CODE = 70
STALL_SECONDS = 1800.0
"""Work that ends no step and no batch for so long counts as hung: a slow machine's takes minutes."""
TICK_SECONDS = 1.0
"""More than that of a stall is not counted at a time: a process that was stopped did not hang meanwhile."""
LATE_SECONDS = 10.0
"""How much longer the server waits for an order than its worker lets it take."""


class DeadlinePassedError(TimeoutError):
    """A client has not finished by its deadline."""


@dataclass(frozen=True)
class Deadline:
    """A moment, ``seconds`` after ``started`` (``time.perf_counter``); never, when ``seconds`` is null."""

    seconds: float | None
    started: float

    def check(self) -> None:
        """Raise ``DeadlinePassedError`` when the moment has passed."""
        if self.seconds is not None and time.perf_counter() - self.started > self.seconds:
            raise DeadlinePassedError(f"deadline of {self.seconds:g} s passed")


def hard_seconds(seconds: float) -> float:
    """Return the time after which work that may take ``seconds`` counts as hung."""
    return seconds * HARD_FACTOR + HARD_GRACE_SECONDS


def due(seconds: float | None, late_seconds: float) -> float:
    """Return when (``time.monotonic``) an order that may take ``seconds`` is given up; or never.

    The server waits ``late_seconds`` longer than the worker that hangs lives.
    """
    return float("inf") if seconds is None else time.monotonic() + hard_seconds(seconds) + late_seconds


@dataclass
class _Watch:
    """Work that is watched by a thread beside it."""

    hard_seconds: float
    stall: float = 0.0
    """Seconds since it last got on."""
    ended: threading.Event = field(default_factory=threading.Event)

    def guard(self) -> None:
        """Wait for the end of the work; end the process when that hangs."""
        end = time.monotonic() + self.hard_seconds
        while not self.ended.wait(min(TICK_SECONDS, max(0.0, end - time.monotonic()))):
            self.stall += TICK_SECONDS
            if self.stall > STALL_SECONDS or time.monotonic() >= end:
                print(f"a worker hangs, and is ended: {self._reason}", file=sys.stderr, flush=True)
                os._exit(HUNG_EXIT_CODE)

    @property
    def _reason(self) -> str:
        if self.stall > STALL_SECONDS:
            return f"no step and no batch has ended for {STALL_SECONDS:g} s"
        return f"its work takes longer than {self.hard_seconds:g} s"


_WATCH: ContextVar[_Watch | None] = ContextVar("_WATCH", default=None)
"""Over the work that goes on in this thread."""
Batch = TypeVar("Batch")


def advancing(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of some work, and tell its watch, if there is one, that it gets on."""
    for batch in batches:
        if (watch := _WATCH.get()) is not None:
            watch.stall = 0.0
        yield batch


@contextmanager
def ended_when_hung(seconds: float | None) -> Iterator[None]:
    """End this process if the block gets no further, or lasts far beyond ``seconds``; null for any time.

    A thread cannot be stopped from outside, a process can: the server starts the worker again.
    """
    watch = _Watch(float("inf") if seconds is None else hard_seconds(seconds))
    before = _WATCH.set(watch)
    threading.Thread(target=watch.guard, daemon=True).start()
    try:
        yield
    finally:
        watch.ended.set()
        _WATCH.reset(before)
