"""The server's side of a secure sum: it carries messages, and learns the sum over those who survive.

A round that too few survive, or whose masks do not come off for want of shares, is void: it is not known, and
is repeated with other clients and new keys.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedfmd.secure.blocks import Blocks
from fedfmd.secure.graph import degree_for, needed_shares, neighbours
from fedfmd.secure.keys import BadSecretError, agreed, public_key
from fedfmd.secure.member import PAIR, point_of, sign_of
from fedfmd.secure.messages import Deposit, Invitation, PublicKeys, Question, Revealed, SealedShares, Seat
from fedfmd.secure.shamir import join
from fedfmd.secure.stream import add_mask

PAIRS = -1
"""Stands for the key that all pairs of masks of a client are made with, where blocks are counted."""


class VoidSumError(ValueError):
    """A sum that cannot be known; its text says why."""


@dataclass
class Session:
    """One round of the server's side; the stages follow one another, and none comes twice."""

    blocks: Blocks
    """Of those who have told their keys."""
    keys: Mapping[int, PublicKeys]
    threshold: float
    seed: int
    """Draws the graph."""
    parts: bool = False
    """Whether clients may hold parts of the model."""
    deposits: dict[int, Deposit] = field(default_factory=dict)
    question: Question | None = None

    def __post_init__(self) -> None:
        self._check_number(self.keys, "told their keys")
        self.degree = degree_for(len(self.keys), parts=self.parts)

    def neighbours(self, client: int) -> tuple[int, ...]:
        """Return who shares masks with a client."""
        return neighbours(client, list(self.keys), self.degree, self.seed)

    def invitations(self) -> dict[int, Invitation]:
        """Return for each client who takes part, and the keys of its neighbours."""
        seats = tuple(Seat(client=c, part=part) for c, part in sorted(self.blocks.seats.items()))
        return {
            client: Invitation(seats=seats, keys=tuple(self.keys[n] for n in self.neighbours(client)))
            for client in self.keys
        }

    def take_deposits(self, deposits: Iterable[Deposit]) -> None:
        """Take the shares in; clients without one have dropped out.

        Raises ``VoidSumError`` when too few are left.
        """
        self.deposits = {deposit.client: deposit for deposit in deposits}
        self._check_number(self.deposits, "deposited shares")

    def sealed_for(self, client: int) -> tuple[SealedShares, ...]:
        """Return what the neighbours of a client have deposited with it."""
        return tuple(
            shares
            for neighbour in self.neighbours(client)
            if neighbour in self.deposits
            for shares in self.deposits[neighbour].sealed
            if shares.receiver == client
        )

    def partners(self, client: int) -> tuple[PublicKeys, ...]:
        """Return those whose masks a client uses: its neighbours that have deposited shares."""
        return tuple(self.keys[n] for n in self.neighbours(client) if n in self.deposits)

    def close(self, arrived: Collection[int]) -> Question:
        """Decide whose masked update counts, for good; gives what the survivors are asked.

        Whoever comes later has dropped out. Raises ``VoidSumError`` when too few have arrived.
        """
        if self.question is not None:
            raise VoidSumError("the round is closed")
        survivors = sorted(set(arrived) & self.deposits.keys())
        self.question = Question(survivors=tuple(survivors))
        self._check_number(survivors, "sent a masked update")
        return self.question

    @property
    def survivors(self) -> tuple[int, ...]:
        """Those whose masked update has arrived; nobody before the round is closed."""
        return self.question.survivors if self.question else ()

    @property
    def visible(self) -> list[int]:
        """Blocks whose sum enough survivors are in."""
        return self.blocks.visible(self.survivors)

    def check_answers(self, answered: Collection[int]) -> None:
        """Raise ``VoidSumError`` when those who have ``answered`` hold too few shares of a secret."""
        survivors = set(self.survivors)
        for client in sorted(self.deposits):
            near = self.neighbours(client)
            if client in survivors or survivors & set(near):
                self._check_shares(client, len({client, *near} & set(answered)))

    def unmask(self, words: Mapping[int, Tensor], answers: Iterable[Revealed]) -> None:
        """Take the masks off ``words``, the survivors' sum of each visible block, int64 (words,), in place.

        Raises ``VoidSumError`` when there are too few ``answers`` for it; the words are then of no use.
        """
        survivors = set(self.survivors)
        shares = _by_secret(answer for answer in answers if answer.client in survivors)
        for client in sorted(survivors):
            for block in self.blocks.held_by(client):
                if block in words:
                    add_mask(words[block], self._joined(client, shares[client, block]), block, -1)
        for client in sorted(self.deposits.keys() - survivors):
            near = [other for other in self.neighbours(client) if other in survivors]
            if near:
                self._take_off_pairs(client, near, words, self._joined(client, shares[client, PAIRS]))

    def _take_off_pairs(
        self, lost: int, near: Iterable[int], words: Mapping[int, Tensor], private: bytes
    ) -> None:
        """Take off the masks that survivors ``near`` a client which dropped out have shared with it."""
        if public_key(private).hex() != self.keys[lost].masking:
            raise VoidSumError(f"the shares of client {lost}'s key do not belong together")
        for client in near:
            key = agreed(private, bytes.fromhex(self.keys[client].masking), PAIR)
            for block, piece in words.items():
                if self.blocks.holds(lost, block) and self.blocks.holds(client, block):
                    add_mask(piece, key, block, -sign_of(client, lost))

    def _joined(self, client: int, shares: Mapping[int, bytes]) -> bytes:
        needed = self._check_shares(client, len(shares))
        try:
            return join(dict(sorted(shares.items())[:needed]))
        except ValueError as error:
            raise VoidSumError(f"client {client}: {error}") from None

    def _check_shares(self, client: int, found: int) -> int:
        """Return how many shares give a secret of a client; raises ``VoidSumError`` for fewer ``found``."""
        needed = needed_shares(self.degree, self.threshold)
        if found < needed:
            raise VoidSumError(f"{found} told their shares of client {client}'s secrets, {needed} have to")
        return needed

    def _check_number(self, clients: Collection[int], what: str) -> None:
        if len(clients) < self.blocks.min_holders:
            raise VoidSumError(
                f"{len(clients)} clients {what}, privacy.min_holders = {self.blocks.min_holders} have to"
            )


def _by_secret(answers: Iterable[Revealed]) -> Mapping[tuple[int, int], dict[int, bytes]]:
    """Return the shares by whose secret they are, of which block's mask or of the ``PAIRS``, and by point."""
    shares: Mapping[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
    for answer in answers:
        told = [((s.client, s.block), s.share) for s in answer.own_masks]
        for secret, share in [*told, *(((s.client, PAIRS), s.share) for s in answer.masking)]:
            shares[secret][point_of(answer.client)] = bytes.fromhex(share)
    return shares


def usable(keys: PublicKeys) -> bool:
    """Return whether others can agree with the owner of these keys; some points of the curve spoil that."""
    try:
        for key in (keys.masking, keys.sealing):
            agreed(bytes(range(32)), bytes.fromhex(key), PAIR)
    except BadSecretError:
        return False
    return True


def complete(deposit: Deposit, client: int, invitation: Invitation) -> bool:
    """Return whether a deposit is a client's own, and has shares for each of its neighbours."""
    made = [(shares.sender, shares.receiver) for shares in deposit.sealed]
    return deposit.client == client and made == [(client, keys.client) for keys in invitation.keys]
