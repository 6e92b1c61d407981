"""The elements of the model by who holds them: a block is all that the same parts of the model share.

Two clients mask what both hold, and a block that too few hold, or have sent, is nobody's to see; the blocks
are what can be decided about one by one. Block 0 is no part of the model: its three words are figures that
every client sends, its weight, the examples that its loss is of, and that loss summed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FIGURES = 0
FIGURE_WORDS = 3


@dataclass(frozen=True)
class Block:
    """Some elements of the model."""

    parts: frozenset[str]
    """Names of the parts that hold them."""
    places: Tensor | None
    """Which they are, int64, ascending; null for all of the vector."""
    words: int
    """How many they are."""


@dataclass(frozen=True)
class Blocks:
    """All blocks of a round, and who is to send them."""

    seats: Mapping[int, str]
    """Client to the part of the model that it holds; the whole one's name is empty."""
    min_holders: int
    model: tuple[Block, ...]
    """Blocks 1, 2, ... of the model."""

    def __getitem__(self, number: int) -> Block:
        """Return a block of the model."""
        return self.model[number - 1]

    def words(self, number: int) -> int:
        """Count the words of a block."""
        return FIGURE_WORDS if number == FIGURES else self[number].words

    def held_by(self, client: int) -> list[int]:
        """Return the blocks that a client sends, ascending."""
        return [number for number in self.sendable if self.holds(client, number)]

    def holds(self, client: int, number: int) -> bool:
        """Return whether a block is part of what a client holds; all hold the figures."""
        return number == FIGURES or self.seats[client] in self[number].parts

    def holders(self, number: int, clients: Collection[int]) -> list[int]:
        """Return those of the ``clients`` that hold a block, ascending."""
        return sorted(client for client in clients if self.holds(client, number))

    @cached_property
    def sendable(self) -> list[int]:
        """Blocks that enough clients hold, ascending."""
        return self.visible(self.seats)

    def visible(self, clients: Collection[int]) -> list[int]:
        """Return the blocks whose sum over ``clients`` is over enough of them, ascending."""
        numbers = range(len(self.model) + 1)
        return [n for n in numbers if len(self.holders(n, clients)) >= self.min_holders]

    def unsent(self, client: int) -> int:
        """Count the elements that a client holds, and does not send."""
        numbers = range(1, len(self.model) + 1)
        return sum(self[n].words for n in numbers if self.holds(client, n) and n not in self.sendable)

    def places(self, numbers: Iterable[int]) -> Tensor | None:
        """Return the places of blocks of the model one behind the other, int64; null for all of it."""
        chosen = [self[number].places for number in numbers if number != FIGURES]
        known = [places for places in chosen if places is not None]
        if len(known) < len(chosen):
            return None
        return torch.cat([torch.zeros(0, dtype=torch.int64), *known])


def blocks_of(
    seats: Mapping[int, str],
    elements: int,
    index_of: Callable[[str], Tensor | None],
    min_holders: int,
) -> Blocks:
    """Return the blocks of a vector of so many ``elements``, for clients that hold the parts ``seats``.

    ``index_of`` gives the places of a part in the vector, int64; null for all of it.
    """
    parts = sorted(set(seats.values()))
    if parts == [""]:
        return Blocks(seats, min_holders, (Block(frozenset(parts), None, elements),))
    kinds, number_of = torch.zeros(elements, dtype=torch.int64), [frozenset[str]()]
    for part in parts:
        kinds, number_of = _refined(kinds, number_of, part, index_of(part))
    model = [
        Block(held, places, len(places))
        for number, held in enumerate(number_of)
        if held
        for places in [(kinds == number).nonzero().flatten()]
    ]
    return Blocks(seats, min_holders, tuple(model))


def _refined(
    kinds: Tensor, held: list[frozenset[str]], part: str, index: Tensor | None
) -> tuple[Tensor, list[frozenset[str]]]:
    """Tell the elements of a part from the others; ``kinds`` (elements,) numbers the entries of ``held``."""
    member = torch.ones_like(kinds) if index is None else torch.zeros_like(kinds)
    if index is not None:
        member[index] = 1
    kinds = kinds.mul(2).add_(member)
    names = [parts | added for parts in held for added in (frozenset[str](), frozenset([part]))]
    there = torch.bincount(kinds, minlength=len(names)) > 0
    return (there.cumsum(0) - 1)[kinds], [
        name for name, exists in zip(names, there.tolist(), strict=True) if exists
    ]
