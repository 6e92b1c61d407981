"""A sum of masked updates: words in Z_2^64, whose bits say nothing before the masks come off."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from fedfmd.aggregation import Scale
from fedfmd.records.schema import told_loss
from fedfmd.secure.blocks import FIGURE_WORDS, FIGURES, Blocks

LOSS_UNIT = 2.0**-20
"""Unit of the summed loss."""


@dataclass(frozen=True)
class SummedFigures:
    """What clients tell in sums alone: of one of them, or of all in a sum."""

    weight: int
    examples: int
    """Of which the loss is known."""
    loss: float
    """Summed over these examples."""

    @classmethod
    def of(cls, weight: int, examples: int, mean_loss: float | None) -> "SummedFigures":
        """Return those of one client; a loss that is not finite is not known."""
        known = mean_loss is not None and isfinite(mean_loss)
        return cls(weight, examples if known else 0, examples * (mean_loss or 0.0) if known else 0.0)

    def words(self) -> Tensor:
        """Return them as words, int64 (FIGURE_WORDS,)."""
        return torch.tensor([self.weight, self.examples, round(self.loss / LOSS_UNIT)])

    @classmethod
    def read(cls, words: Tensor) -> "SummedFigures":
        """Read words back."""
        weight, examples, loss = words.tolist()
        return cls(weight, examples, loss * LOSS_UNIT)

    @property
    def mean_loss(self) -> float | None:
        """Mean over the examples; null without any, and where clients cannot have had it."""
        return told_loss(self.loss / self.examples) if self.examples > 0 else None


@dataclass
class MaskedSum:
    """Sum of clients' words, the same for every order and grouping of the same clients."""

    scale: Scale
    quanta: Tensor
    """Words of the whole vector, int64 (elements,)."""
    figures: Tensor
    """Words of block 0, int64 (FIGURE_WORDS,)."""
    borrowed: bool = False
    """The memory of ``quanta`` is somebody else's, who will write to it again."""

    @classmethod
    def zero(cls, elements: int, scale: Scale) -> "MaskedSum":
        """Start an empty sum."""
        return cls(scale, torch.zeros(elements, dtype=torch.int64), _no_figures())

    @classmethod
    def zero_in(cls, memory: Tensor, scale: Scale) -> "MaskedSum":
        """Start an empty sum in ``memory``, float64 (elements,), whatever it holds."""
        return cls(scale, memory.view(torch.int64).zero_(), _no_figures(), borrowed=True)

    def fits(self, elements: int) -> bool:
        """Return whether this is a sum of vectors of so many elements."""
        kinds = (self.quanta.dtype, self.figures.dtype) == (torch.int64, torch.int64)
        return kinds and self.quanta.shape == (elements,) and self.figures.shape == (FIGURE_WORDS,)

    def sliced(self, places: Tensor | None) -> "MaskedSum":
        """Return the words at some places alone, as one client sends them; null for all."""
        return self if places is None else replace(self, quanta=self.quanta[places], borrowed=False)

    def spread(self, places: Tensor | None, elements: int) -> "MaskedSum":
        """Return words of some places as those of a whole vector; raises ``ValueError`` for other words."""
        if not self.fits(elements if places is None else len(places)):
            raise ValueError(f"{len(self.quanta)} masked words; needs those of the client's slice")
        if places is None:
            return self
        whole = torch.zeros(elements, dtype=torch.int64).index_copy_(0, places, self.quanta)
        return replace(self, quanta=whole)

    def add(self, words: Mapping[int, Tensor], blocks: Blocks) -> None:
        """Add one client's words by block."""
        self.figures += words[FIGURES]
        for number, piece in words.items():
            if number != FIGURES:
                self._add_block(blocks[number].places, piece)

    def _add_block(self, places: Tensor | None, piece: Tensor) -> None:
        if places is None:
            self.quanta.add_(piece)
        else:
            self.quanta.index_add_(0, places, piece)

    def merge(self, other: "MaskedSum") -> None:
        """Add another worker's sum of the same round; raises ``ValueError`` for any other."""
        if other.scale != self.scale or other.quanta.shape != self.quanta.shape:
            raise ValueError("sums of different rounds or models cannot be merged")
        self.quanta.add_(other.quanta)
        self.figures += other.figures

    def block(self, number: int, blocks: Blocks) -> Tensor:
        """Return the words of a block; those of the whole vector are not copied."""
        if number == FIGURES:
            return self.figures
        places = blocks[number].places
        return self.quanta if places is None else self.quanta[places]


def _no_figures() -> Tensor:
    return torch.zeros(FIGURE_WORDS, dtype=torch.int64)
