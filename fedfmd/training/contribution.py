"""What a trained client adds to its worker's reply: to an exact sum, to a masked one, or as an upload."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.global_network import GlobalNetwork
from fedfmd.nn.submodel import Share
from fedfmd.records.schema import Json
from fedfmd.secure.sums import MaskedSum, SummedFigures
from fedfmd.training.masking import Masker
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.upload import Upload


@dataclass(frozen=True, kw_only=True)
class LocalUpdate:
    """What a client's training came to; good until the next client trains in its network."""

    update: Tensor
    """End minus start, float32 (elements of its part,); with a ``start``, the end."""
    start: Tensor | None = None
    """Where the client began, as long as ``update``: large models are then read once, and not three times."""
    extra: Tensor | None = None
    """What algorithms send along, float32; null for nothing."""
    sent: Mapping[str, Tensor] | None = None
    """What a real client sends for the server to make ``update`` of; null for ``update`` itself."""
    diagnostics: Json = field(default_factory=dict)

    @property
    def extra_elements(self) -> int:
        """How many elements are sent along."""
        return 0 if self.extra is None else len(self.extra)

    def vector(self) -> Tensor:
        """Return the update and what is sent along, one behind the other."""
        return self.update if self.extra is None else torch.cat([self.update, self.extra])


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One client's vector, and what it counts for."""

    client: int
    share: Share
    vector: Tensor
    """Float32 (elements of the share, and of what is sent along,)."""
    start: Tensor | None = None
    """To be taken off ``vector``, and as long."""
    extra_elements: int = 0
    """Of ``vector``, at its end, what is sent along."""
    sent: Mapping[str, Tensor] | None = None
    weight: int
    examples: int
    """That the client says it has trained on."""
    mean_loss: float | None = None
    """In training; null where it is not known."""


@dataclass(frozen=True)
class Added:
    """What the client's row says of how its update entered."""

    unsent: int = 0
    """Elements that were left out."""
    columns: Json = field(default_factory=dict)


class Sink(ABC):
    """Where clients' vectors go: the reply of one order."""

    takes_start: ClassVar[bool] = False
    """Whether a vector may be where a client ended, beside where it began."""
    shows_rejected: ClassVar[bool] = True
    """Whether a vector that is rejected has left its client."""

    @abstractmethod
    def add(self, own: Contribution) -> Added:
        """Take a client's vector; raises ``RejectedUpdateError``, with the reply unchanged."""


@dataclass(frozen=True)
class ToSum(Sink):
    """A worker adds up its clients."""

    total: ExactSum
    network: GlobalNetwork
    takes_start = True

    def add(self, own: Contribution) -> Added:
        """Add it to the sum."""
        self.total.add(own.vector, own.weight, own.share.key, self.network.index(own.share), own.start)
        return Added()


@dataclass(frozen=True)
class ToUpload(Sink):
    """A real client sends its update itself."""

    total: Upload
    network: GlobalNetwork

    def add(self, own: Contribution) -> Added:
        """Put it into the upload."""
        index, local = self.network.index(own.share), self.network.local_places(own.share)
        self.total.add(own.vector, own.weight, own.share.key, index, own.sent, own.extra_elements, local)
        return Added()


@dataclass(frozen=True)
class ToMaskedSum(Sink):
    """Updates are masked before they are added; nobody could look at one that the sum rejects."""

    total: MaskedSum
    masker: Masker
    order: WorkOrder
    shows_rejected = False

    def add(self, own: Contribution) -> Added:
        """Mask it, and add it to the sum."""
        figures = SummedFigures.of(own.weight, own.examples, own.mean_loss)
        masked = self.masker.add(own.client, self.order, own.share, own.vector, figures, self.total)
        seconds = masked.seconds
        return Added(masked.unsent, {"secure_seconds": seconds, "secure_stage_seconds": {"masks": seconds}})
