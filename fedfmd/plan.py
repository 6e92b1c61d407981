"""What a client is asked to do in a round, and what that will cost, before any of it is done."""

import json
from dataclasses import asdict, dataclass

from fedfmd.accounting import ClientRow
from fedfmd.config import ExperimentConfig
from fedfmd.cost import TRAINING_MACS_PER_FORWARD
from fedfmd.experiment import Experiment
from fedfmd.packages import WorkOrder, serialised_bytes

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class ClientPlan:
    """A client's share of the model and of the work."""

    width: float
    kernels: int
    epochs: int
    batch_size: int


def full_plan(experiment: Experiment) -> ClientPlan:
    """Give the plan of a client without limits: the whole model, all epochs."""
    model, client = experiment.config.model, experiment.config.client
    return ClientPlan(model.width, model.kernels, client.epochs, client.batch_size)


def client_weight(config: ExperimentConfig, examples: int) -> int:
    """Weight of a client's update: its examples; under SCAFFOLD every client weighs the same."""
    return min(examples, 1) if config.client.scaffold else examples


def training_macs(forward_macs: int, samples: int) -> int:
    """MACs of training on ``samples`` pictures: forward, input gradient and weight gradient."""
    return TRAINING_MACS_PER_FORWARD * forward_macs * samples


def planned_row(experiment: Experiment, order: WorkOrder, client: int) -> ClientRow:
    """Give the row of a client that was sent its order and has not answered yet.

    The server writes it for a client that never answers; a worker completes it.
    """
    plan = full_plan(experiment)
    cost = experiment.model_cost
    examples = experiment.partition.size(client)
    elements = experiment.exchanged_elements
    return ClientRow(
        round=order.round,
        attempt=order.attempt,
        client=client,
        status="failed",
        reason="no reply",
        examples=examples,
        plan=asdict(plan),
        macs_planned=training_macs(cost.forward_macs, plan.epochs * examples),
        downlink_bytes=elements * FLOAT32_BYTES,
        downlink_wire_bytes=_meta_bytes(order, client) + serialised_bytes(elements),
    )


def _meta_bytes(order: WorkOrder, client: int) -> int:
    """Size of the document that this client alone would have been sent."""
    return len(json.dumps(order.only(client).to_json(), separators=(",", ":")))
