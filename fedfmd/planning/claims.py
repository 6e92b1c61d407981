"""What a client says of its work, held against what it was asked to do: the door to the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isclose

from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.experiment import Experiment
from fedfmd.planning.bill import costing_in, energy_columns, sent_row
from fedfmd.planning.demand import Costing, work_of
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import SchemaError
from fedfmd.wire.packages import WorkOrder, most_bytes

KNOWN = ("round", "attempt", "examples", "staleness", "plan", "macs_planned", "downlink_bytes")
"""Fields of a client's row that the server knows without it."""
BILLED_HERE = ("secure_downlink_bytes", "secure_uplink_bytes", "secure_macs", "secure_stages")
"""What a secure sum took is written into the row by the server, and by nobody else."""
SLACK = 1e-9
"""For sums of floats in another order."""


@dataclass(frozen=True)
class Asked:
    """What a client was asked in an order."""

    order: WorkOrder
    costing: Costing
    row: ClientRow
    """Its row as the server would have it without an answer."""

    @classmethod
    def of(cls, experiment: Experiment, order: WorkOrder, client: int) -> "Asked":
        """Return what the server knows of it."""
        costing = costing_in(experiment, order, client)
        return cls(order, costing, sent_row(costing, order, client))

    @property
    def experiment(self) -> Experiment:
        """The experiment that the order is of."""
        return self.costing.experiment


def check_claims(experiment: Experiment, order: WorkOrder, row: ClientRow) -> None:
    """Raise ``SchemaError`` for a client's row that its order does not allow.

    What the server knows must be as the server knows it. Work that is used is the planned work, no more and
    no less; work that is not used is no more than that. What only the client can measure, the types of the
    row bound, so that no sum of rows is beyond what the ledger holds.
    """
    asked = Asked.of(experiment, order, row.client)
    checks = (_unlike_sent, _impossible_end, _unplanned_work, _unasked_measures)
    wrong = next((name for check in checks for name in check(asked, row)), None)
    if wrong is not None:
        raise SchemaError(f"client {row.client}: its {wrong} is not what the order allows")


def _unlike_sent(asked: Asked, row: ClientRow) -> Iterator[str]:
    """Name what is not as the server knows it."""
    sent = asked.row
    yield from (name for name in KNOWN if getattr(row, name) != getattr(sent, name))
    sources = energy_columns(asked.costing.participant.device, row.energy_joules)
    yield from (name for name, said in sources.items() if getattr(row, name) != said)
    limits, broken = dict(row.budget), row.budget.get("violations", [])
    limits.pop("violations", None)
    if limits != sent.budget or not isinstance(broken, list) or not set(broken) <= set(sent.budget):
        yield "budget"


def _impossible_end(asked: Asked, row: ClientRow) -> Iterator[str]:
    """Name the status that its work cannot have ended with."""
    costing = asked.costing
    whole = work_of(asked.experiment, replace(costing.plan, steps=None), costing.participant.examples)
    possible = {
        "completed": costing.work.steps == whole.steps,
        "partial": costing.work.steps < whole.steps,
        "dropped": asked.experiment.config.client.deadline_seconds is not None,
        "failed": True,
    }
    if not possible[row.status]:
        yield "status"


def _unplanned_work(asked: Asked, row: ClientRow) -> Iterator[str]:
    """Name what was done or sent beyond the plan, or short of it in a row that is used."""
    most, steps = asked.costing.demand(), asked.costing.work.steps
    planned: dict[str, float | None] = {
        "steps": steps,
        "macs": most.macs,
        "uplink_bytes": most.uplink_bytes,
        "memory_bytes": most.memory_bytes,
        "device_seconds": most.device_seconds,
        "energy_joules": most.joules,
    }
    trains = asked.order.task == "train"
    bounds = {name: (bound or 0) if trains else 0 for name, bound in planned.items()}
    said = {name: getattr(row, name) or 0 for name in bounds}
    yield from (name for name, bound in bounds.items() if said[name] > bound * (1 + SLACK))
    if row.used and trains:
        if said["steps"] < steps:
            yield "steps"
        yield from (name for name in _settled(asked.experiment) if not isclose(said[name], bounds[name]))


def _settled(experiment: Experiment) -> tuple[str, ...]:
    """Return what a plan says exactly; a secure sum leaves out of the uplink what too few clients hold."""
    macs = ("macs",) if experiment.algorithms.plain_steps else ()
    if experiment.secure:
        return macs
    return (*macs, "uplink_bytes", "memory_bytes", *(("device_seconds", "energy_joules") if macs else ()))


def _unasked_measures(asked: Asked, row: ClientRow) -> Iterator[str]:
    """Name what was measured that nothing asks for, and sizes that no message has."""
    experiment, order = asked.experiment, asked.order
    payload, seats = row.downlink_bytes, len(order.secure.seats) if order.secure else 0
    if not payload <= row.downlink_wire_bytes <= payload + most_bytes(0, 1 + seats):
        yield "downlink_wire_bytes"
    if row.uplink_wire_bytes > most_bytes(payload // FLOAT32_BYTES, 1):
        yield "uplink_wire_bytes"
    yield from (name for name in BILLED_HERE if getattr(row, name))
    stages = row.secure_stage_seconds
    if not set(stages) <= ({"masks"} if experiment.secure else set()):
        yield "secure_stage_seconds"
    if row.secure_seconds != (stages.get("masks") or 0):
        yield "secure_seconds"
    if row.train_loss is not None and experiment.secure:
        yield "train_loss"
    if row.loss_rms is not None and not experiment.config.selection.looks_at_losses:
        yield "loss_rms"
    if (row.measured_joules is None) != (row.measured_joules_source is None):
        yield "measured_joules_source"
