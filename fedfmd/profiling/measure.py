"""Measured seconds and memory of a training step and of inference, on random pictures.

Seconds: all models take turns, so that a slow moment of the machine hits all of them, and the median of the
turns after a warm-up counts. Memory: on the CPU a new process for each model, and how far its resident set
rises above what it is before the model is built; on a GPU the allocator's peak.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.building import network
from fedfmd.config.sections.model import ModelConfig
from fedfmd.errors import UserError
from fedfmd.machine.children import module_command
from fedfmd.profiling.variants import Task, label

WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Median seconds for a batch."""

    train_step: float
    inference: float


class Bench:
    """One model, ready to be stepped: SGD with momentum, as training does it."""

    def __init__(self, model: ModelConfig, task: Task, batch_size: int, device: torch.device):
        self.device = device
        self.network: nn.Module = network(
            model, num_classes=task.num_classes, input_shape=task.input_shape
        ).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9, fused=True)
        self.inputs = torch.randn(batch_size, *task.input_shape, device=device)
        self.labels = torch.randint(task.num_classes, (batch_size,), device=device)

    def train_step(self) -> None:
        """Make one step and forget the gradients."""
        self.network.train()
        cross_entropy(self.network(self.inputs), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def infer(self) -> Tensor:
        """Classify the batch."""
        self.network.eval()
        scores: Tensor = self.network(self.inputs)
        return scores


def measure_seconds(
    models: Sequence[ModelConfig], task: Task, batch_size: int, *, repeats: int, device: torch.device
) -> list[Seconds]:
    """Time every model at one batch size: the median of ``repeats`` interleaved turns after a warm-up."""
    benches = [Bench(model, task, batch_size, device) for model in models]
    for model, bench in zip(models, benches, strict=True):
        _warm_up(bench, f"{label(model)} at batch size {batch_size}")
    turns = [[_turn(bench) for bench in benches] for _ in range(repeats)]
    return [
        Seconds(train_step=median(t.train_step for t in times), inference=median(t.inference for t in times))
        for times in zip(*turns, strict=True)
    ]


def _warm_up(bench: Bench, what: str) -> None:
    try:
        for _ in range(WARM_UP_STEPS):
            bench.train_step()
            bench.infer()
    except ValueError as error:  # BatchNorm cannot train on one value a channel
        raise UserError(f"{what}: cannot be trained: {str(error).splitlines()[0]}") from None


def _turn(bench: Bench) -> Seconds:
    start = _now(bench.device)
    bench.train_step()
    middle = _now(bench.device)
    bench.infer()
    return Seconds(train_step=middle - start, inference=_now(bench.device) - middle)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_memory(
    model: ModelConfig,
    task: Task,
    batch_sizes: Sequence[int],
    *,
    threads: int,
    device: torch.device,
    trains: bool = True,
) -> dict[int, int | None]:
    """Return the peak bytes by batch size of training, or of inference on a CPU if it never ``trains``.

    Null where it cannot be measured or did not fit.
    """
    if device.type == "cuda":
        return {size: _gpu_peak(model, task, size, device) for size in batch_sizes}
    order = {
        "model": model.model_dump(mode="json"),
        "input_shape": task.input_shape,
        "num_classes": task.num_classes,
        "batch_sizes": sorted(batch_sizes),
        "threads": threads,
        "trains": trains,
    }
    command = module_command("fedfmd.profiling.peak")
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    # A process that was killed for its memory has still said what it measured before.
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {size: dict(rows).get(size) for size in batch_sizes}


def _gpu_peak(model: ModelConfig, task: Task, batch_size: int, device: torch.device) -> int | None:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        bench = Bench(model, task, batch_size, device)
        for _ in range(WARM_UP_STEPS):
            bench.train_step()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(device) - before
