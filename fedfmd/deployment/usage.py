"""What a client's process really took, as the system counts it.

Inside a container the processor time is that of the whole control group, SuperNode and helpers included;
a control group counts as the client's own when it limits the memory. Elsewhere it is the process's.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedfmd.machine.cgroups import CGROUP, group_cpu_seconds
from fedfmd.machine.processes import own_bytes


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """What the process for one message took; the memory is null if unknown."""

    cpu_seconds: float
    """From the process's start; it begins as a copy of one that has torch imported."""
    wall_seconds: float
    """From the message's arrival in the process."""
    peak_memory_bytes: int | None

    def to_json(self) -> dict[str, float | int | None]:
        """Give the figures by name."""
        return asdict(self)


class UsageMeter:
    """Counts what this process takes for a message; each has a process of its own."""

    def __init__(self, root: Path = CGROUP):
        self.root = root
        self.started = time.perf_counter()
        self.spent_before = time.process_time()
        self.at_start = self._cpu_seconds()

    def read(self) -> ProcessUsage:
        """Give what was used until now."""
        return ProcessUsage(
            cpu_seconds=self.spent_before + self._cpu_seconds() - self.at_start,
            wall_seconds=time.perf_counter() - self.started,
            peak_memory_bytes=own_bytes("VmHWM"),
        )

    def _cpu_seconds(self) -> float:
        own = group_cpu_seconds(self.root)
        return time.process_time() if own is None else own
