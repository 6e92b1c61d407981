"""What crosses between the server and a client in a secure sum, beside the masked update itself.

Four stages: clients tell their public keys; they deposit shares of their secrets with their neighbours,
sealed so that the server carries what it cannot read; they send their masked updates; and those that are
still there tell the shares that take the masks off. What of it is billed says ``fedfmd.secure.costs``: keys,
shares and numbers, without the text around them.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

from fedfmd.records.schema import Count, Measured, Record, Text
from fedfmd.secure.keys import KEY_BYTES
from fedfmd.secure.shamir import SHARE_BYTES

NUMBER_BYTES = 4
"""Of a client's number, or a block's."""
Key = Annotated[str, StringConstraints(pattern=f"^[0-9a-f]{{{2 * KEY_BYTES}}}$")]
ShareText = Annotated[str, StringConstraints(pattern=f"^[0-9a-f]{{{2 * SHARE_BYTES}}}$")]
SealedText = Annotated[str, StringConstraints(pattern="^([0-9a-f]{2})*$", max_length=1 << 18)]


@dataclass(frozen=True, kw_only=True)
class PublicKeys(Record):
    """A client's keys of one round, in hexadecimal."""

    client: Count
    masking: Key
    sealing: Key


@dataclass(frozen=True, kw_only=True)
class Seat(Record):
    """A client that takes part, and the name of the part of the model that it holds."""

    client: Count
    part: Text


@dataclass(frozen=True, kw_only=True)
class Invitation(Record):
    """Who takes part, and the keys of one client's neighbours."""

    seats: tuple[Seat, ...]
    keys: tuple[PublicKeys, ...]


@dataclass(frozen=True, kw_only=True)
class SealedShares(Record):
    """Shares of one client's secrets, for another alone, in hexadecimal."""

    sender: Count
    receiver: Count
    text: SealedText


@dataclass(frozen=True, kw_only=True)
class Deposit(Record):
    """One client's shares for each of its neighbours."""

    client: Count
    sealed: tuple[SealedShares, ...]


@dataclass(frozen=True, kw_only=True)
class Question(Record):
    """Whose masked update has arrived; of whom else a client holds shares has dropped out."""

    survivors: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class OwnMaskShare(Record):
    """A share of the key of a survivor's own mask of one block."""

    client: Count
    block: Count
    share: ShareText


@dataclass(frozen=True, kw_only=True)
class MaskingShare(Record):
    """A share of the key that a client which dropped out has made its pairs of masks with."""

    client: Count
    share: ShareText


@dataclass(frozen=True, kw_only=True)
class Revealed(Record):
    """What one client tells of the shares that it holds: of each client one kind, never both."""

    client: Count
    own_masks: tuple[OwnMaskShare, ...]
    masking: tuple[MaskingShare, ...]


@dataclass(frozen=True, kw_only=True)
class Ask(Record):
    """A stage of a secure sum, asked of one real client: its keys, its shares, or what it holds of others."""

    round: Count
    attempt: Count
    invitation: Invitation | None = None
    """To deposit shares."""
    question: Question | None = None
    """To tell shares."""


@dataclass(frozen=True, kw_only=True)
class Told(Record):
    """A real client's answer to a stage: one of the three."""

    keys: PublicKeys | None = None
    deposit: Deposit | None = None
    revealed: Revealed | None = None
    seconds: Measured
    """What it took the client."""
