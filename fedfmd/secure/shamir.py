"""Shamir's secret sharing (1979) of 32-byte secrets: any ``threshold`` shares give the secret, fewer nothing.

A share is the value of a random polynomial over the integers modulo ``PRIME`` at its holder's point; the
secret is its value at 0. ``PRIME`` is the smallest prime above 2**256, so that a key is one secret as it is;
the common libraries split 16 bytes at a time. Python's integers do not compute in constant time: this
protects from who reads messages, not from who measures the computer that makes them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, points: Sequence[int], coefficients: Sequence[int]) -> dict[int, bytes]:
    """Return the shares of a secret by their points, which are from 1 on and all different.

    ``coefficients`` are random numbers below ``PRIME``, one fewer than the shares that give the secret.
    """
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    return {point: _value(polynomial, point).to_bytes(SHARE_BYTES, "big") for point in points}


def join(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret, from as many shares as it takes, by their points.

    Shares that do not belong together give another secret, or raise ``ValueError`` where that is none.
    """
    weights = _weights(tuple(shares))
    values = (int.from_bytes(share, "big") for share in shares.values())
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True))
    try:
        return (secret % PRIME).to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise ValueError("the shares do not belong together") from None


def _value(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=256)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return what the value at each point counts for that at 0 (Lagrange's interpolation, modulo ``PRIME``).

    Inverses take most of the time of a sum, and where all share with all, its secrets have the same points.
    """
    return tuple(_weight(point, [other for other in points if other != point]) for point in points)


def _weight(point: int, others: Sequence[int]) -> int:
    return prod(others) * pow(prod(other - point for other in others), -1, PRIME) % PRIME
