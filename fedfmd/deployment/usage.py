"""What a client's process really took, as the system counts it.

Inside a container the processor time is that of the whole control group, SuperNode and helpers included;
a control group counts as the client's own when it limits the memory. Elsewhere it is the process's.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60
"""Version 1 of control groups says "no limit" with a number beyond this."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the process for one message took; the memory is null if unknown."""

    cpu_seconds: float
    """From the process's start; it begins as a copy of one that has torch imported."""
    wall_seconds: float
    """From the message's arrival in the process."""
    peak_memory_bytes: int | None

    def to_json(self) -> dict[str, float | int | None]:
        """Give the figures by name."""
        return asdict(self)


class Meter:
    """Counts what this process takes for a message; each has a process of its own."""

    def __init__(self, root: Path = CGROUP):
        self.root = root
        self.started = time.perf_counter()
        self.spent_before = time.process_time()
        self.at_start = self._cpu_seconds()

    def read(self) -> Usage:
        """Give what was used until now."""
        return Usage(
            cpu_seconds=self.spent_before + self._cpu_seconds() - self.at_start,
            wall_seconds=time.perf_counter() - self.started,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _cpu_seconds(self) -> float:
        own = group_cpu_seconds(self.root)
        return time.process_time() if own is None else own


def group_cpu_seconds(root: Path = CGROUP) -> float | None:
    """Give the processor time of this container; null outside of one."""
    if memory_limit_bytes(root) is None:
        return None
    version2 = _entry(root / "cpu.stat", "usage_usec")
    if version2 is not None:
        return version2 / 1e6
    version1 = _number(root / "cpuacct" / "cpuacct.usage")
    return None if version1 is None else version1 / 1e9


def memory_limit_bytes(root: Path = CGROUP) -> int | None:
    """Give the memory that this container may use; null without a limit."""
    files = (root / "memory.max", root / "memory" / "memory.limit_in_bytes")
    limit = next((number for file in files if (number := _number(file)) is not None), None)
    return None if limit is None or limit > UNLIMITED else limit


def held_bytes(root: Path = CGROUP) -> int | None:
    """Give the memory that this container's processes hold now, without cached files; null if unknown."""
    files = ((root / "memory.stat", "anon"), (root / "memory" / "memory.stat", "total_rss"))
    return next((n for file, key in files if (n := _entry(file, key)) is not None), None)


def processors(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> float | None:
    """Give how many processors this process may use, by its control groups; null without a limit.

    Inside a container its own group is the root; a service's group, as systemd's, lies below.
    """
    quotas = (_quota(group) for group in _processor_groups(root, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def _processor_groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the process's groups of both versions, and all those above them."""
    yield from (root, root / "cpu")
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        parts = Path(path).relative_to("/").parts
        yield from (top.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _quota(group: Path) -> float | None:
    """Give the processors that one group may use; null without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota = str(_number(group / "cpu.cfs_quota_us") or "max")
        period = str(_number(group / "cpu.cfs_period_us") or 0)
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def oom_kills(root: Path = CGROUP) -> int:
    """Count the processes of this container that were killed for their memory."""
    files = (root / "memory.events", root / "memory" / "memory.oom_control")
    return next((n for file in files if (n := _entry(file, "oom_kill")) is not None), 0)


def peak_memory_bytes() -> int | None:
    """Give the most memory that this process had in use."""
    kilobytes = _entry(Path("/proc/self/status"), "VmHWM:")
    return None if kilobytes is None else kilobytes * 1024


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _entry(path: Path, key: str) -> int | None:
    try:
        lines = (line.split() for line in path.read_text().splitlines())
        return next((int(words[1]) for words in lines if words and words[0] == key), None)
    except (OSError, ValueError, IndexError):
        return None
