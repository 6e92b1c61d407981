"""A process of its own that measures the peak memory of a model on the CPU (``measure_memory``).

It reads its order as JSON and prints a line ``[batch size, bytes or null]`` for each batch size, ascending,
since memory that was once in use stays with the process.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch

from fedfmd.config.sections.model import ModelConfig
from fedfmd.machine.process import prepare_process
from fedfmd.machine.processes import own_bytes
from fedfmd.profiling.measure import WARM_UP_STEPS, Bench
from fedfmd.profiling.variants import Task

CPU = torch.device("cpu")


def main() -> None:
    """Measure what the order on standard input asks for."""
    order = json.load(sys.stdin)
    prepare_process(order["threads"])
    model = ModelConfig(**order["model"])
    task = Task(input_shape=tuple(order["input_shape"]), num_classes=order["num_classes"])
    _load_libraries()
    before = own_bytes("VmRSS"), own_bytes("RssAnon")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing
    for size in order["batch_sizes"]:
        bench = Bench(model, task, size, CPU)
        for _ in range(WARM_UP_STEPS):
            bench.train_step() if order["trains"] else bench.infer()
        print(json.dumps([size, _rise(before)]), flush=True)
        del bench


def _rise(before: tuple[int | None, int | None]) -> int | None:
    """Return by how many bytes memory has risen at most: resident memory, or what of it is in no file.

    The system may take back pages of libraries meanwhile, which makes the first too small; what was in use
    for a moment and returned is not in the second.
    """
    now = own_bytes("VmHWM"), own_bytes("RssAnon")
    rises = [a - b for a, b in zip(now, before, strict=True) if a is not None and b is not None]
    return max(rises, default=None)


def _load_libraries() -> None:
    """Train something tiny, so that code which is loaded at first use is there before the count begins."""
    bench = Bench(ModelConfig(name="resnet8", width=0.25, kernels=2), Task(), 2, CPU)
    bench.train_step()


if __name__ == "__main__":
    main()
