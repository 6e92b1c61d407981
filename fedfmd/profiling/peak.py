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
    before = own_bytes("VmRSS")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing
    for size in order["batch_sizes"]:
        bench = Bench(model, task, size, CPU)
        for _ in range(WARM_UP_STEPS):
            bench.train_step() if order["trains"] else bench.infer()
        peak = own_bytes("VmHWM")
        rise = None if before is None or peak is None else peak - before
        print(json.dumps([size, rise]), flush=True)
        del bench


def _load_libraries() -> None:
    """Train something tiny, so that code which is loaded at first use is there before the count begins."""
    bench = Bench(ModelConfig(name="resnet8", width=0.25, kernels=2), Task(), 2, CPU)
    bench.train_step()


if __name__ == "__main__":
    main()
