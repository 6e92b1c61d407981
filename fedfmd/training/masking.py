"""A client's part in a secure sum while it trains: its update becomes words by block, which are masked."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfmd.aggregation import rounded
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import Share
from fedfmd.secure import FIGURES, Blocks, PublicKeys, Secrets, SumMember
from fedfmd.secure.sums import MaskedSum, SummedFigures
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.secure import SecureOrder, graph_seed, simulated_secrets

SecretsOf = Callable[[WorkOrder, int], Secrets]
"""The secrets of a client in the round of an order."""


@dataclass(frozen=True)
class MaskedUpdate:
    """How an update was masked."""

    unsent: int
    """Elements that too few hold, and that were left out."""
    seconds: float


class Masker:
    """Turns updates into masked words, and adds them to a sum."""

    def __init__(self, experiment: Experiment, secrets_of: SecretsOf | None = None):
        """Mask with real clients' own secrets, or by default with those that virtual clients draw."""
        self.experiment = experiment
        self.config = experiment.config
        self.secrets_of = secrets_of or self._simulated

    def add(
        self,
        client: int,
        order: WorkOrder,
        share: Share,
        update: Tensor,
        figures: SummedFigures,
        total: MaskedSum,
    ) -> MaskedUpdate:
        """Add the masked words of a client's ``update``, float32 (elements of its ``share``,), to a sum.

        Raises ``RejectedUpdateError``, with the sum unchanged, for an update beyond the sum's range: nobody
        can look at it later.
        """
        assert order.secure is not None
        places = self.experiment.network.index(share)
        quanta = rounded(update, figures.weight, len(total.quanta), total.scale, places)
        started = time.perf_counter()
        blocks = self.experiment.network.blocks(order.secure.parts())
        words = self._words(client, quanta, places, len(total.quanta), blocks)
        words[FIGURES] = figures.words()
        if self.config.privacy.masks == "real":
            member = SumMember(client, self.secrets_of(order, client), self.config.privacy.threshold)
            member.mask(words, self._partners(client, order, order.secure), blocks)
        total.add(words, blocks)
        return MaskedUpdate(blocks.unsent(client), time.perf_counter() - started)

    def _words(
        self, client: int, quanta: Tensor, places: Tensor | None, elements: int, blocks: Blocks
    ) -> dict[int, Tensor]:
        """Split the ``quanta`` of a part, int64 (elements of the part,), by block, int64 (words of it,).

        ``places`` are those of the part among the sum's ``elements``, int64; null for all of them.
        """
        numbers = [number for number in blocks.held_by(client) if number != FIGURES]
        if len(numbers) == 1 and blocks[numbers[0]].places is None:  # all hold the whole vector
            return {numbers[0]: quanta}
        whole = quanta
        if places is not None:
            whole = torch.zeros(elements, dtype=torch.int64).index_copy_(0, places, quanta)
        return {number: whole[blocks[number].places] for number in numbers}

    def _partners(self, client: int, order: WorkOrder, secure: SecureOrder) -> tuple[PublicKeys, ...]:
        seed = graph_seed(self.config.seed, order.round, order.attempt)
        return secure.partners(client, seed, parts=self.config.parts)

    def _simulated(self, order: WorkOrder, client: int) -> Secrets:
        return simulated_secrets(self.config.seed, order.round, order.attempt, client)
