"""Canaries in the private sum: what an attacker measures is below what is stated, without noise above."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from fedfmd.aggregation import ExactSum
from fedfmd.algorithms.dp_fedavg import Clipped, DPFedAvg
from fedfmd.config.experiment import parse_config
from fedfmd.privacy.accountant import Releases, epsilon
from fedfmd.privacy.audit import Audit, guess
from fedfmd.privacy.discrete_gaussian import seeded_words

CANARIES, ELEMENTS, DELTA, NOISE = 500, 5000, 1e-5, 1.5


def scores(noise: float, there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Release one round of canaries, each far beyond the clip in a direction of its own; look along each."""
    document = {
        "partition": {"clients": CANARIES},
        "server": {"cohort": CANARIES, "weighting": "uniform"},
        "selection": {"kind": "poisson"},
        "privacy": {"dp": "central", "noise_multiplier": noise, "delta": DELTA},
    }
    algorithm = DPFedAvg(parse_config(document))
    rng = np.random.default_rng(7)
    directions = rng.normal(size=(CANARIES, ELEMENTS)) / math.sqrt(ELEMENTS)
    extra = torch.zeros(1)
    total = ExactSum.zero(ELEMENTS + 1, algorithm.clip(extra).scale)
    for direction in directions[there]:
        done = Clipped(algorithm.clip(extra)).finish(torch.tensor(100 * direction, dtype=torch.float32), 1)
        assert done.extra is not None
        total.add(torch.cat([done.update, done.extra]), 1)
    released = algorithm.released(total, extra, seeded_words(rng))
    found: NDArray[np.float64] = directions @ released.mean()[:-1].numpy()
    return found


def test_the_measured_epsilon_is_below_the_stated_one_and_above_it_without_noise() -> None:
    there = np.random.default_rng(3).random(CANARIES) < 0.5
    stated = epsilon([Releases(NOISE, CANARIES, CANARIES, "add-or-remove-one")], DELTA)
    noised = guess(scores(NOISE, there), there, CANARIES // 2).epsilon(DELTA)
    bare = guess(scores(0.0, there), there, CANARIES // 2).epsilon(DELTA)
    assert 0.5 < noised < stated < bare


@pytest.mark.parametrize("right", [100, 90, 70])
def test_the_bound_without_delta_is_clopper_and_pearsons(right: int) -> None:
    """Where delta is 0, the least accuracy that explains the right guesses is that of randomised response."""
    accuracy = beta.ppf(0.05, right, 100 - right + 1)
    assert Audit(100, 100, right).epsilon(0.0) == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-4)
    assert Audit(100, 100, 50).epsilon(0.0) == 0.0


def test_randomised_response_is_rarely_disproved() -> None:
    """Of epsilon 1: one in twenty audits of 95% may say more."""
    rng, accuracy = np.random.default_rng(0), math.e / (1 + math.e)
    bounds = [Audit(200, 200, int(rng.binomial(200, accuracy))).epsilon(0.0) for _ in range(40)]
    assert np.mean(np.array(bounds) > 1.0) <= 0.1
    assert max(bounds) > 0.8
