"""Steps of training that are captured as CUDA graphs: hundreds of kernels become one call."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from fedfmd.records.runlog import LOGGER

TrainStep = Callable[[Tensor, Tensor], Tensor]
"""Inputs float32 (B, C, H, W) and labels int64 (B,) in, the loss of a whole optimiser's step on them out."""


class Eager:
    """Steps as they are, where nothing is captured."""

    def clear(self) -> None:
        """Forget nothing."""

    def beside(self) -> AbstractContextManager[None]:
        """Stay where the work is."""
        return nullcontext()

    def run(self, size: int, step: Callable[[int], None]) -> None:
        """Do a step on ``size`` images."""
        step(size)


class Graphs(Eager):
    """CUDA graphs of a step, one for each batch size; the first step of a size runs as it is, to warm up.

    One process captures in one thread: captures in several have been seen to break each other.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.captured: dict[int, torch.cuda.CUDAGraph] = {}
        self.warm: set[int] = set()
        self.refused: set[int] = set()

    def clear(self) -> None:
        """Forget all graphs; what still runs ends before their memory is used again."""
        if self.captured:
            torch.cuda.current_stream(self.device).synchronize()
            self.pool = torch.cuda.graph_pool_handle()
        self.captured.clear()
        self.warm.clear()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work on a stream that allows capture, which the default one does not: the present, or one apart."""
        before = torch.cuda.current_stream(self.device)
        if before != torch.cuda.default_stream(self.device):
            yield
            return
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream):
            yield
        before.wait_stream(self.stream)

    def run(self, size: int, step: Callable[[int], None]) -> None:
        """Do a step on ``size`` images."""
        if size not in self.captured and size in self.warm - self.refused:
            self._capture(size, step)
        if size in self.captured:
            self.captured[size].replay()
        else:
            step(size)
            self.warm.add(size)

    def _capture(self, size: int, step: Callable[[int], None]) -> None:
        """Record a step without doing it; what cannot be recorded is done as it is from now on."""
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                step(size)
            finally:
                graph.capture_end()
        except RuntimeError as error:
            LOGGER.warning("a step on %d images cannot be captured as a CUDA graph: %s", size, error)
            self.refused.add(size)
            self.pool = torch.cuda.graph_pool_handle()  # the other may be left half recorded
        else:
            self.captured[size] = graph


class CapturedStep:
    """A step on batches of one size, at any place: they are copied to where the graph reads them."""

    def __init__(self, step: TrainStep, device: torch.device):
        self.step = step
        self.graphs = Graphs(device)
        self.inputs, self.labels, self.loss = (torch.empty(0, device=device) for _ in range(3))

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Do a step; gives its loss, ()."""
        if self.inputs.shape != inputs.shape:
            self.graphs.clear()
            self.inputs, self.labels = torch.empty_like(inputs), torch.empty_like(labels)
            self.loss = torch.zeros((), device=inputs.device)
        self.inputs.copy_(inputs)
        self.labels.copy_(labels)
        self.graphs.run(len(labels), self._step)
        return self.loss.clone()

    def _step(self, size: int) -> None:
        del size
        self.loss.copy_(self.step(self.inputs, self.labels))


def steps_on(device: torch.device) -> Eager:
    """Return what does steps on a device: captured ones on a GPU."""
    return Graphs(device) if device.type == "cuda" else Eager()
