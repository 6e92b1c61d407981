"""The signals that end a run in an orderly way: Ctrl-C, SIGTERM, and the terminal's SIGHUP."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

AGAIN_SECONDS = 0.05
"""After which a signal that met an import is sent again."""


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Raise ``KeyboardInterrupt`` for a signal that ends runs; the list yielded is of those that came.

    One that is ignored, as under nohup, stays ignored. One that comes while a module is imported waits until
    that is whole: an import that is broken off leaves half a module, and some swallow what breaks them off.
    Call it in the main thread.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            again = threading.Timer(AGAIN_SECONDS, os.kill, [os.getpid(), number])
            again.daemon = True
            again.start()
            return
        came.append(number)
        raise KeyboardInterrupt

    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(heard, interrupt):
        yield came


def _importing(frame: FrameType | None) -> bool:
    """Whether Python's import is at work below the frame that a signal has met."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals that end runs wait for the end of the ``with``; Python delivers them in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    orderly = [number for number in STOPPING if callable(signal.getsignal(number))]
    with _handled(orderly, lambda number, _: caught.append(number)):
        yield
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
