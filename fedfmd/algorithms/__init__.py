"""Algorithms of federated learning, one file each, over the contract of ``fedfmd.algorithms.base``."""

from fedfmd.algorithms.base import (
    Algorithm,
    ClientSide,
    Collected,
    Finished,
    Forward,
    PartSource,
    Trained,
    Visit,
    taken,
)
from fedfmd.algorithms.checks import check_algorithms
from fedfmd.algorithms.composition import Algorithms, ClientSides
from fedfmd.config.values import Section

__all__ = [
    "Algorithm",
    "Algorithms",
    "ClientSide",
    "ClientSides",
    "Collected",
    "Finished",
    "Forward",
    "PartSource",
    "Section",
    "Trained",
    "Visit",
    "check_algorithms",
    "taken",
]
