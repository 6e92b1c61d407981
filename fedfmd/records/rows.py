"""The rows of the ledgers: what a client's work cost, summed to rounds, summed to runs.

A field is declared in its row, or in what rows are made of (``cost.py``, ``quality.py``); a new one is then
in the ledger, its reader, the tables and the reference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import StringConstraints

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.records.cost import Cost
from fedfmd.records.quality import ClientQuality, Quality, TestLoss, Top1, Top5, ValidationLoss
from fedfmd.records.schema import (
    Amount,
    Column,
    Count,
    Entries,
    Figure,
    Figures,
    Fraction,
    Json,
    Loss,
    Measured,
    Memory,
    Record,
    Text,
    one_line,
)

MeterSource = Annotated[
    Text,
    StringConstraints(pattern=r"^measured: (RAPL|NVML|plug [^+]+)( \+ NVML)?, less the power at rest$"),
]
"""What the meters of ``fedfmd.machine.gauge`` say that they are."""
ClientStatus = Literal["completed", "partial", "dropped", "failed"]
Stage = Annotated[str, StringConstraints(pattern=r"^(keys|shares|masks|recovery)(_bytes|_macs)?$")]
StageFigures = Mapping[Stage, Count | None]
"""Figures by stage of a secure sum and what is counted."""
StageSeconds = Mapping[Stage, Measured | None]
KernelTemperature = Annotated[
    Amount | None,
    Column("Divides the logits of the softmax over kernels.", label="Kernel temperature"),
]
ChannelTemperature = Annotated[
    Amount | None, Column("Divides the logits of the sigmoids.", label="Channel temperature")
]
AssignmentShare = Annotated[
    Amount | None,
    Column("Share of the fixed assignment of cells (KernelWarehouse).", label="Share of the assignment"),
]


@dataclass(frozen=True, kw_only=True)
class ClientRow(Record):
    """One client in one round: a line of ``clients.jsonl``."""

    key: ClassVar[tuple[str, ...]] = ("round", "attempt", "client")

    round: Annotated[Count, Column("Number of the round, from 1.")]
    attempt: Annotated[Count, Column("Counts the repetitions of the round, each with another cohort.")] = 0
    client: Annotated[Count, Column("Number of the client, from 0.")]
    status: Annotated[
        ClientStatus,
        Column(
            "`completed`; `partial`: fewer steps, and used; `dropped`: over budget or late; "
            "`failed`: trained for nothing."
        ),
    ] = "completed"
    reason: Annotated[Text | None, Column("Why the status is not `completed`.")] = None
    examples: Annotated[
        Count | None, Column("Training images that the client has; null with secure sums.")
    ] = 0
    staleness: Annotated[
        Count | None,
        Column("Steps of the server since the client got the model, where `server.mode` is `buffered`."),
    ] = None
    steps: Annotated[Count, Column("Steps of the optimiser that it did.")] = 0
    plan: Annotated[
        Entries,
        Column(
            "Its share of the network (`width`, `kernels`, `kernel_set`, `depth`, `rotation`), "
            "`epochs`, `batch_size`, `steps`, `device`, and `why`."
        ),
    ] = field(default_factory=dict)
    budget: Annotated[Entries, Column("Its limits, and `violations`: those it broke.")] = field(
        default_factory=dict
    )
    macs_planned: Annotated[Count, Column("Training compute of the plan.", unit="MAC")] = 0
    macs: Annotated[Count, Column("Training compute that was done.", unit="MAC")] = 0
    downlink_bytes: Annotated[Count, Column("Payload that it was sent.", unit="B")] = 0
    uplink_bytes: Annotated[Count, Column("Payload that it sent.", unit="B")] = 0
    downlink_wire_bytes: Annotated[Count, Column("Serialised size of what it was sent.", unit="B")] = 0
    uplink_wire_bytes: Annotated[
        Count, Column("Serialised size of what it sent.", unit="B", measured=True)
    ] = 0
    train_seconds: Annotated[
        Measured, Column("Measured training time on this machine.", unit="s", measured=True)
    ] = 0.0
    device_seconds: Annotated[
        Amount | None, Column("Simulated time on its device; null without one.", unit="s")
    ] = None
    energy_joules: Annotated[Amount | None, Column("Simulated energy; null without a device.", unit="J")] = (
        None
    )
    joules_source: Annotated[
        Text | None, Column("What `energy_joules` is from: the watts of a profile, a card, the config.")
    ] = None
    joules_reason: Annotated[Text | None, Column("Why `energy_joules` is null.")] = None
    measured_joules: Annotated[
        Measured | None,
        Column(
            "Energy that a real client's machine took for training, beyond that at rest.",
            unit="J",
            measured=True,
        ),
    ] = None
    measured_joules_source: Annotated[
        MeterSource | None, Column("What measured `measured_joules`.", measured=True)
    ] = None
    measured_joules_reason: Annotated[
        Text | None, Column("Why a real client's `measured_joules` is null.", measured=True)
    ] = None
    memory_bytes: Annotated[Count | None, Column("Estimated peak of training.", unit="B")] = None
    train_loss: Annotated[
        Loss | None, Column("Mean loss over its images; null with secure sums.", unit="nat")
    ] = None
    loss_rms: Annotated[
        Measured | None,
        Column(
            "Root of the mean squared loss of its first epoch's images, where `selection.kind` is `oort`.",
            unit="nat",
        ),
    ] = None
    cpu_seconds: Annotated[
        Measured | None,
        Column("Processor time of a real client's process, from its start.", unit="s", measured=True),
    ] = None
    wall_seconds: Annotated[
        Measured | None, Column("Time from the order's arrival at a real client.", unit="s", measured=True)
    ] = None
    peak_memory_bytes: Annotated[
        Memory | None, Column("Most memory that a real client's process held.", unit="B", measured=True)
    ] = None
    secure_downlink_bytes: Annotated[
        Count, Column("Keys, shares and questions of a secure sum that it was sent.", unit="B")
    ] = 0
    secure_uplink_bytes: Annotated[
        Count, Column("Keys and shares of a secure sum that it sent.", unit="B")
    ] = 0
    secure_macs: Annotated[Count, Column("Compute of keys, shares and masks.", unit="MAC")] = 0
    secure_seconds: Annotated[
        Amount, Column("Measured time of keys, shares and masks on this machine.", unit="s", measured=True)
    ] = 0.0
    secure_stages: Annotated[
        StageFigures,
        Column("These bytes, both ways, and MACs by stage: of `keys`, `shares`, `masks`, `recovery`."),
    ] = field(default_factory=dict)
    secure_stage_seconds: Annotated[
        StageSeconds, Column("`secure_seconds` by stage.", unit="s", measured=True)
    ] = field(default_factory=dict)
    diagnostics: Annotated[Json, Column("Of dynamic convolutions, where `[diagnostics]` asks for them.")] = (
        field(default_factory=dict)
    )

    @property
    def used(self) -> bool:
        """Whether the client's update entered the global model."""
        return self.status in ("completed", "partial")

    @property
    def bytes(self) -> int:
        """Payload in both directions, with that of secure sums."""
        return self.downlink_bytes + self.uplink_bytes + self.secure_downlink_bytes + self.secure_uplink_bytes

    @property
    def cost(self) -> Cost:
        """What the client cost in its round."""
        return Cost(
            macs=self.macs,
            downlink_bytes=self.downlink_bytes,
            uplink_bytes=self.uplink_bytes,
            downlink_wire_bytes=self.downlink_wire_bytes,
            uplink_wire_bytes=self.uplink_wire_bytes,
            client_train_seconds=self.train_seconds,
            device_seconds=self.device_seconds,
            energy_joules=self.energy_joules,
            measured_joules=self.measured_joules,
            secure_downlink_bytes=self.secure_downlink_bytes,
            secure_uplink_bytes=self.secure_uplink_bytes,
            secure_macs=self.secure_macs,
            secure_seconds=self.secure_seconds,
            wasted_macs=0 if self.used else self.macs,
            wasted_bytes=0 if self.used else self.bytes,
        )

    def spent(self, limit: str) -> float | None:
        """Return what counts against a limit of its ``budget``: as in plans, with what a secure sum took."""
        return {
            "macs": self.macs + self.secure_macs,
            "downlink_bytes": self.downlink_bytes + self.secure_downlink_bytes,
            "uplink_bytes": self.uplink_bytes + self.secure_uplink_bytes,
            "memory_bytes": self.memory_bytes,
            "device_seconds": self.device_seconds,
            "joules": self.energy_joules,
        }.get(limit)

    def rejected(self, status: ClientStatus, reason: str) -> Self:
        """Return the row of a client whose work is not used; what it cost stays."""
        return replace(self, status=status, reason=one_line(reason))


@dataclass(frozen=True, kw_only=True)
class EvaluationRow(Record):
    """One model that one client measured on its own images: a line of ``evaluations.jsonl``."""

    key: ClassVar[tuple[str, ...]] = ("round", "client", "model")

    round: Annotated[Count, Column("Number of the round after which it was measured.")]
    client: Annotated[Count, Column("Number of the client, from 0.")]
    tier: Annotated[Text | None, Column("Its kind of device; null without devices.")] = None
    examples: Annotated[Count, Column("Images of its holdout, which it measured on.")]
    label_count: Annotated[
        Count | None,
        Column("Different labels of all its images; null of real clients, who do not tell."),
    ] = None
    model: Annotated[
        ClientModel,
        Column(
            "`global`, the server's; `affordable`, the part of it that the client's budget allows; "
            "`finetuned`, that part after training of its own; `local`, trained by the same steps alone."
        ),
    ]
    top1: Annotated[Fraction, Column("Share of these images whose best-scored class is right.", unit="%")]
    loss: Annotated[Loss | None, Column("Mean cross entropy; null where it is not finite.", unit="nat")] = (
        None
    )
    macs: Annotated[
        Count, Column("Forward passes, and the training of `finetuned` and `local`.", unit="MAC")
    ] = 0
    downlink_bytes: Annotated[
        Count, Column("The model that it was sent for this; 0 for one that it has.", unit="B")
    ] = 0
    uplink_bytes: Annotated[Count, Column("Counts and sums that it sent.", unit="B")] = 0
    host_seconds: Annotated[
        Amount | None,
        Column("Time of it on this machine; null of real clients, who do not tell.", unit="s", measured=True),
    ] = None
    device_seconds: Annotated[
        Amount | None, Column("Simulated time on its device; null without one.", unit="s")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RoundRow(Cost, ClientQuality, Quality):
    """One round: a line of ``rounds.jsonl``. Round 0 is the model before training, and costs nothing."""

    key: ClassVar[tuple[str, ...]] = ("round",)

    round: Annotated[Count, Column("Number of the round.", label="Round")]
    present: Annotated[
        Count | None,
        Column(
            "Real clients that were connected when the round began; null in a simulation.", label="Present"
        ),
    ] = None
    cohort: Annotated[Count, Column("Clients that were asked.", label="Cohort")] = 0
    completed: Annotated[Count, Column("Clients used, with all of their work.", label="Completed")] = 0
    partial: Annotated[Count, Column("Clients used, with fewer steps.", label="Partial")] = 0
    dropped: Annotated[Count, Column("Clients over budget, or too late.", label="Dropped")] = 0
    failed: Annotated[Count, Column("Clients that trained for nothing.", label="Failed")] = 0
    violations: Annotated[Count, Column("Limits of clients that broke.", label="Limits broken")] = 0
    joules_source: Annotated[
        Text | None, Column("What `energy_joules` is from: all sources of the clients' rows.")
    ] = None
    joules_reason: Annotated[Text | None, Column("Why `energy_joules` is null.")] = None
    host_joules_source: Annotated[Text | None, Column("What measured `host_joules`.", measured=True)] = None
    host_joules_reason: Annotated[Text | None, Column("Why `host_joules` is null.", measured=True)] = None
    idle_watts: Annotated[
        Amount | None, Column("Power at rest, which `host_joules` are without.", unit="W", measured=True)
    ] = None
    epsilon: Annotated[
        Amount | None,
        Column(
            "What all models up to this round tell of one client, at most, at `delta`; null without noise "
            "(`privacy.dp`).",
            label="Epsilon",
        ),
    ] = None
    delta: Annotated[Fraction | None, Column("Chance that `epsilon` may fail.")] = None
    privacy_relation: Annotated[
        Literal["replace-one", "add-or-remove-one"] | None,
        Column("What `epsilon` compares: one client's data replaced, or one client there or not."),
    ] = None
    clip: Annotated[Amount | None, Column("Largest L2 norm of an update in this round.", label="Clip")] = None
    noise_multiplier: Annotated[
        Amount | None, Column("Standard deviation of the sum's noise over the clip.", label="Noise")
    ] = None
    clipped: Annotated[
        Fraction | None,
        Column(
            "Share of the updates that were clipped; with `privacy.clip_quantile` as the server saw it, "
            "with noise.",
            unit="%",
            label="Clipped",
        ),
    ] = None
    learning_rate: Annotated[
        Amount | None, Column("Of the clients in this round.", label="Learning rate")
    ] = None
    temperature_kernel: KernelTemperature = None
    temperature_channel: ChannelTemperature = None
    temperature_tau: AssignmentShare = None
    cumulative: Annotated[
        Figures, Column("The costs above from round 1 on, and `bytes`, both directions.")
    ] = field(default_factory=dict)
    ies: Annotated[
        Figures,
        Column("[Cumulative cost over top-1](../accounting.md#ies-and-rcs), by axis."),
    ] = field(default_factory=dict)
    rcs: Annotated[
        Figures,
        Column("[Correct answers over cumulative cost](../accounting.md#ies-and-rcs), by axis."),
    ] = field(default_factory=dict)
    ies_round: Annotated[Figures, Column("`ies` of this round's cost alone.")] = field(default_factory=dict)
    rcs_round: Annotated[Figures, Column("`rcs` of this round's cost alone.")] = field(default_factory=dict)
    diagnostics: Annotated[Json, Column("Of dynamic convolutions, where `[diagnostics]` asks for them.")] = (
        field(default_factory=dict)
    )

    @property
    def accuracy(self) -> float | None:
        """Top-1 that scores and comparisons stand on: see ``scored_on``."""
        return self.client_top1_global_mean if self.scored_on == "clients" else self.top1


def gains(rows: Iterable[EvaluationRow], of: ClientModel = "affordable") -> dict[int, float]:
    """Return by client what it gained over training alone: top-1 of a model minus that of ``local``."""
    top1 = {(row.client, row.model): row.top1 for row in rows}
    clients = sorted(client for client, model in top1 if model == "local" and (client, of) in top1)
    return {client: top1[client, of] - top1[client, "local"] for client in clients}


@dataclass(frozen=True, kw_only=True)
class EpochRow(Record):
    """One epoch of centralised training: a line of ``epochs.jsonl``."""

    key: ClassVar[tuple[str, ...]] = ("epoch",)

    epoch: Annotated[Count, Column("Number of the epoch, from 1.", label="Epoch")]
    train_loss: Annotated[
        Figure | None,
        Column("Mean loss over the epoch's images.", unit="nat", label="Training loss"),
    ] = None
    test_loss: TestLoss = None
    top1: Top1 = None
    top5: Top5 = None
    validation_top1: Annotated[
        Fraction | None,
        Column("On `partition.validation`, which chooses epochs.", unit="%", label="Validation top-1"),
    ] = None
    validation_loss: ValidationLoss = None
    train_seconds: Annotated[
        Amount | None, Column("Measured time of training.", unit="s", label="Training", measured=True)
    ] = None
    train_joules: Annotated[
        Amount | None,
        Column(
            "Measured energy of training on the leader's machine, beyond that at rest (`energy.meter`).",
            unit="J",
            label="Energy",
            measured=True,
        ),
    ] = None
    joules_source: Annotated[Text | None, Column("What measured `train_joules`.")] = None
    joules_reason: Annotated[Text | None, Column("Why `train_joules` is null.")] = None
    idle_watts: Annotated[
        Amount | None, Column("Power at rest, which `train_joules` are without.", unit="W", measured=True)
    ] = None
    test_seconds: Annotated[
        Amount | None, Column("Measured time of the evaluation.", unit="s", label="Test", measured=True)
    ] = None
    samples: Annotated[Count | None, Column("Images trained on.", label="Images")] = None
    steps: Annotated[Count | None, Column("Steps of the optimiser.", label="Steps")] = None
    samples_per_second: Annotated[
        Amount | None,
        Column("`samples` over `train_seconds`.", unit="1/s", label="Images / s", measured=True),
    ] = None
    macs: Annotated[
        Count | None, Column("Analytic compute of the epoch's training.", unit="MAC", label="MACs")
    ] = None
    learning_rate: Annotated[Amount | None, Column("At the epoch's end.", label="Learning rate")] = None
    temperature_kernel: KernelTemperature = None
    temperature_channel: ChannelTemperature = None
    temperature_tau: AssignmentShare = None


MEASURED = frozenset(
    name
    for record in (ClientRow, RoundRow, EpochRow, EvaluationRow)
    for name, column in record.columns().items()
    if column.measured
)
"""Fields that differ when a run is repeated; the size of a reply is one, since it holds digits of seconds."""


def repeatable(row: Any) -> Any:
    """Return a row of a ledger without what is measured, at any depth: what a repeated run has again."""
    if isinstance(row, dict):
        return {name: repeatable(value) for name, value in row.items() if name not in MEASURED}
    return row
