"""What a plan demands of a client: work, traffic and memory, and on a simulated device time and energy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from fedfmd.config.sections.client import ClientConfig
from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import Macs, ModelCost
from fedfmd.costs.memory import training_bytes
from fedfmd.devices import Device, use
from fedfmd.devices.participant import Participant
from fedfmd.devices.simulation import DeviceUse, overhead_seconds
from fedfmd.experiment import Experiment
from fedfmd.planning.budget import Limits, training_passes
from fedfmd.planning.secure_cost import secure_cost, update_bytes
from fedfmd.registry import find
from fedfmd.secure.costs import StageCost
from fedfmd.wire.plan import ClientPlan

MESSAGE_COPIES = 6
"""How often a real client holds what it receives and sends: Flower's two processes, the connection, our own
buffers. Measured with payloads of 45 MB; see docs/deployment.md."""


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

    def exceeded(self, limits: Limits) -> list[str]:
        """Name the limits that this breaks, with what a secure sum takes."""
        spent = self.in_all
        return [
            name
            for name, limit in limits.to_json().items()
            if (value := getattr(spent, name)) is not None and value > limit
        ]


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """How far a client has come with a plan, and what that took."""

    steps: int
    macs: int
    device_seconds: float
    joules: float


@dataclass(frozen=True)
class Costing:
    """A client with a plan, and what that comes to; figures that others rest on are computed once."""

    experiment: Experiment
    plan: ClientPlan
    participant: Participant

    @classmethod
    def of(cls, experiment: Experiment, plan: ClientPlan, client: int) -> "Costing":
        """Return that of one of the experiment's clients."""
        return cls(experiment, plan, experiment.participant(client))

    @cached_property
    def work(self) -> LocalWork:
        """The steps and samples of the whole plan."""
        return work_of(self.experiment, self.plan, self.participant.examples)

    @property
    def macs(self) -> Macs:
        """Training compute of the whole plan, at most."""
        return self._macs_per_sample * self.work.samples

    @cached_property
    def received_elements(self) -> int:
        """Elements that the client has to receive."""
        return self.experiment.received_elements(self.plan.share)

    @cached_property
    def sent_elements(self) -> int:
        """Elements that it sends back, were they not compressed."""
        return self.experiment.sent_elements(self.plan.share)

    @cached_property
    def extra_elements(self) -> int:
        """Those of them that go along with the part, for algorithms."""
        experiment = self.experiment
        return experiment.algorithms.extra_elements(experiment.network.part(self.plan.share).layout)

    @property
    def downlink_bytes(self) -> int:
        """Payload of the part that the client receives."""
        return self.received_elements * FLOAT32_BYTES

    def demand(self) -> Demand:
        """Return what the whole plan takes."""
        return self.used(self.macs, self.work.largest_batch)

    def used(self, macs: Macs, largest_batch: int, *, sends: bool = True, unsent: int = 0) -> Demand:
        """Return what receiving the plan's part, doing ``macs`` and, if it ``sends``, answering take.

        ``unsent`` elements are not in the answer. A secure sum is billed as planned.
        """
        device, host = self.participant.device, self.participant.host
        sent = update_bytes(self.experiment, self.sent_elements - unsent, self.extra_elements) if sends else 0
        used = self._use(device, macs, sent, self._overhead_seconds(device, macs)) if device else None
        memory_bytes = training_bytes(
            self._cost,
            largest_batch,
            compiled=host is None or host.compiled,
            optimizer_copies=optimizer_copies(self.experiment.config.client),
        )
        return Demand(
            macs=macs.total,
            downlink_bytes=self.downlink_bytes,
            uplink_bytes=sent,
            memory_bytes=memory_bytes + (MESSAGE_COPIES * (self.downlink_bytes + sent) if host else 0),
            device_seconds=used.seconds if used else None,
            compute_seconds=used.compute_seconds if used else None,
            joules=used.joules if used else None,
            secure=self._secure,
        )

    def after(self, worked_seconds: float) -> Unfinished:
        """Return how far a client with a device comes that works so long, and sends nothing."""
        device = self.participant.device
        assert device is not None, "only work on a simulated device is cut off by its clock"
        overhead = self._overhead_seconds(device, self._macs_per_sample)
        received = self._use(device, Macs(), 0).seconds
        a_sample = use(device, self._macs_per_sample, 0, 0, overhead_seconds=overhead).seconds
        done = min(self.work.samples, max(0, int((worked_seconds - received) / a_sample)))
        macs = self._macs_per_sample * done
        spent = self._use(device, macs, 0, overhead * done)
        part = min(1.0, worked_seconds / spent.seconds)  # below 1 while it still receives
        return Unfinished(
            steps=steps_within(self.experiment, self.plan, self.participant.examples, done),
            macs=macs.total,
            device_seconds=part * spent.seconds,
            joules=part * spent.joules,
        )

    @cached_property
    def _cost(self) -> ModelCost:
        return self.experiment.network.part(self.plan.share).cost

    @cached_property
    def _macs_per_sample(self) -> Macs:
        return self._cost.macs_by_kind * training_passes(self.experiment)

    @cached_property
    def _secure(self) -> StageCost:
        return secure_cost(self.experiment, self.sent_elements)

    def _overhead_seconds(self, device: Device, macs: Macs) -> float:
        """Return the seconds that some MACs of the plan take beside them, in the plan's batches."""
        return overhead_seconds(device, macs, self._cost, self.work.images_per_step)

    def _use(self, device: Device, macs: Macs, sent_bytes: int, overhead: float = 0.0) -> DeviceUse:
        """Return what a round takes on a device; arithmetic of secure sums is as fast as linear layers."""
        secure = self._secure
        work = macs + Macs(linear=secure.macs)
        received, sent = self.downlink_bytes + secure.downlink_bytes, sent_bytes + secure.uplink_bytes
        return use(device, work, received, sent, overhead_seconds=overhead)


def demand(experiment: Experiment, plan: ClientPlan, participant: Participant) -> Demand:
    """Return what a plan takes from a client."""
    return Costing(experiment, plan, participant).demand()


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


def optimizer_copies(config: ClientConfig) -> int:
    """Return how many numbers the clients' optimiser keeps for a parameter; 2 where it does not say."""
    copies: Callable[[ClientConfig], int] | None = getattr(
        find("optimizer", config.optimizer), "copies", None
    )
    return 2 if copies is None else copies(config)
