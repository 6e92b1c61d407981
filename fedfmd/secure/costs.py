"""What a secure sum takes from a client, by stage: bytes on the wire and work, by formulas.

The work is counted as if in multiply-accumulates, two operations on 32-bit words each, so that budgets and
devices need no second unit:

- a word of a mask is 1/8 of a block of ChaCha20: 20 rounds of 4 quarter rounds of 12 operations, and 16
  additions, 122 in all, and it is added: 62 MACs;
- a key agreement is 255 steps of the Montgomery ladder with 10 products of 5 x 5 limbs each (RFC 7748), and
  an inversion of 254 squarings: 70,100 MACs;
- a share is one product of 4 x 4 limbs, twice for the remainder, by coefficient: 32 MACs.
"""

from dataclasses import dataclass

from fedfmd.secure.graph import needed_shares
from fedfmd.secure.keys import KEY_BYTES, TAG_BYTES
from fedfmd.secure.messages import NUMBER_BYTES
from fedfmd.secure.shamir import SHARE_BYTES

WORD_MACS = 62
AGREEMENT_MACS = 255 * 10 * 25 + 254 * 25
COEFFICIENT_MACS = 32


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage takes from one client."""

    downlink_bytes: int = 0
    uplink_bytes: int = 0
    macs: int = 0

    def __add__(self, other: "StageCost") -> "StageCost":
        """Add field by field."""
        return StageCost(
            downlink_bytes=self.downlink_bytes + other.downlink_bytes,
            uplink_bytes=self.uplink_bytes + other.uplink_bytes,
            macs=self.macs + other.macs,
        )


def keys_cost(neighbours: int, seats_bytes: int) -> StageCost:
    """Return the cost of telling two keys, and of being told who takes part and the neighbours' keys."""
    return StageCost(
        downlink_bytes=neighbours * 2 * KEY_BYTES + seats_bytes,
        uplink_bytes=2 * KEY_BYTES,
        macs=2 * AGREEMENT_MACS,
    )


def shares_cost(neighbours: int, secrets: int, received_bytes: int, threshold: float) -> StageCost:
    """Return the cost of depositing shares of so many ``secrets``, and of receiving those of others."""
    work = secrets * (neighbours + 1) * needed_shares(neighbours, threshold) * COEFFICIENT_MACS
    return StageCost(
        downlink_bytes=received_bytes,
        uplink_bytes=neighbours * sealed_bytes(secrets),
        macs=neighbours * AGREEMENT_MACS + work,
    )


def sealed_bytes(secrets: int) -> int:
    """Return the size of the shares of so many secrets, sealed for one neighbour."""
    return secrets * SHARE_BYTES + TAG_BYTES + NUMBER_BYTES


def masks_cost(partners: int, words: int) -> StageCost:
    """Return the cost of masking, of whose masks so many ``words`` are; the update is billed elsewhere."""
    return StageCost(macs=partners * AGREEMENT_MACS + words * WORD_MACS)


def recovery_cost(survivors: int, opened: int, own_masks: int, pairs: int) -> StageCost:
    """Return the cost of telling shares, so many of each kind, out of the sealed ones that are ``opened``."""
    return StageCost(
        downlink_bytes=survivors * NUMBER_BYTES,
        uplink_bytes=own_masks * (SHARE_BYTES + 2 * NUMBER_BYTES) + pairs * (SHARE_BYTES + NUMBER_BYTES),
        macs=opened * AGREEMENT_MACS,
    )
