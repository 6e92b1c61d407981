"""The rows of clients: what each was asked for, what was done of it, used or not, and which limits broke."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.macs import Macs
from fedfmd.devices import Device, shares_links
from fedfmd.experiment import Experiment
from fedfmd.planning.budget import limits_of
from fedfmd.planning.demand import Costing, work_of
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json, one_line, told_loss
from fedfmd.wire.compression import serialised_update_bytes
from fedfmd.wire.packages import WorkOrder, serialised_bytes
from fedfmd.wire.plan import ClientPlan, Progress, full_plan
from fedfmd.wire.secure import graph_seed
from fedfmd.wire.upload import EXTRA

NO_DEVICE = "devices.kind is 'none'"


def plan_in(order: WorkOrder, client: int, config: ExperimentConfig) -> ClientPlan:
    """Return what an order asks of a client."""
    return order.plan(client) or full_plan(config)


def costing_in(experiment: Experiment, order: WorkOrder, client: int) -> Costing:
    """Return what an order asks of a client, and what that comes to."""
    return Costing.of(experiment, plan_in(order, client, experiment.config), client)


def planned_row(costing: Costing, order: WorkOrder, client: int) -> ClientRow:
    """Return the row of a client that was sent its order and has not answered yet; a worker completes it."""
    meta_bytes = _meta_bytes(costing.experiment, order, client)
    tensor_bytes = serialised_bytes(costing.received_elements)
    return replace(sent_row(costing, order, client), downlink_wire_bytes=meta_bytes + tensor_bytes)


def sent_row(costing: Costing, order: WorkOrder, client: int) -> ClientRow:
    """Return that row without the size of the message, which only writing the message tells."""
    buffered = costing.experiment.config.server.mode == "buffered"
    return replace(
        _row(costing, order.round, order.attempt, client),
        status="failed",
        reason="no reply",
        staleness=order.staleness if buffered else None,
        downlink_bytes=costing.downlink_bytes,
        **energy_columns(costing.participant.device, None),
    )


def lost_row(
    experiment: Experiment, order: WorkOrder, client: int, reason: str, *, arrived: bool
) -> ClientRow:
    """Return the row of a client of which no usable answer came.

    It has received its part; where an answer ``arrived``, it has sent one as well. What it computed is not
    known, and is not billed.
    """
    costing = costing_in(experiment, order, client)
    used = costing.used(Macs(), 1, sends=arrived)
    row = replace(
        planned_row(costing, order, client),
        reason=reason,
        uplink_bytes=used.uplink_bytes,
        device_seconds=used.device_seconds,
        **energy_columns(costing.participant.device, used.joules),
    )
    return _with_answer_bytes(row, costing)


def energy_columns(device: Device | None, joules: float | None) -> Json:
    """Return the columns of a client's row that say its energy and its source, or why there is none."""
    if device is None:
        return {"energy_joules": joules, "joules_source": None, "joules_reason": NO_DEVICE}
    source = one_line(f"modelled from the watts of {device.watts_source}")
    known = joules is not None
    return {
        "energy_joules": joules,
        "joules_source": source if known else None,
        "joules_reason": None if known else "it did not say",
    }


def unsent_row(
    experiment: Experiment, round: int, attempt: int, client: int, plan: ClientPlan, reason: str = "not sent"
) -> ClientRow:
    """Return the row of a client that has a plan, and to whom nothing was sent."""
    return _row(Costing.of(experiment, plan, client), round, attempt, client, reason)


def _row(costing: Costing, round: int, attempt: int, client: int, reason: str = "not sent") -> ClientRow:
    experiment, participant = costing.experiment, costing.participant
    device = participant.device
    return ClientRow(
        round=round,
        attempt=attempt,
        client=client,
        status="dropped",
        reason=reason,
        examples=None if experiment.secure else participant.examples,
        plan=costing.plan.to_row(experiment.config) | ({"device": device.name} if device else {}),
        budget=limits_of(experiment, participant).to_json(),
        macs_planned=costing.macs.total,
        joules_reason="nothing was sent to it" if device else NO_DEVICE,
    )


def late_row(
    costing: Costing, round: int, attempt: int, client: int, closed_seconds: float, worked_seconds: float
) -> ClientRow:
    """Return the row of a client that was still at work when the round closed, after so many seconds.

    It has received the model and done the part of its work that ``worked_seconds``, those it was there, or
    those that its work so far takes on an idle network, were enough for; it has sent nothing.
    """
    experiment, participant = costing.experiment, costing.participant
    done = costing.after(worked_seconds)
    waits = ["waited for the network"] if shares_links(experiment.config) else []
    why = " or ".join([*(["was away"] if participant.presence or not waits else []), *waits])
    needed_seconds = costing.demand().device_seconds or 0.0
    return replace(
        _row(costing, round, attempt, client),
        steps=done.steps,
        reason=late_reason(needed_seconds, closed_seconds - worked_seconds, closed_seconds, why),
        macs=done.macs,
        downlink_bytes=costing.downlink_bytes,
        downlink_wire_bytes=serialised_bytes(costing.received_elements),
        device_seconds=done.device_seconds,
        **energy_columns(participant.device, done.joules),
    )


def late_reason(needed: float, away: float, closed: float, why: str = "was away") -> str:
    """Say why a client that needs ``needed`` seconds was too late for a round of ``closed`` seconds.

    It did not work for ``away`` of them; ``why`` says what it did. The seconds have as many digits as tell
    them apart; two that are equal were a tie, which goes by the clients' numbers.
    """
    absent = f" and {why} for {_seconds(away)}" if _seconds(away) != "0 s" else ""
    if not absent and needed == closed:
        return f"late: needs {_seconds(needed)}, and the cohort was complete by then"
    pairs = ((_seconds(needed, digits), _seconds(closed, digits)) for digits in range(3, 17))
    need, close = next((pair for pair in pairs if pair[0] != pair[1]), (_seconds(needed), _seconds(closed)))
    return f"late: needs {need}{absent}, the round closed after {close}"


def _seconds(value: float, digits: int = 3) -> str:
    """Write seconds in full, with ``digits`` significant ones; below a nanosecond there are none."""
    decimals = max(0, digits - 1 - math.floor(math.log10(max(value, 1e-9))))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " s"


def measured_row(
    row: ClientRow, costing: Costing, progress: Progress, *, sent: bool, unsent: int = 0
) -> ClientRow:
    """Write into the row what was done, of use or not, and which limits that broke.

    ``sent`` is whether an update left the client, of use or not: bytes, seconds and joules of the upload are
    all billed, or none; ``unsent`` elements were not in it. With secure sums the row tells no loss.
    """
    experiment, participant = costing.experiment, costing.participant
    loss, rms = (None, None) if experiment.secure else (progress.mean_loss, progress.loss_rms)
    used = costing.used(progress.macs, costing.work.largest_batch, sends=sent, unsent=unsent)
    measured = replace(
        row,
        steps=progress.steps,
        macs=progress.macs.total,
        uplink_bytes=used.uplink_bytes,
        train_seconds=progress.seconds,
        train_loss=told_loss(loss),
        loss_rms=told_loss(rms),
        device_seconds=used.device_seconds,
        **energy_columns(participant.device, used.joules),
        memory_bytes=used.memory_bytes,
        budget=_with_violations(row.budget, used.exceeded(limits_of(experiment, participant))),
    )
    if (
        row.status == "completed"
        and costing.plan.steps is not None
        and progress.steps
        < work_of(experiment, replace(costing.plan, steps=None), participant.examples).steps
    ):
        measured = replace(measured, status="partial", reason="budget")
    return _with_answer_bytes(measured, costing, unsent)


def _with_violations(budget: Json, violations: list[str]) -> Json:
    return budget | {"violations": violations} if violations else budget


def _with_answer_bytes(row: ClientRow, costing: Costing, unsent: int = 0) -> ClientRow:
    """Write down the size of the message that the client has answered, if it has."""
    if not row.uplink_bytes:
        return row
    meta_bytes = len(json.dumps(row.to_json(), separators=(",", ":")))
    elements, extra = costing.sent_elements - unsent, costing.extra_elements
    if costing.experiment.secure:
        tensor_bytes = serialised_bytes(elements, torch.int64)
    else:
        beside = {EXTRA: (torch.float32, extra)} if extra else {}
        tensor_bytes = serialised_update_bytes(elements - extra, costing.experiment.compressor, beside)
    return replace(row, uplink_wire_bytes=meta_bytes + tensor_bytes)


def _meta_bytes(experiment: Experiment, order: WorkOrder, client: int) -> int:
    """Size of the document that this client alone would have been sent, of keys those of its neighbours."""
    config, alone = experiment.config, order.only(client)
    if alone.secure is not None:
        seed = graph_seed(config.seed, order.round, order.attempt)
        keys = alone.secure.partners(client, seed, parts=config.parts)
        alone = replace(alone, secure=replace(alone.secure, keys=keys))
    return len(json.dumps(alone.to_json(), separators=(",", ":")))


def count_violations(rows: Sequence[ClientRow]) -> int:
    """Count the broken limits of some rows."""
    return sum(len(row.budget.get("violations", [])) for row in rows)
