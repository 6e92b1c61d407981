"""What a real client keeps of a secure sum between the stages: one file, which nobody else may read.

Each stage reaches another process, so keys and shares lie in the client's state folder, mode 0600, from the
first stage to the last; then the file is deleted. A client that dropped out deletes it when it is asked for
the keys of another round. Keys are made anew whenever they are asked for, mask one update, and answer one
question: a server that asks twice gets nothing that two rounds together would tell.
"""

import hashlib
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from fedfmd.deployment.assignment import RefusedOrderError
from fedfmd.files import write_guarded
from fedfmd.records.schema import Count, Record, SchemaError, Text, dump
from fedfmd.secure import Invitation, SealedShares, Secrets, SumMember
from fedfmd.secure.graph import needed_shares
from fedfmd.secure.messages import Key
from fedfmd.wire.packages import WorkOrder

VAULT_FILE = "secure-round.json"


@dataclass(frozen=True, kw_only=True)
class Kept(Record):
    """A client's side of one round, between two stages."""

    client: Count
    round: Count
    attempt: Count
    root: Key
    """What all of its secrets follow from, in hexadecimal."""
    invitation: Invitation | None = None
    sealed: tuple[SealedShares, ...] = ()
    masked: Text = ""
    """Digest of the order whose update it has masked; empty before."""

    @property
    def secrets(self) -> Secrets:
        """The secrets of the round."""
        return Secrets(bytes.fromhex(self.root))

    def member(self, threshold: float) -> SumMember:
        """Return the client's side of the protocol."""
        held = {shares.sender: shares for shares in self.sealed}
        return SumMember(self.client, self.secrets, threshold, held)

    @property
    def invited(self) -> Invitation:
        """Who takes part; raises ``RefusedOrderError`` where nobody has said so."""
        if self.invitation is None:
            raise RefusedOrderError("a secure sum goes on that this client was not invited to")
        return self.invitation


@dataclass(frozen=True)
class Vault:
    """The file of a client's round."""

    folder: Path
    client: int

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / VAULT_FILE

    def begin(self, round: int, attempt: int) -> Kept:
        """Make new secrets for a round; those of another are gone."""
        kept = Kept(client=self.client, round=round, attempt=attempt, root=secrets.token_hex(32))
        self.keep(kept)
        return kept

    def of(self, round: int, attempt: int) -> Kept:
        """Return what is kept of a round; raises ``RefusedOrderError`` where that is nothing."""
        try:
            kept = Kept.read(self.path.read_bytes())
        except (OSError, SchemaError):
            kept = None
        if kept is None or (kept.client, kept.round, kept.attempt) != (self.client, round, attempt):
            raise RefusedOrderError(f"this client has no keys for round {round}, attempt {attempt}")
        return kept

    def keep(self, kept: Kept) -> None:
        """Write what the next stage needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_guarded(self.path, dump(asdict(kept)).encode(), 0o600)

    def forget(self) -> None:
        """Delete keys and shares."""
        self.path.unlink(missing_ok=True)

    def mask(self, order: WorkOrder, vector: Tensor, threshold: float) -> Kept:
        """Return what is kept of an order's round, with the shares that the order brings.

        Raises ``RefusedOrderError`` for another secure sum than the client was invited to, with so few of its
        neighbours that their masks would come off, and for any but the first update that these keys are to
        mask: two under the same masks would tell their difference. The same order again has the same update.
        """
        assert order.secure is not None
        kept, digest = self.of(order.round, order.attempt), _digest(order, vector)
        invited, partners = kept.invited, set(order.secure.keys)
        if order.secure.seats != invited.seats or not partners <= set(invited.keys):
            raise RefusedOrderError("the order's secure sum is not the one that this client was invited to")
        if len(partners) + 1 < needed_shares(len(invited.keys), threshold):
            raise RefusedOrderError("too few of this client's neighbours take part in the secure sum")
        if kept.masked not in ("", digest):
            raise RefusedOrderError("this client's keys have masked another update already")
        kept = replace(kept, sealed=order.secure.sealed, masked=digest)
        self.keep(kept)
        return kept


def _digest(order: WorkOrder, vector: Tensor) -> str:
    document = dump(asdict(replace(order, resend=0)), sort_keys=True)
    return hashlib.sha256(document.encode() + vector.numpy().tobytes()).hexdigest()
