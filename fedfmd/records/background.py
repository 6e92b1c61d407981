"""One file written at a time while the run goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Writes on a thread of its own; an error shows in the next call that waits for the write."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Let ``write`` begin, once the one before it is done."""
        self.flush()
        self._pending = self._thread.submit(write)

    def flush(self) -> None:
        """Wait until all is on disk; raises ``OSError`` when it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
