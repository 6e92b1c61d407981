"""The client's side of a secure sum (Bonawitz et al. 2017, "Practical Secure Aggregation", figure 4).

A masked block is update + own mask + masks with each neighbour that holds the block, one of a pair added and
the other taken off. The neighbours hold shares of the keys of a client's own masks, and of the key that its
pairs stand on: of one that survives they tell the first, of one that has dropped out the second.

Deviations: each block of the model has a mask of its own with shares of its own, so that a block which too
few survivors hold stays masked; a client holds a share of its own secrets, too.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from fedfmd.secure.blocks import Blocks
from fedfmd.secure.graph import needed_shares
from fedfmd.secure.keys import BadSecretError, Secrets, agreed, public_key, sealed, unsealed
from fedfmd.secure.messages import (
    Deposit,
    Invitation,
    MaskingShare,
    OwnMaskShare,
    PublicKeys,
    Question,
    Revealed,
    SealedShares,
)
from fedfmd.secure.shamir import SHARE_BYTES, split
from fedfmd.secure.stream import add_mask

PAIR = "pair of masks"


@dataclass
class SumMember:
    """One client in one round."""

    client: int
    secrets: Secrets
    threshold: float
    held: dict[int, SealedShares] = field(default_factory=dict)
    """Shares of the neighbours' secrets, by neighbour."""
    answered: Question | None = None
    """What it has told shares for: it tells them once."""

    def keys(self) -> PublicKeys:
        """Return what the others need to share masks with this client."""
        return PublicKeys(
            client=self.client,
            masking=public_key(self.secrets.masking).hex(),
            sealing=public_key(self.secrets.sealing).hex(),
        )

    def deposit(self, invitation: Invitation, blocks: Blocks) -> Deposit:
        """Return shares of this client's secrets for its neighbours, sealed.

        Raises ``BadSecretError`` where too few take part for a sum to hide anybody.
        """
        if len(blocks.seats) < blocks.min_holders or self.client not in blocks.seats:
            raise BadSecretError(f"{len(blocks.seats)} clients take part, {blocks.min_holders} have to")
        shares = self._shares([keys.client for keys in invitation.keys], blocks)
        texts = tuple(
            SealedShares(
                sender=self.client,
                receiver=other.client,
                text=sealed(self._seal(other, self.client, other.client), shares[other.client]).hex(),
            )
            for other in invitation.keys
        )
        return Deposit(client=self.client, sealed=texts)

    def mask(self, words: Mapping[int, Tensor], partners: Collection[PublicKeys], blocks: Blocks) -> None:
        """Mask ``words``, of each block that this client sends int64 (words,), in place.

        ``partners`` are those of the neighbours that have deposited their shares.
        """
        pairs = {
            other.client: agreed(self.secrets.masking, bytes.fromhex(other.masking), PAIR)
            for other in partners
        }
        for block, piece in words.items():
            add_mask(piece, self.secrets.own_mask(block), block)
            for other, key in pairs.items():
                if blocks.holds(other, block):
                    add_mask(piece, key, block, sign_of(self.client, other))

    def reveal(self, question: Question, invitation: Invitation, blocks: Blocks) -> Revealed:
        """Return the shares that take the masks off the sum over the survivors, and no others.

        Raises ``BadSecretError`` for survivors that no sum is to be told of: too few, without this client, or
        others than it was asked about before.
        """
        survivors = set(question.survivors)
        if self.answered not in (None, question):
            raise BadSecretError("has told its shares for other survivors")
        if self.client not in survivors or len(survivors) < blocks.min_holders:
            raise BadSecretError(f"tells no shares for {len(survivors)} survivors")
        self.answered = question
        keys = {other.client: other for other in invitation.keys}
        texts = dict(self._opened(keys, blocks))
        texts[self.client] = self._shares(list(keys), blocks)[self.client]
        own_masks: list[OwnMaskShare] = []
        masking: list[MaskingShare] = []
        visible = set(blocks.visible(survivors))
        for sender, text in sorted(texts.items()):
            pairs, *own = (text[at : at + SHARE_BYTES].hex() for at in range(0, len(text), SHARE_BYTES))
            if sender not in survivors:
                masking.append(MaskingShare(client=sender, share=pairs))
                continue
            own_masks += [
                OwnMaskShare(client=sender, block=block, share=share)
                for block, share in zip(blocks.held_by(sender), own, strict=True)
                if block in visible
            ]
        return Revealed(client=self.client, own_masks=tuple(own_masks), masking=tuple(masking))

    def _opened(self, keys: Mapping[int, PublicKeys], blocks: Blocks) -> Iterator[tuple[int, bytes]]:
        """Yield the shares of each neighbour whose sealed text is sound; of the others nothing is known."""
        for sender, shares in self.held.items():
            with suppress(BadSecretError, KeyError):
                text = unsealed(self._seal(keys[sender], sender, self.client), bytes.fromhex(shares.text))
                if len(text) == SHARE_BYTES * (1 + len(blocks.held_by(sender))):
                    yield sender, text

    def _shares(self, neighbours: Sequence[int], blocks: Blocks) -> dict[int, bytes]:
        """Return by holder the shares of the key of the pairs, and then of each block's own mask."""
        holders = [self.client, *neighbours]
        points = [point_of(holder) for holder in holders]
        degree = needed_shares(len(neighbours), self.threshold) - 1
        own = {f"own mask {block}": self.secrets.own_mask(block) for block in blocks.held_by(self.client)}
        shared = [
            split(secret, points, self.secrets.coefficients(name, degree))
            for name, secret in [("masking", self.secrets.masking), *own.items()]
        ]
        return {holder: b"".join(one[point_of(holder)] for one in shared) for holder in holders}

    def _seal(self, other: PublicKeys, sender: int, receiver: int) -> bytes:
        """Return the key that seals what one of the two sends the other."""
        return agreed(
            self.secrets.sealing, bytes.fromhex(other.sealing), f"shares from {sender} to {receiver}"
        )


def sign_of(client: int, other: int) -> int:
    """Return whether a client adds the mask that it shares with another, or takes it off."""
    return 1 if client < other else -1


def point_of(client: int) -> int:
    """Return where the polynomials are evaluated for a holder."""
    return client + 1
