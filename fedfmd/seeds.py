"""Randomness as a pure function of (seed, stream, ids): no schedule of the work can change a draw.

The idea is fedjax's: whoever needs random numbers for client 7 in round 3 derives the generator from
these two numbers, instead of taking the next number of a generator that somebody else also uses.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, stream: str, *ids: int) -> int:
    """Hash ``(seed, stream, ids)`` to an integer in [0, 2**63), the same on every machine."""
    text = ":".join([str(seed), stream, *map(str, ids)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, stream: str, *ids: int) -> "torch.Generator":
    """Return the torch generator of one stream, for example ``generator(0, "augment", round, client)``."""
    import torch  # pages and tables draw by NumPy alone, and do not wait for it

    return torch.Generator().manual_seed(derive(seed, stream, *ids))


def numpy_rng(seed: int, stream: str, *ids: int) -> np.random.Generator:
    """Return the numpy generator of one stream."""
    return np.random.default_rng(derive(seed, stream, *ids))


@contextmanager
def repeated_draws(generator: "torch.Generator") -> Iterator[None]:
    """Let what draws from PyTorch's own generator on the CPU, as dropout, draw the same again inside.

    What it draws follows from the seed of ``generator``, from which nothing is drawn. Afterwards PyTorch's
    own is where it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(generator.initial_seed(), "network"))
        yield
