"""Time work on a CUDA device by its events, as it is called or replayed from a graph; on a CPU by the clock.

The CPU is there to try a benchmark: it then shows that everything runs, and no figure of it means anything.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

Work = Callable[[], object]
WARM_UP = 3
LEAST, MOST = 5, 100
"""Repeats of a timed work, whatever it takes."""


class Clock:
    """Times work on one device."""

    def __init__(self, device: torch.device, *, seconds: float = 0.25):
        """Take the device, and for how long each work is repeated, within ``LEAST`` and ``MOST`` times."""
        self.device = device
        self.seconds = seconds
        self.cuda = device.type == "cuda"

    def eager(self, work: Work) -> float:
        """Return the median milliseconds of ``work`` as it is called: launches included."""
        for _ in range(WARM_UP):
            work()
        once = self._once(work)
        repeats = int(min(MOST, max(LEAST, 1e3 * self.seconds / max(once, 1e-3))))
        if not self.cuda:
            return statistics.median(self._once(work) for _ in range(repeats))
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        ends[0].record()
        for end in ends[1:]:
            work()
            end.record()
        torch.cuda.synchronize(self.device)
        return statistics.median(a.elapsed_time(b) for a, b in pairwise(ends))

    def captured(self, work: Work) -> float:
        """Return the median milliseconds of ``work`` replayed from a CUDA graph: the device's time alone."""
        return self.eager(captured(work) if self.cuda else work)

    def _once(self, work: Work) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def wait(self) -> None:
        """Wait until the device has done all it was asked."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def captured(work: Work) -> Work:
    """Record ``work`` as a CUDA graph; returns what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
