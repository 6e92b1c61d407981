"""The limits of a client in a round."""

from dataclasses import asdict, dataclass
from math import floor

from fedfmd.costs.conventions import FLOAT32_BYTES, TRAINING_MACS_PER_FORWARD
from fedfmd.devices.budgets import budget_of
from fedfmd.devices.participant import Participant
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE
from fedfmd.planning.secure_cost import secure_cost
from fedfmd.records.schema import Json
from fedfmd.secure.stream import WORD_BYTES


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Most that a client may spend in one round; null is without limit."""

    macs: int | None = None
    downlink_bytes: int | None = None
    uplink_bytes: int | None = None
    memory_bytes: int | None = None
    device_seconds: float | None = None
    joules: float | None = None

    def to_json(self) -> Json:
        """Return the limits that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def training_passes(experiment: Experiment) -> int:
    """Return what training with one sample costs at most, in forward passes of its network."""
    return TRAINING_MACS_PER_FORWARD * experiment.algorithms.passes


def limits_of(experiment: Experiment, participant: Participant) -> Limits:
    """Return the limits of a client.

    A device's own budget goes before the experiment's, key by key; of an absolute limit and a fraction the
    tighter one holds. The memory of a real machine is a limit whatever the budget says.
    """
    device, host = participant.device, participant.host
    budget = budget_of(experiment.config.budget, device)
    whole = (
        training_passes(experiment) * experiment.network.cost.forward_macs * experiment.config.client.epochs
    )
    elements = experiment.sent_elements(WHOLE)
    secure = secure_cost(experiment, elements)
    downlink = experiment.received_elements(WHOLE) * FLOAT32_BYTES + secure.downlink_bytes
    uplink = elements * (WORD_BYTES if experiment.secure else FLOAT32_BYTES) + secure.uplink_bytes
    memory = device.memory_bytes if device and budget.device_memory else None
    return Limits(
        macs=_tightest(budget.macs, _part(budget.macs_fraction, whole * participant.examples + secure.macs)),
        downlink_bytes=_tightest(budget.downlink_bytes, _part(budget.bytes_fraction, downlink)),
        uplink_bytes=_tightest(budget.uplink_bytes, _part(budget.bytes_fraction, uplink)),
        memory_bytes=_tightest(budget.memory_bytes, memory, host.memory_bytes if host else None),
        device_seconds=budget.device_seconds,
        joules=budget.joules,
    )


def _part(fraction: float | None, whole: int) -> int | None:
    return None if fraction is None else floor(fraction * whole)


def _tightest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
