"""Whole rounds of the protocol, without training: clients with numbers of their own, who leave on request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfmd.secure import FIGURES, Blocks, Revealed, Secrets, Session, SumMember, blocks_of

ELEMENTS = 60
PLACES: Mapping[str, Tensor | None] = {
    "": None,
    "front": torch.arange(30),
    "spread": torch.tensor([1, 5, 7, 29, 40, 59]),
}
THRESHOLD = 0.66


@dataclass
class Round:
    """Clients, the part that each holds, and who leaves at which stage."""

    seats: Mapping[int, str]
    leave_keys: Collection[int] = ()
    leave_shares: Collection[int] = ()
    leave_masked: Collection[int] = ()
    leave_unmasking: Collection[int] = ()
    min_holders: int = 3
    threshold: float = THRESHOLD
    members: dict[int, SumMember] = field(default_factory=dict)
    updates: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    """Client to the words of each block that it sends, without masks."""
    sent: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    """The same as the server sees them."""
    answers: list[Revealed] = field(default_factory=list)

    def begin(self) -> "Round":
        """Go through the stages up to the masked updates."""
        there = {client: part for client, part in self.seats.items() if client not in self.leave_keys}
        self.blocks: Blocks = blocks_of(there, ELEMENTS, lambda part: PLACES[part], self.min_holders)
        self.members = {
            client: SumMember(client, Secrets(bytes([client]) * 32), self.threshold) for client in there
        }
        keys = {client: member.keys() for client, member in self.members.items()}
        parts = set(self.seats.values()) != {""}
        self.session = Session(self.blocks, keys, self.threshold, seed=7, parts=parts)
        self.invitations = self.session.invitations()
        self.session.take_deposits(
            self.members[client].deposit(self.invitations[client], self.blocks)
            for client in there
            if client not in self.leave_shares
        )
        for client in self.session.deposits:
            self._mask(client)
        return self

    def end(self) -> dict[int, Tensor]:
        """Take the masks off; returns the sum by block that the server ends with."""
        self.question = self.session.close(self.sent.keys() - set(self.leave_masked))
        self.answers = [
            self.members[client].reveal(self.question, self.invitations[client], self.blocks)
            for client in self.question.survivors
            if client not in self.leave_unmasking
        ]
        words = {block: self.summed(self.sent, block) for block in self.session.visible}
        self.session.unmask(words, self.answers)
        return words

    def summed(self, of: Mapping[int, Mapping[int, Tensor]], block: int) -> Tensor:
        """Return the sum over the survivors of a block's words."""
        holders = self.blocks.holders(block, self.question.survivors)
        return torch.stack([of[client][block] for client in holders]).sum(0)

    def _mask(self, client: int) -> None:
        generator = torch.Generator().manual_seed(client)
        own = {
            block: torch.randint(-(2**48), 2**48, (self.blocks.words(block),), generator=generator)
            for block in self.blocks.held_by(client)
        }
        member = self.members[client]
        member.held = {shares.sender: shares for shares in self.session.sealed_for(client)}
        self.updates[client] = own
        self.sent[client] = {block: words.clone() for block, words in own.items()}
        member.mask(self.sent[client], self.session.partners(client), self.blocks)

    def elements(self, of: Mapping[int, Tensor]) -> Tensor:
        """Return blocks of the model put into one vector, zero where there is none."""
        whole = torch.zeros(ELEMENTS, dtype=torch.int64)
        for block, words in of.items():
            if block != FIGURES:
                places = self.blocks[block].places
                whole[torch.arange(ELEMENTS) if places is None else places] = words
        return whole
