"""Whether the workers of a pool live: silence that the server itself heard, and starts that failed."""

import time
from dataclasses import dataclass, field

from fedfmd.errors import RunError
from fedfmd.machine.processes import processor_ticks

SILENCE_SECONDS = 12.0
"""A worker that gives no sign of life for so long, and uses no processor time, counts as frozen."""
TICK_SECONDS = 0.5
"""More than that of a silence is not counted at a time: nobody is silent while the server does not listen."""
PULSE_SECONDS = 2.0
"""Pause between a sign of life and the next."""
FAILED_STARTS = 3
"""So many workers in a row that die before they are ready end the run."""
DIED = "the worker's process died"
LATE = "the worker did not answer in time"


@dataclass
class Silence:
    """How long a process has given no sign of life, in seconds, and its processor time at the last one."""

    seconds: float = 0.0
    ticks: int = 0

    @property
    def too_long(self) -> bool:
        """Whether it has lasted longer than a worker that lives is silent."""
        return self.seconds > SILENCE_SECONDS

    def end(self, pid: int) -> None:
        """Take note of a sign of life; of a process on another machine the processor time means nothing."""
        self.seconds, self.ticks = 0.0, processor_ticks(pid)

    def frozen(self, pid: int) -> bool:
        """Return whether a process of this machine is silent for too long and has used no processor time.

        One that gets on is only slow to answer on a busy machine: its silence begins anew.
        """
        if not self.too_long:
            return False
        before = self.ticks
        self.end(pid)
        return self.ticks <= before


@dataclass
class Watch:
    """When a pool last listened to its workers, and how many in a row have died before they were ready."""

    listened: float = field(default_factory=time.monotonic)
    failed_starts: int = 0

    def seconds_listened(self) -> float:
        """Return the seconds since the last call that may be counted as a worker's silence."""
        now = time.monotonic()
        passed, self.listened = min(now - self.listened, TICK_SECONDS), now
        return passed

    def start(self) -> None:
        """Take note of a worker that is ready."""
        self.failed_starts = 0

    def fail(self, reason: str) -> None:
        """Take note of one that died before it was ready; raises ``RunError`` when too many did in a row."""
        self.failed_starts += 1
        if self.failed_starts >= FAILED_STARTS:
            raise RunError(f"a worker cannot start: {reason}")
