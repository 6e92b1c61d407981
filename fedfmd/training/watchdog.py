"""Deadlines: a client's own, watched between its steps, and a hard end for work that hangs inside a step."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HARD_FACTOR = 1.5
HARD_GRACE_SECONDS = 2.0
HUNG_EXIT_CODE = 70
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


@contextmanager
def ended_when_hung(seconds: float | None) -> Iterator[None]:
    """End this process if the block lasts far beyond the ``seconds`` that it may take; null for any time.

    A thread cannot be stopped from outside, a process can: the server starts the worker again.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(hard_seconds(seconds), os._exit, (HUNG_EXIT_CODE,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
