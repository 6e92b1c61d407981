"""What a client's plan demands, before any of it is done, and what was used, afterwards."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.client import ClientConfig
from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import Macs
from fedfmd.costs.memory import training_bytes
from fedfmd.devices import Device, shares_links, use
from fedfmd.devices.participant import Participant
from fedfmd.devices.simulation import DeviceUse, overhead_seconds
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import Share
from fedfmd.planning.budget import exceeded, limits_of, training_passes
from fedfmd.planning.protection import protection, update_bytes
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json, one_line, told_loss
from fedfmd.registry import find
from fedfmd.secure.costs import StageCost
from fedfmd.wire.compression import serialised_update_bytes
from fedfmd.wire.packages import WorkOrder, serialised_bytes
from fedfmd.wire.plan import ClientPlan, Progress, full_plan
from fedfmd.wire.secure import graph_seed
from fedfmd.wire.upload import EXTRA

MESSAGE_COPIES = 6
"""How often a real client holds what it receives and sends: Flower's two processes, the connection, our own
buffers. Measured with payloads of 45 MB; see docs/deployment.md."""
NO_DEVICE = "devices.kind is 'none'"


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """The local training that a plan comes to."""

    steps: int
    samples: int
    largest_batch: int

    @property
    def images_per_step(self) -> float:
        """The mean over its steps, of which the last of a pass may be smaller; 1 where there is none."""
        return self.samples / self.steps if self.steps else 1.0


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a plan takes from a client in one round; device figures are null without a device."""

    macs: int
    downlink_bytes: int
    uplink_bytes: int
    memory_bytes: int
    device_seconds: float | None = None
    compute_seconds: float | None = None
    """Part of the device seconds in which it computes."""
    joules: float | None = None
    secure: StageCost = field(default_factory=StageCost)
    """Keys, shares and masks of a secure sum, which the simulated figures know of."""

    @property
    def in_all(self) -> "Demand":
        """What limits are about: with what a secure sum takes."""
        return replace(
            self,
            macs=self.macs + self.secure.macs,
            downlink_bytes=self.downlink_bytes + self.secure.downlink_bytes,
            uplink_bytes=self.uplink_bytes + self.secure.uplink_bytes,
        )


def work_of(experiment: Experiment, plan: ClientPlan, examples: int) -> LocalWork:
    """Count the steps and samples of a plan for a client with that many examples."""
    size = plan.batch_size
    per_epoch = -(-examples // size)
    largest = min(size, examples)
    if per_epoch > 1 and (examples - 1) % size == 0 and experiment.network.part(plan.share).needs_pairs:
        per_epoch, largest = per_epoch - 1, size + 1  # the single one joins the batch before it
    steps = plan.epochs * per_epoch
    if plan.steps is not None and plan.steps < steps:
        whole, rest = divmod(plan.steps, per_epoch)
        return LocalWork(steps=plan.steps, samples=whole * examples + rest * size, largest_batch=largest)
    return LocalWork(steps=steps, samples=plan.epochs * examples, largest_batch=largest)


def steps_within(experiment: Experiment, plan: ClientPlan, examples: int, samples: int) -> int:
    """Return the most steps of a plan that see no more than ``samples``."""
    low, high = 0, work_of(experiment, plan, examples).steps
    while low < high:
        middle = (low + high + 1) // 2
        fits = work_of(experiment, replace(plan, steps=middle), examples).samples <= samples
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def exchanged_elements(experiment: Experiment, share: Share) -> int:
    """Count the elements that a client receives, and sends back uncompressed."""
    if share.whole:
        return experiment.network.exchanged_elements
    return experiment.network.part(share).layout.elements + extra_elements(experiment, share)


def extra_elements(experiment: Experiment, share: Share) -> int:
    """Count those of them that go along with the part, for algorithms."""
    return experiment.algorithms.extra_elements(experiment.network.part(share).layout)


def demand(experiment: Experiment, plan: ClientPlan, participant: Participant) -> Demand:
    """Give what a plan takes from a client."""
    work = work_of(experiment, plan, participant.examples)
    cost = experiment.network.part(plan.share).cost
    macs = cost.macs_by_kind * (training_passes(experiment) * work.samples)
    return _demand(experiment, plan, participant, macs, work.largest_batch)


def _demand(
    experiment: Experiment,
    plan: ClientPlan,
    participant: Participant,
    macs: Macs,
    batch: int,
    *,
    sends: bool = True,
    unsent: int = 0,
) -> Demand:
    """Give what receiving the plan's part, doing ``macs`` and, if it ``sends``, answering take.

    ``unsent`` elements are not in the answer. A secure sum is billed as planned.
    """
    device, host = participant.device, participant.host
    elements = exchanged_elements(experiment, plan.share)
    downlink_bytes = elements * FLOAT32_BYTES
    extra = extra_elements(experiment, plan.share)
    uplink_bytes = update_bytes(experiment, elements - unsent, extra) if sends else 0
    secure = protection(experiment, elements)
    used = None
    if device:
        beside = _overhead(experiment, device, macs, plan, participant.examples)
        used = _use(device, macs, downlink_bytes, uplink_bytes, secure, beside)
    return Demand(
        macs=macs.total,
        downlink_bytes=downlink_bytes,
        uplink_bytes=uplink_bytes,
        memory_bytes=training_bytes(
            experiment.network.part(plan.share).cost,
            batch,
            compiled=host is None or host.compiled,
            optimizer_copies=optimizer_copies(experiment.config.client),
        )
        + (MESSAGE_COPIES * (downlink_bytes + uplink_bytes) if host else 0),
        device_seconds=used.seconds if used else None,
        compute_seconds=used.compute_seconds if used else None,
        joules=used.joules if used else None,
        secure=secure,
    )


def optimizer_copies(config: ClientConfig) -> int:
    """Return how many numbers the clients' optimiser keeps for a parameter; 2 where it does not say."""
    copies: Callable[[ClientConfig], int] | None = getattr(
        find("optimizer", config.optimizer), "copies", None
    )
    return 2 if copies is None else copies(config)


def _overhead(experiment: Experiment, device: Device, macs: Macs, plan: ClientPlan, examples: int) -> float:
    """Give the seconds that some MACs of a plan take beside them, in the plan's batches."""
    images_per_step = work_of(experiment, plan, examples).images_per_step
    return overhead_seconds(device, macs, experiment.network.part(plan.share).cost, images_per_step)


def _use(
    device: Device, macs: Macs, downlink_bytes: int, uplink_bytes: int, secure: StageCost, beside: float = 0.0
) -> DeviceUse:
    """Give what a round takes on a device, where arithmetic of secure sums is as fast as linear layers."""
    work = macs + Macs(linear=secure.macs)
    received, sent = downlink_bytes + secure.downlink_bytes, uplink_bytes + secure.uplink_bytes
    return use(device, work, received, sent, overhead_seconds=beside)


def plan_in(order: WorkOrder, client: int, config: ExperimentConfig) -> ClientPlan:
    """Give what an order asks of a client."""
    return order.plan(client) or full_plan(config)


def planned_row(experiment: Experiment, order: WorkOrder, client: int) -> ClientRow:
    """Give the row of a client that was sent its order and has not answered yet; a worker completes it."""
    row = sent_row(experiment, order, client)
    tensors = serialised_bytes(row.downlink_bytes // FLOAT32_BYTES)
    return replace(row, downlink_wire_bytes=_meta_bytes(experiment, order, client) + tensors)


def sent_row(experiment: Experiment, order: WorkOrder, client: int) -> ClientRow:
    """Give that row without the size of the message, which only writing the message tells."""
    plan = plan_in(order, client, experiment.config)
    row = unsent_row(experiment, order.round, order.attempt, client, plan)
    return replace(
        row,
        status="failed",
        reason="no reply",
        staleness=order.staleness if experiment.config.server.mode == "buffered" else None,
        downlink_bytes=exchanged_elements(experiment, plan.share) * FLOAT32_BYTES,
        **energy_columns(experiment.participant(client).device, None),
    )


def lost_row(
    experiment: Experiment, order: WorkOrder, client: int, reason: str, *, arrived: bool
) -> ClientRow:
    """Give the row of a client of which no usable answer came.

    It has received its part; where an answer ``arrived``, it has sent one as well. What it computed is not
    known, and is not billed.
    """
    plan, participant = plan_in(order, client, experiment.config), experiment.participant(client)
    used = _demand(experiment, plan, participant, Macs(), 1, sends=arrived)
    row = replace(
        planned_row(experiment, order, client),
        reason=reason,
        uplink_bytes=used.uplink_bytes,
        device_seconds=used.device_seconds,
        **energy_columns(participant.device, used.joules),
    )
    return _with_wire_bytes(row, plan.share, experiment)


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
    """Give the row of a client that has a plan, and to whom nothing was sent."""
    participant = experiment.participant(client)
    device = participant.device
    return ClientRow(
        round=round,
        attempt=attempt,
        client=client,
        status="dropped",
        reason=reason,
        examples=None if experiment.secure else participant.examples,
        plan=plan.to_row(experiment.config) | ({"device": device.name} if device else {}),
        budget=limits_of(experiment, participant).to_json(),
        macs_planned=demand(experiment, plan, participant).macs,
        joules_reason="nothing was sent to it" if device else NO_DEVICE,
    )


def late_row(
    experiment: Experiment,
    round: int,
    attempt: int,
    client: int,
    plan: ClientPlan,
    closed: float,
    worked: float,
) -> ClientRow:
    """Give the row of a client that was still at work when the round closed, after ``closed`` seconds.

    It has received the model and done the part of its work that ``worked`` seconds, those it was there, or
    those that its work so far takes on an idle network, were enough for; it has sent nothing.
    """
    row = unsent_row(experiment, round, attempt, client, plan)
    participant = experiment.participant(client)
    device = participant.device
    assert device is not None
    macs = experiment.network.part(plan.share).cost.macs_by_kind * training_passes(experiment)
    samples = work_of(experiment, plan, participant.examples).samples
    planned = _demand(experiment, plan, participant, macs * samples, 1)
    received = _use(device, Macs(), planned.downlink_bytes, 0, planned.secure).seconds
    beside = _overhead(experiment, device, macs, plan, participant.examples)
    a_sample = use(device, macs, 0, 0, overhead_seconds=beside).seconds
    done = min(samples, max(0, int((worked - received) / a_sample)))
    spent = _use(device, macs * done, planned.downlink_bytes, 0, planned.secure, beside * done)
    part = min(1.0, worked / spent.seconds)  # below 1 while it still receives
    waits = ["waited for the network"] if shares_links(experiment.config) else []
    why = " or ".join([*(["was away"] if participant.presence or not waits else []), *waits])
    return replace(
        row,
        steps=steps_within(experiment, plan, participant.examples, done),
        reason=late_reason(planned.device_seconds or 0.0, closed - worked, closed, why),
        macs=macs.total * done,
        downlink_bytes=planned.downlink_bytes,
        downlink_wire_bytes=serialised_bytes(exchanged_elements(experiment, plan.share)),
        device_seconds=part * spent.seconds,
        **energy_columns(device, part * spent.joules),
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
    row: ClientRow,
    plan: ClientPlan,
    progress: Progress,
    experiment: Experiment,
    *,
    sent: bool,
    unsent: int = 0,
) -> ClientRow:
    """Write into the row what was done, of use or not, and which limits that broke.

    ``sent`` is whether an update left the client, of use or not: bytes, seconds and joules of the upload are
    all billed, or none; ``unsent`` elements were not in it. With secure sums the row tells no loss.
    """
    participant = experiment.participant(row.client)
    loss, rms = (None, None) if experiment.secure else (progress.mean_loss, progress.loss_rms)
    work = work_of(experiment, plan, participant.examples)
    used = _demand(
        experiment, plan, participant, progress.macs, work.largest_batch, sends=sent, unsent=unsent
    )
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
        budget=_with_violations(row.budget, exceeded(limits_of(experiment, participant), used.in_all)),
    )
    if (
        row.status == "completed"
        and plan.steps is not None
        and progress.steps < work_of(experiment, replace(plan, steps=None), participant.examples).steps
    ):
        measured = replace(measured, status="partial", reason="budget")
    return _with_wire_bytes(measured, plan.share, experiment, unsent)


def _with_violations(budget: Json, violations: list[str]) -> Json:
    return budget | {"violations": violations} if violations else budget


def _with_wire_bytes(row: ClientRow, share: Share, experiment: Experiment, unsent: int = 0) -> ClientRow:
    if not row.uplink_bytes:
        return row
    meta_bytes = len(json.dumps(row.to_json(), separators=(",", ":")))
    elements, extra = exchanged_elements(experiment, share) - unsent, extra_elements(experiment, share)
    if experiment.secure:
        tensor_bytes = serialised_bytes(elements, torch.int64)
    else:
        beside = {EXTRA: (torch.float32, extra)} if extra else {}
        tensor_bytes = serialised_update_bytes(elements - extra, experiment.compressor, beside)
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
