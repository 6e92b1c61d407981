"""The accountant against closed forms, published values, and an integral of its own."""

import math
import sys
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from scipy.integrate import quad

from fedfmd.errors import UserError
from fedfmd.privacy.accountant import (
    ORDERS,
    Releases,
    default_delta,
    epsilon,
    noise_for,
    rounds_within,
)
from fedfmd.privacy.discrete_gaussian import DiscreteGaussian

DELTA = 1e-5
POISSON = Releases(1.0, 100, 10_000, "add-or-remove-one", 100)


@pytest.mark.parametrize("rounds", [1, 10, 300])
@pytest.mark.parametrize("noise", [5.0, 10.0, 30.0])
def test_without_sampling_it_is_zcdp(noise: float, rounds: int) -> None:
    """rho = rounds / (2 z^2): below Bun and Steinke's rho + 2 sqrt(rho ln 1/delta), above the exact value."""
    everybody = Releases(noise, 50, 50, "add-or-remove-one", rounds)
    rho = rounds / (2 * noise**2)
    found = epsilon([everybody], DELTA)
    exact = dp_accounting.get_epsilon_gaussian(noise / math.sqrt(rounds), DELTA)
    assert exact <= found <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA))


def test_replacing_one_moves_a_sum_twice_as_far() -> None:
    added = epsilon([Releases(2.0, 50, 50, "add-or-remove-one", 7)], DELTA)
    replaced = epsilon([Releases(4.0, 50, 50, "replace-one", 7)], DELTA)
    assert added == pytest.approx(replaced, rel=1e-12)


@pytest.mark.parametrize(
    ("noise", "batch", "epochs", "published"),
    [(1.3, 256, 15, 1.19), (1.1, 256, 60, 3.01), (0.7, 256, 45, 7.10)],
)
def test_published_values_of_sampled_noise(noise: float, batch: int, epochs: int, published: float) -> None:
    """TensorFlow Privacy's table for MNIST, 60,000 samples at 1e-5, by the conversion of Mironov 2017.

    The conversion of Canonne et al. 2020 gives less for the same Renyi divergences.
    """
    steps = epochs * 60_000 // batch
    found = epsilon([Releases(noise, batch, 60_000, "add-or-remove-one", steps)], DELTA)
    assert 0.75 * published < found < published
    by_mironov = min(
        steps * divergence(noise, batch / 60_000, order) + math.log(1 / DELTA) / (order - 1)
        for order in range(2, 20)
    )
    assert by_mironov == pytest.approx(published, rel=0.02)


def divergence(noise: float, rate: float, order: int) -> float:
    """Return the Renyi divergence of (1-q) N(0, z^2) + q N(1, z^2) from N(0, z^2) at a whole order."""
    terms = (
        math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp(k * (k - 1) / (2 * noise**2))
        for k in range(order + 1)
    )
    return math.log(math.fsum(terms)) / (order - 1)


@pytest.mark.parametrize("order", [2, 5, 12])
def test_the_moments_of_discrete_noise_are_those_of_the_accountant(order: int) -> None:
    """E_q[(p/q)^a] for p = q moved by one whole clip, of sigma = 6 quanta and a clip of 4, subsampled."""
    sigma, clip, rate = 6, 4, 0.1
    values = np.arange(-400, 401)
    base = np.exp(-(values**2) / (2 * sigma**2))
    moved = np.exp(-((values - clip) ** 2) / (2 * sigma**2))
    ratio = np.where(base > 0, (1 - rate) + rate * np.divide(moved, base, where=base > 0, out=base * 0), 0.0)
    found = math.log((base / base.sum() * ratio**order).sum()) / (order - 1)
    assert found == pytest.approx(divergence(sigma / clip, rate, order), rel=1e-9)
    continuous = quad(
        lambda x: (
            math.exp(-(x**2) / 2)
            / math.sqrt(2 * math.pi)
            * (1 - rate + rate * math.exp((2 * x * clip / sigma - (clip / sigma) ** 2) / 2)) ** order
        ),
        -30,
        30 + order,
        limit=500,
    )[0]
    assert found == pytest.approx(math.log(continuous) / (order - 1), rel=1e-6)


def test_orders_are_whole() -> None:
    assert all(isinstance(order, int) and order >= 2 for order in ORDERS)
    assert DiscreteGaussian(1 << 20).step == 1 << 16


def test_a_target_is_met_by_the_least_noise() -> None:
    for relation in ("replace-one", "add-or-remove-one"):
        asked = Releases(0.0, 20, 1000, relation, 50)  # type: ignore[arg-type]
        noise = noise_for(3.0, DELTA, asked)
        assert epsilon([replace(asked, noise_multiplier=noise)], DELTA) <= 3.0
        assert epsilon([replace(asked, noise_multiplier=noise - 0.001)], DELTA) > 3.0
    with pytest.raises(UserError, match=r"privacy\.epsilon = 1e-06: no noise"):
        noise_for(1e-6, 1e-9, Releases(0.0, 10, 10, "replace-one", 10_000))


def test_rounds_within_a_budget_are_the_most_that_fit() -> None:
    one, before = replace(POISSON, rounds=1), [replace(POISSON, noise_multiplier=2.0)]
    rounds = rounds_within(2.0, DELTA, before, one)
    assert rounds > 1
    assert epsilon([*before, replace(one, rounds=rounds)], DELTA) <= 2.0
    assert epsilon([*before, replace(one, rounds=rounds + 1)], DELTA) > 2.0
    assert rounds_within(0.01, DELTA, before, one) == 0


def test_rounds_add_up_whatever_their_order() -> None:
    other = replace(POISSON, noise_multiplier=3.0, rounds=5)
    assert epsilon([POISSON, other], DELTA) == pytest.approx(epsilon([other, POISSON], DELTA))
    halves = [replace(POISSON, rounds=40), replace(POISSON, rounds=60)]
    assert epsilon(halves, DELTA) == pytest.approx(epsilon([POISSON], DELTA))
    assert epsilon([], DELTA) == 0
    assert epsilon([replace(POISSON, noise_multiplier=0.0)], DELTA) == math.inf


def test_delta_is_below_one_client() -> None:
    assert default_delta(1000) < 1 / 1000


def test_without_the_accountant_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match=r"pip install 'fedfmd\[privacy\]'"):
        epsilon([replace(POISSON, rounds=12345)], DELTA)
