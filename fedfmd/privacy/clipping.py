"""Integers for private sums: which grid a round's updates lie on, and how an update comes within its clip.

With 2^k the power of two above the clip, the quantum is 2^(k-20): the clip is 2^19 to 2^20 quanta, so that
rounding 45 million elements takes up less than a hundredth of it, and noise of a thousand clips still fits
the sampler. All of it follows from the clip alone: nothing tells how many clients there were, or how much
they had.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fedfmd.aggregation import CHUNK, Scale
from fedfmd.aggregation.exact_sum import MANTISSA_BITS

CLIP_BITS = 20
FLOAT32_SLACK = 1 - 2.0**-20
"""More than scaling a float32 vector can add to its norm, relative to 1."""


@dataclass(frozen=True)
class Clip:
    """A bound on the L2 norm of an update, and the grid that belongs to it."""

    norm: float

    @property
    def unit(self) -> float:
        """The power of two above the clip: what a client's count of one is in the sum."""
        return math.ldexp(1.0, self._exponent)

    @property
    def quantum(self) -> float:
        """What elements are rounded to multiples of."""
        return math.ldexp(1.0, self._exponent - CLIP_BITS)

    @property
    def _exponent(self) -> int:
        return math.frexp(self.norm)[1]

    @property
    def quanta(self) -> int:
        """The clip in quanta: no client's integers have a larger L2 norm."""
        return math.floor(self.norm / self.quantum)

    @property
    def scale(self) -> Scale:
        """The scale of a sum in which every client weighs 1."""
        return Scale(self._exponent - CLIP_BITS + MANTISSA_BITS, 0)

    def apply(self, update: Tensor) -> bool:
        """Scale ``update``, float32 (elements,), in place to within the clip; returns whether it was.

        It leaves room for rounding: whatever is within half a quantum, an element, is within the clip, too.
        """
        norm = l2_norm(update)
        room = (self.quanta - math.sqrt(len(update)) / 2) * self.quantum * FLOAT32_SLACK
        if norm <= room:
            return False
        update.mul_(room / norm)  # NaN and infinity stay what the sum refuses
        return True


def l2_norm(vector: Tensor) -> float:
    """Return the L2 norm of a float32 vector, summed in float64."""
    squares = sum((float(piece.double().square().sum()) for piece in vector.split(CHUNK)), 0.0)
    return math.sqrt(squares)


def next_log_clip(log_clip: Tensor, within: float, quantile: float, rate: float) -> Tensor:
    """Return the log of the next clip, a scalar, where a share ``within`` of the updates was inside this.

    Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping": C <- C exp(-rate (within -
    quantile)).
    """
    return log_clip - rate * (within - quantile)


def noise_beside_count(noise_multiplier: float, count_noise: float) -> float:
    """Return the noise multiplier of updates that, beside a noised count, is worth ``noise_multiplier``.

    Andrew et al. 2021, theorem 1: z_update = (z^-2 - (2 sigma_count)^-2)^(-1/2); ``count_noise`` is the
    standard deviation of the noise on the count of clients, above ``noise_multiplier`` / 2.
    """
    return math.sqrt(1 / (noise_multiplier**-2 - (2 * count_noise) ** -2))
