"""What crosses the wire when models are measured, and counts come back.

Clients measure on their own images, workers on the server's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.nn.submodel import Share
from fedfmd.nn.temperature import Temperatures
from fedfmd.records.schema import Amount, Count, Json, Measured, Record
from fedfmd.wire.packages import TURN_BITS, BadPackageError
from fedfmd.wire.plan import ClientPlan


@dataclass(frozen=True)
class Evaluation(Record):
    """Counts and sums over ``examples`` images: two evaluations add up field by field."""

    examples: Count
    correct: Count
    correct_top5: Count
    loss_sum: Amount

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Pool two evaluations."""
        return Evaluation(
            self.examples + other.examples,
            self.correct + other.correct,
            self.correct_top5 + other.correct_top5,
            self.loss_sum + other.loss_sum,
        )

    def fits(self, examples: int) -> bool:
        """Whether these can be the counts of so many ``examples``."""
        return self.correct <= self.correct_top5 <= self.examples == examples

    @property
    def top1(self) -> float:
        """Fraction of images whose best-scored class is the label."""
        return self.correct / self.examples

    @property
    def top5(self) -> float:
        """Fraction of images whose label is among the five best-scored classes."""
        return self.correct_top5 / self.examples

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return self.loss_sum / self.examples


NOTHING = Evaluation(0, 0, 0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Batch(Record):
    """A batch of the server's images: those that report, or those that choose."""

    images: Literal["test", "validation"]
    number: Count
    """From 0 on, in the order of the images."""


@dataclass(frozen=True, kw_only=True)
class BatchCounts(Record):
    """What a worker found on a batch."""

    batch: Batch
    found: Evaluation


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
class EvaluationOrder(Record):
    """Let groups of clients measure models, or test the global one on batches; and reply with counts.

    Groups and batches are measured whole: the sums of a forward pass may depend on the batch.
    """

    round: Count
    learning_rate: Amount
    temperatures: Temperatures
    groups: tuple[tuple[Subject, ...], ...] = ()
    batches: tuple[Batch, ...] = ()
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
        """Of how many clients and batches a reply tells."""
        return len(self.clients) + len(self.batches)

    @property
    def visits(self) -> int | None:
        """How often a client trains, or is measured; null with batches, which have no deadline."""
        if self.batches:
            return None
        return sum(len(subject.models) + len(subject.sessions) for subject in self.subjects)

    def again(self) -> list["EvaluationOrder"]:
        """Return an order for each group alone, to be sent again."""
        return [replace(self, groups=(group,), resend=self.resend + 1) for group in self.groups]

    def to_json(self) -> Json:
        """Give the order as plain data."""
        return asdict(self)


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
class EvaluationResult(Record):
    """The reply to an order: a client whose measurement failed has no score."""

    scores: tuple[ClientScore, ...]
    tested: tuple[BatchCounts, ...] = ()
    """Without the batches whose loss is not finite."""

    def to_json(self) -> Json:
        """Give the reply as plain data."""
        return asdict(self)

    def check(self, order: EvaluationOrder, examples: Mapping[int, int]) -> None:
        """Raise ``BadPackageError`` unless this answers ``order``; its clients have so many ``examples``."""
        if self.tested:
            raise BadPackageError("the reply answers another order")
        asked = {(subject.client, model) for subject in order.subjects for model in subject.models}
        told = [(score.client, score.model) for score in self.scores]
        if len(set(told)) != len(told) or not set(told) <= asked:
            raise BadPackageError("the reply answers another order")
        if any(not score.correct <= score.examples == examples[score.client] for score in self.scores):
            raise BadPackageError("these cannot be the counts of so many images")

    def check_tests(self, order: EvaluationOrder, size: Callable[[Batch], int]) -> None:
        """Raise ``BadPackageError`` unless this answers an order of batches, each of its ``size``."""
        told = [one.batch for one in self.tested]
        if self.scores or len(set(told)) != len(told) or not set(told) <= set(order.batches):
            raise BadPackageError("the reply answers another order")
        if any(not one.found.fits(size(one.batch)) for one in self.tested):
            raise BadPackageError("these cannot be the counts of so many images")
