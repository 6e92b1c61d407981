"""What crosses the wire when clients measure models on their own images, and counts come back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.nn.submodel import Share
from fedfmd.nn.temperature import Temperatures
from fedfmd.records.schema import Amount, Count, Measured, Record
from fedfmd.wire.packages import TURN_BITS, BadPackageError, Message
from fedfmd.wire.plan import ClientPlan


@dataclass(frozen=True, kw_only=True)
class PastSteps(Record):
    """Steps that a client did in one round, to be done again by itself alone."""

    round: Count
    """Whose temperatures the network has."""
    turn: Count = 0
    """How often the client had trained before in that round."""
    learning_rate: Amount
    temperatures: Temperatures
    plan: ClientPlan
    """Its part of the network; ``steps`` are those that were done."""

    @property
    def stamp(self) -> int:
        """Number that names the draws of this work, as ``WorkOrder.stamp`` does."""
        return self.round + (self.turn << TURN_BITS)


@dataclass(frozen=True, kw_only=True)
class Subject(Record):
    """One client that measures."""

    client: Count
    models: tuple[ClientModel, ...]
    plan: ClientPlan | None = None
    """What its budget allows; null for nothing."""
    state_round: Count = 0
    """The round whose kept state it has; 0 for none."""
    sessions: tuple[PastSteps, ...] = ()
    """All that it has trained, for the model that it would have alone."""

    @property
    def share(self) -> Share:
        """Its part of the network: what its budget allows, or what it trained last."""
        plans = [session.plan for session in self.sessions]
        return (self.plan or plans[-1]).share

    @property
    def affords_global(self) -> bool:
        """Whether the model that it can afford is the global one, and measured as that."""
        both = {"global", "affordable"} <= set(self.models)
        return both and self.plan is not None and self.plan.share.whole


@dataclass(frozen=True, kw_only=True)
class ExaminationOrder(Message):
    """Let groups of clients measure models on their own images, and reply with counts.

    A group is measured whole: the sums of a forward pass may depend on the batch.
    """

    round: Count
    learning_rate: Amount
    temperatures: Temperatures
    groups: tuple[tuple[Subject, ...], ...]
    resend: Count = 0
    """How often this work was sent before without an answer."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Who measures what."""
        return tuple(subject for group in self.groups for subject in group)

    @property
    def clients(self) -> tuple[int, ...]:
        """Who measures."""
        return tuple(subject.client for subject in self.subjects)

    @property
    def answers(self) -> int:
        """Of how many clients a reply tells at most."""
        return len(self.clients)

    def allowed_seconds(self, deadline_seconds: float | None) -> float | None:
        """Return how long it may take where a client's training has a deadline, and measuring as well."""
        visits = sum(len(subject.models) + len(subject.sessions) for subject in self.subjects)
        return None if deadline_seconds is None else visits * deadline_seconds

    def again(self) -> list["ExaminationOrder"]:
        """Return an order for each group alone, to be sent again."""
        return [replace(self, groups=(group,), resend=self.resend + 1) for group in self.groups]


@dataclass(frozen=True, kw_only=True)
class ClientScore(Record):
    """One model on one client's images: counts and a sum."""

    client: Count
    model: ClientModel
    examples: Count
    correct: Count
    loss_sum: Amount | None
    """Summed cross entropy; null where it is not finite."""
    host_seconds: Measured | None = None
    """Measured time of the work; null from a real client, who tells no more than counts."""


@dataclass(frozen=True, kw_only=True)
class ExaminationResult(Message):
    """The reply to an order: a client whose measurement failed has no score."""

    scores: tuple[ClientScore, ...]

    def check(self, order: ExaminationOrder, examples: Mapping[int, int]) -> None:
        """Raise ``BadPackageError`` unless this answers ``order``; its clients have so many ``examples``."""
        asked = {(subject.client, model) for subject in order.subjects for model in subject.models}
        told = [(score.client, score.model) for score in self.scores]
        if len(set(told)) != len(told) or not set(told) <= asked:
            raise BadPackageError("the reply answers another order")
        if any(not score.correct <= score.examples == examples[score.client] for score in self.scores):
            raise BadPackageError("these cannot be the counts of so many images")
