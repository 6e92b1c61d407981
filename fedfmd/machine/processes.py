"""Processes of this machine: how many can work at once, in what memory, their end, whether they get on."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from fedfmd.machine.cgroups import CGROUP, MEMBERSHIP, memory_limit_bytes, processors

PR_SET_PDEATHSIG = 1


def available_cores(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Count the cores that this process may use, at least 1: by its affinity and its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processors(root, membership)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def memory_bytes(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int | None:
    """Return the memory that this process may use: the machine's, or less where its control groups say so.

    Null where the system does not say.
    """
    limit = memory_limit_bytes(root, membership)
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return limit
    return whole if limit is None else min(whole, limit)


def own_bytes(key: str) -> int | None:
    """Return a figure of this process's memory by its name in /proc/self/status; null if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return None


def end_process(pid: int) -> None:
    """Kill a process of this machine that does not react any more; one that is gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def processor_ticks(pid: int) -> int:
    """Return the processor time that a process of this machine has used, in clock ticks; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel end this process with the one that started it; a frozen one would stay for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
