"""Memory: what a step must hold at least, and an estimate against the peak of a process of its own."""

import sys

import pytest
import torch

from fedfmd.building import network
from fedfmd.config.sections.client import ClientConfig
from fedfmd.config.sections.model import ModelConfig
from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.costs.memory import inference_bytes, training_bytes
from fedfmd.planning.demand import optimizer_copies
from fedfmd.profiling.measure import measure_memory
from fedfmd.profiling.variants import Task

TASK = Task()
DYNAMIC = ModelConfig(name="resnet8")


def cost_of(model: ModelConfig) -> ModelCost:
    with torch.device("meta"):
        made = network(model, num_classes=TASK.num_classes, input_shape=TASK.input_shape)
    return model_cost(made, TASK.input_shape)


def test_training_holds_weights_gradients_and_the_optimisers_copies() -> None:
    cost = cost_of(ModelConfig(name="resnet18"))
    bare, momentum, adam = (training_bytes(cost, 1, optimizer_copies=copies) for copies in (0, 1, 2))
    assert momentum - bare == adam - momentum == FLOAT32_BYTES * cost.parameters
    assert bare > 2 * FLOAT32_BYTES * cost.parameters
    assert inference_bytes(cost, 1) < bare


def test_without_compiled_kernels_every_sample_stores_its_own() -> None:
    cost = cost_of(DYNAMIC)
    for estimate in (training_bytes, inference_bytes):
        stored, compiled = (estimate(cost, 64, compiled=there) for there in (False, True))
        assert stored > compiled


@pytest.mark.parametrize(
    ("optimizer", "momentum", "copies"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adamw", 0.9, 2)]
)
def test_an_optimiser_says_what_it_keeps(optimizer: str, momentum: float, copies: int) -> None:
    assert optimizer_copies(ClientConfig(optimizer=optimizer, momentum=momentum)) == copies


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")
def test_a_training_process_takes_what_was_estimated() -> None:
    """Within 30% of the estimate; `benchmarks/memory.py` has more networks, and how near they come."""
    (measured,) = measure_memory(DYNAMIC, TASK, [32], threads=1, device=torch.device("cpu")).values()
    assert measured is not None
    assert measured / training_bytes(cost_of(DYNAMIC), 32) == pytest.approx(1, abs=0.3)
