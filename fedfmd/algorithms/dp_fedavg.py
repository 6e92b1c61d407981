"""DP-FedAvg (McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models").

Each client's update is clipped to an L2 norm, all weigh the same, and the server adds noise to their sum
before anything is made of it, and divides by the number of clients that it planned, not by that of those who
answered. What the noise promises, and of whom, is in ``fedfmd.privacy``. Switched on by
``privacy.dp = "central"``.

- The paper's noise is a continuous Gaussian on real numbers; here it is a discrete one on the integers of the
  exact sum, with the same accountant (``fedfmd.privacy.discrete_gaussian``).
- With ``privacy.clip_quantile`` the clip follows a quantile of the updates' norms (Andrew et al. 2021): each
  client also sends whether its norm was within the clip, as 1/2 or -1/2, and the sum of these gets noise of
  its own. What the server sends along is the logarithm of the present clip over ``privacy.clip``.
- A round counts whatever clients answer: repeating it would tell something of those who did not.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.vector import Layout
from fedfmd.privacy.accountant import Releases
from fedfmd.privacy.clipping import CLIP_BITS, Clip, next_log_clip, noise_beside_count
from fedfmd.privacy.discrete_gaussian import LARGEST_SIGMA, Words, add_noise
from fedfmd.privacy.promise import Promise
from fedfmd.records.schema import Json

RELEASES = "releases"
CLIP_BOUNDS = (1e-29, 1e29)
"""Within which a clip that follows the norms stays: what single precision, and a row, can hold."""


class DPFedAvg(Algorithm):
    """Clip on the clients, noise on the server."""

    name = "dp-fedavg"
    switch = 'privacy.dp = "central"'
    last = True
    needs_mean = True
    private = True

    def __init__(self, config: ExperimentConfig):
        super().__init__(config)
        self.row: Json = {}

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether the server is to add noise."""
        return config.privacy.dp == "central"

    def allows(self) -> Iterator[str]:
        """Check the terms: an accountant, a target that noise can reach, a budget for a round at least."""
        self.promise.check()
        if max(self._update_noise, self._count_noise) * (1 << CLIP_BITS) > LARGEST_SIGMA:
            asked = f"privacy.noise_multiplier = {self.promise.one.noise_multiplier:g}"
            yield f"{asked}: is more noise than can be drawn with privacy.clip_quantile; set less, or none"

    @cached_property
    def promise(self) -> Promise:
        """What the config promises."""
        return Promise.of(self.config)

    def extra_elements(self, layout: Layout) -> int:
        """Send the logarithm of the clip's growth down, and up whether an update was within it."""
        del layout
        return 1

    def clip(self, extra: Tensor) -> Clip:
        """Return a round's clip, from what the server sent along."""
        return Clip(self.config.privacy.clip * math.exp(float(extra)))

    def client(self, visit: Visit) -> ClientSide:
        """Clip this client's update."""
        return Clipped(self.clip(visit.extra))

    def scale(self, scale: Scale, extra: Tensor) -> Scale:
        """Return the scale that follows from the clip alone."""
        del scale
        return self.clip(extra).scale

    def released(self, total: ExactSum, extra: Tensor, words: Words) -> ExactSum:
        """Return the sum with noise, over the planned clients, and account for it."""
        clip, one = self.clip(extra), self.promise.one
        planned = self.config.server.cohort
        add_noise(total.quanta[:-1], math.ceil(self._update_noise * clip.quanta), words)
        add_noise(total.quanta[-1:], math.ceil(self._count_noise * clip.unit / clip.quantum), words)
        spent = [*self.spent, one]
        if len(spent) > 1 and replace(spent[-2], rounds=1) == one:
            spent[-2:] = [replace(one, rounds=spent[-2].rounds + 1)]
        self.state[RELEASES] = torch.tensor(
            [[s.noise_multiplier, s.cohort, s.population, s.rounds] for s in spent], dtype=torch.float64
        )
        return ExactSum(total.scale, total.quanta, {"": planned})

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        """Let the clip follow the norms, where that is asked for."""
        privacy, clip = self.config.privacy, self.clip(extra)
        within = float(mean_extra) / clip.unit + 0.5
        self.row = {
            "epsilon": self.promise.epsilon(self.spent),
            "delta": self.promise.delta,
            "privacy_relation": self.promise.one.relation,
            "clip": clip.norm,
            "noise_multiplier": self.promise.one.noise_multiplier,
            "clipped": self._clipped(within, len(collected.rows)),
        }
        if privacy.clip_quantile is None:
            return extra
        least, most = (math.log(bound) - math.log(privacy.clip) for bound in CLIP_BOUNDS)
        grown = next_log_clip(extra, within, privacy.clip_quantile, privacy.clip_rate)
        return grown.clamp(min(least, 0.0), max(most, 0.0))

    def figures(self) -> Json:
        """Return the last round's terms."""
        return self.row

    def rounds_left(self) -> int | None:
        """Return how many more rounds the budget allows."""
        return self.promise.rounds_left(self.spent)

    @property
    def spent(self) -> list[Releases]:
        """What has been released so far."""
        one = self.promise.one
        rows = self.state.get(RELEASES, torch.empty(0, 4)).tolist()
        return [Releases(z, int(m), int(n), one.relation, int(rounds)) for z, m, n, rounds in rows]

    @cached_property
    def _update_noise(self) -> float:
        noise = self.promise.one.noise_multiplier
        return noise_beside_count(noise, self._count_noise) if noise and self._count_noise else noise

    @cached_property
    def _count_noise(self) -> float:
        """Return the deviation of the noise on the count of clients; 0 where the clip is fixed."""
        noise = self.promise.one.noise_multiplier
        if self.config.privacy.clip_quantile is None or not noise:
            return 0.0
        return max(self.config.server.cohort / 20, 2 * noise)

    def _clipped(self, within: float, answered: int) -> float | None:
        """Return the share of updates that were clipped: of those that answered, or where noised, about."""
        if self._count_noise:
            share = 1.0 - within
        elif answered:
            share = 0.5 - (within - 0.5) * self.config.server.cohort / answered
        else:
            return None
        return min(1.0, max(0.0, share))  # noise, and rounding, reach beyond


class Clipped(ClientSide):
    """A client whose update is clipped, last of all that is done to it."""

    def __init__(self, clip: Clip):
        self.clip = clip

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Return the update within the clip, and whether it was before."""
        del steps
        count = -0.5 if self.clip.apply(update) else 0.5
        return Finished(update=update, extra=torch.tensor([count * self.clip.unit]))
