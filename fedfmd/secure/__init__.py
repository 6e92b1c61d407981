"""Secure sums: the server learns the sum of a round's updates, and no client's own.

An exact sum is one of integers below 2**53. As int64 they live in Z_2^64, where masks cancel exactly, so that
the secure sum has the bits of the plain one. Clients share masks pairwise; each adds one of its own; shares
of both let the survivors of a round take off what does not cancel.
"""

from fedfmd.secure.blocks import FIGURES, Block, Blocks, blocks_of
from fedfmd.secure.keys import BadSecretError, Secrets
from fedfmd.secure.member import SumMember
from fedfmd.secure.messages import Deposit, Invitation, PublicKeys, Question, Revealed, SealedShares, Seat
from fedfmd.secure.session import Session, VoidSumError

__all__ = [
    "FIGURES",
    "BadSecretError",
    "Block",
    "Blocks",
    "Deposit",
    "Invitation",
    "PublicKeys",
    "Question",
    "Revealed",
    "SealedShares",
    "Seat",
    "Secrets",
    "Session",
    "SumMember",
    "VoidSumError",
    "blocks_of",
]
