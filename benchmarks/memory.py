"""Estimated against measured memory, of training and of inference: networks from 0.1 to 200 MB.

Each figure is the median of five processes of their own: the peak of each, above what it held before the
network was made. Where the C library puts things differs from process to process. Run it as

    python benchmarks/memory.py --out benchmarks/figures/memory
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import Row, report

from fedfmd.building import network
from fedfmd.config.sections.model import ModelConfig
from fedfmd.costs.macs import model_cost
from fedfmd.costs.memory import inference_bytes, training_bytes
from fedfmd.profiling.measure import measure_memory
from fedfmd.profiling.variants import Task, label

CPU, TASK = torch.device("cpu"), Task()
PROCESSES = 5
NETWORKS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"name": "resnet8", "conv": "static"}, 32),
    ({"name": "resnet8", "width": 0.25, "kernels": 2}, 32),
    ({"name": "resnet8"}, 32),
    ({"name": "resnet8"}, 128),
    ({"name": "resnet8", "conv": "odconv"}, 32),
    ({"name": "resnet20"}, 32),
    ({"name": "resnet18", "width": 0.25, "conv": "static"}, 32),
    ({"name": "resnet18", "width": 0.25}, 32),
    ({"name": "resnet18", "width": 0.5, "conv": "se"}, 16),
    ({"name": "resnet18", "width": 0.5, "conv": "dyconv"}, 8),
    ({"name": "resnet18", "conv": "static"}, 8),
    ({"name": "resnet18", "conv": "static"}, 32),
    ({"name": "resnet18"}, 8),
    ({"name": "resnet18"}, 32),
)


def compared(keys: dict[str, Any], batch_size: int) -> Row:
    """Estimate and measure one network, in MB."""
    model = ModelConfig(**keys)
    cost = model_cost(
        network(model, num_classes=TASK.num_classes, input_shape=TASK.input_shape), TASK.input_shape
    )
    row: Row = {"model": label(model), "MB": round(cost.payload_bytes() / 1e6, 1), "batch": batch_size}
    for name, estimate in (("training", training_bytes), ("inference", inference_bytes)):
        trains = name == "training"
        measured = _measured(model, batch_size, trains=trains)
        estimated = estimate(cost, batch_size)
        row[f"{name} estimated"] = round(estimated / 1e6, 1)
        row[f"{name} measured"] = None if measured is None else round(measured / 1e6, 1)
        row[f"{name} ratio"] = None if measured is None else round(estimated / measured, 2)
    return row


def _measured(model: ModelConfig, batch_size: int, *, trains: bool) -> float | None:
    """Return the median of the peaks in bytes; null where the system does not tell them."""
    peaks = [
        measure_memory(model, TASK, [batch_size], threads=1, device=CPU, trains=trains)[batch_size]
        for _ in range(PROCESSES)
    ]
    told = [peak for peak in peaks if peak is not None]
    return median(told) if told else None


def main() -> None:
    """Print the table, and write it with the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to, without a suffix")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report("Memory, MB", [compared(*case) for case in NETWORKS], arguments.out)


if __name__ == "__main__":
    main()
