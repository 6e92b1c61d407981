"""What the control groups of this process allow it, and what they have counted: of a container, a service, a
batch job. Both versions of Linux's control groups; null where nothing limits, as on other systems."""

from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60
"""Version 1 of control groups says "no limit" with a number beyond this."""


def group_cpu_seconds(root: Path = CGROUP) -> float | None:
    """Return the processor time of this container; null outside of one."""
    if _memory_limit(root) is None and _memory_limit(root / "memory") is None:
        return None
    version2 = _entry(root / "cpu.stat", "usage_usec")
    if version2 is not None:
        return version2 / 1e6
    version1 = _number(root / "cpuacct" / "cpuacct.usage")
    return None if version1 is None else version1 / 1e9


def memory_limit_bytes(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int | None:
    """Return the memory that this process may use, by its control groups; null without a limit."""
    limits = map(_memory_limit, _groups(root, membership, "memory"))
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left_bytes(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int | None:
    """Return the memory that its control groups leave this process now; null without a limit.

    What a group's processes hold counts, without cached files.
    """
    found = [(_memory_limit(group), _held_bytes(group)) for group in _groups(root, membership, "memory")]
    left = (limit - held for limit, held in found if limit is not None and held is not None)
    return min(left, default=None)


def processors(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> float | None:
    """Return how many processors this process may use, by its control groups; null without a limit."""
    quotas = map(_quota, _groups(root, membership, "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield the process's groups of both versions, and all those above them.

    Inside a container its own group is the root; a service's group, as systemd's, lies below.
    """
    yield from (root, root / controller)
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        parts = Path(path).relative_to("/").parts
        yield from (top.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _memory_limit(group: Path) -> int | None:
    """Return the memory that one group may use, whatever those above it allow; null without a limit."""
    files = (group / "memory.max", group / "memory.limit_in_bytes")
    limit = next((number for file in files if (number := _number(file)) is not None), None)
    return None if limit is None or limit > UNLIMITED else limit


def _held_bytes(group: Path) -> int | None:
    """Return the memory that one group's processes hold now, without cached files; null if unknown."""
    keys = ("anon", "total_rss")  # of version 2 and 1
    return next((n for key in keys if (n := _entry(group / "memory.stat", key)) is not None), None)


def _quota(group: Path) -> float | None:
    """Return the processors that one group may use; null without a limit."""
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
