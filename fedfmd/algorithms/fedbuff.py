"""FedBuff (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation").

An update that is s versions old weighs 1 / sqrt(1 + s). Weights are normalised, where the paper divides by
the buffer's size, so that stale buffers do not shorten the server's step. Who is at work when is the
simulated clock's (``fedfmd.rounds.asynchronous``). Switched on by ``server.mode = "buffered"``.
"""

import math

from fedfmd.algorithms.base import Algorithm
from fedfmd.config.experiment import ExperimentConfig

STALENESS_UNIT = 1 << 56
"""Weights are integers: the float64 values of 1/sqrt(1 + staleness) are whole multiples of 1 over this up
to a staleness of 255, and to within their own resolution beyond."""


class FedBuff(Algorithm):
    """Let stale updates weigh less."""

    name = "fedbuff"
    switch = 'server.mode = "buffered"'

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether updates may be stale."""
        return config.server.mode == "buffered"

    def weight(self, weight: int, staleness: int) -> int:
        """Multiply by 1/sqrt(1 + ``staleness``), a float64, in units of 2**-56."""
        return weight * round(STALENESS_UNIT * (1 / math.sqrt(1 + staleness)))
