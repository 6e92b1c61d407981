"""What crosses the wire when workers test the global model on the server's images, batch by batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedfmd.nn.temperature import Temperatures
from fedfmd.records.schema import Amount, Count, Record
from fedfmd.wire.packages import BadPackageError, Message


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
class ServerTestOrder(Message):
    """Test the global model on batches of the server's images, and reply with counts.

    A batch is measured whole: the sums of a forward pass may depend on it.
    """

    round: Count
    temperatures: Temperatures
    batches: tuple[Batch, ...]
    seconds: Amount
    """How long it may take; the server then measures by itself what is missing."""

    @property
    def answers(self) -> int:
        """Of how many batches a reply tells at most."""
        return len(self.batches)

    def allowed_seconds(self, deadline_seconds: float | None) -> float | None:
        """Return how long it may take; deadlines of clients do not matter."""
        del deadline_seconds
        return self.seconds


@dataclass(frozen=True, kw_only=True)
class ServerTestResult(Message):
    """The reply to an order, without the batches whose loss is not finite."""

    tested: tuple[BatchCounts, ...]

    def check(self, order: ServerTestOrder, size: Callable[[Batch], int]) -> None:
        """Raise ``BadPackageError`` unless this answers ``order``, each of whose batches has its ``size``."""
        told = [one.batch for one in self.tested]
        if len(set(told)) != len(told) or not set(told) <= set(order.batches):
            raise BadPackageError("the reply answers another order")
        if any(not one.found.fits(size(one.batch)) for one in self.tested):
            raise BadPackageError("these cannot be the counts of so many images")
