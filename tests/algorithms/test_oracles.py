"""Algorithms against their papers' equations, written in numpy on a linear model.

Sizes are unequal, work is partial, and not all take part. Each oracle has terms that can be left out; without
one it must disagree, or the test would not see the term.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from federation import (
    POPULATION,
    RATE,
    ROUNDS,
    SIZES,
    STEPS,
    Federation,
    arrays,
    gradient,
    initial,
    places,
)

ALPHA, MU, RHO = 0.3, 0.5, 0.6
HELD = {1: (0, 1, 2, 3, 4), 2: (3, 4, 5, 6), 3: (0, 8)}
"""Features of the clients that hold a part."""
ARRIVALS = ((1, 2), (0, 3), (2, 0), (0, 4), (3, 1))
"""Who arrives, and who starts then; 0 and 1 start first."""
Oracle = Callable[[str], np.ndarray]


def fedprox(without: str) -> np.ndarray:
    """Li et al. 2020, eq. 2: FedAvg of sizes, with mu (w - w_t) in every step's gradient."""
    weights = initial()
    for cohort in ROUNDS:
        ends = []
        for k in cohort:
            w = weights
            for _ in range(STEPS[k]):
                pull = 0 if without == "proximal" else MU * (w - weights)
                w = w - RATE * (gradient(w, k) + pull)
            ends.append(w)
        weights = np.average(ends, axis=0, weights=[SIZES[k] for k in cohort])
    return weights


def fednova(without: str) -> np.ndarray:
    """Wang et al. 2020, section 4, with momentum: directions by ||a_i||_1, the mean times tau_eff."""
    weights = initial()
    for cohort in ROUNDS:
        share = np.array([SIZES[k] for k in cohort]) / sum(SIZES[k] for k in cohort)
        moved, norms = [], []
        for k in cohort:
            w, velocity, weight_of_past, norm = weights, 0.0, 0.0, 0.0
            for _ in range(STEPS[k]):
                velocity = RHO * velocity + gradient(w, k)
                w = w - RATE * velocity
                weight_of_past = RHO * weight_of_past + 1
                norm += weight_of_past
            moved.append(w - weights)
            norms.append(1.0 if without == "normalisation" else norm)
        effective = 1.0 if without == "tau_eff" else share @ np.array(norms)
        weights = weights + effective * sum(p * d / n for p, d, n in zip(share, moved, norms, strict=True))
    return weights


def scaffold(without: str) -> np.ndarray:
    """Karimireddy et al. 2020, algorithm 1, option II; clients weigh the same."""
    weights, control = initial(), np.zeros(27)
    own = {k: np.zeros(27) for k in range(POPULATION)}
    for cohort in ROUNDS:
        moved, changed = [], []
        for k in cohort:
            w = weights
            for _ in range(STEPS[k]):
                correction = 0 if without == "correction" else control - own[k]
                w = w - RATE * (gradient(w, k) + correction)
            new = own[k] - control + (weights - w) / (STEPS[k] * RATE)
            changed.append(new - own[k])
            moved.append(w - weights)
            own[k] = new
        weights = weights + np.mean(moved, axis=0)
        share = 1 if without == "share" else len(cohort) / POPULATION
        control = control + share * np.mean(changed, axis=0)
    return weights


def scaffold_of_parts(without: str) -> np.ndarray:
    """The same where clients hold some features: whoever lacks an element changes no control of it."""
    weights, control = initial(), np.zeros(27)
    own = {k: np.zeros(27) for k in range(POPULATION)}
    for cohort in ROUNDS:
        moved, changed, holders = np.zeros(27), np.zeros(27), np.zeros(27)
        for k in cohort:
            features = HELD.get(k, range(9))
            at = places(features)
            w = weights[at]
            for _ in range(STEPS[k]):
                correction = 0 if without == "correction" else (control - own[k])[at]
                w = w - RATE * (gradient(w, k, features) + correction)
            new = own[k][at] - control[at] + (weights[at] - w) / (STEPS[k] * RATE)
            changed[at] += new - own[k][at]
            moved[at] += w - weights[at]
            holders[at] += 1
            own[k][at] = new
        weights = weights + moved / np.maximum(holders, 1)
        among = len(cohort) if without == "holders" else POPULATION
        control = control + changed / among
    return weights


def scaffold_of_niid_bench(without: str) -> np.ndarray:
    """Li et al. 2022: a step with momentum, then y -= lr (c - c_i); x and c by examples."""
    weights, control = initial(), np.zeros(27)
    own = {k: np.zeros(27) for k in range(POPULATION)}
    for cohort in ROUNDS:
        share = np.array([1 if without == "examples" else SIZES[k] for k in cohort], dtype=float)
        share /= share.sum()
        moved, changed = [], []
        for k in cohort:
            w, velocity = weights, np.zeros(27)
            for _ in range(STEPS[k]):
                velocity = RHO * velocity + gradient(w, k)
                w = w - RATE * velocity
                if without != "correction":
                    w = w - RATE * (control - own[k])
            new = own[k] - control + (weights - w) / (STEPS[k] * RATE)
            changed.append(new - own[k])
            moved.append(w - weights)
            own[k] = new
        weights = weights + share @ np.array(moved)
        control = control + len(cohort) / POPULATION * (share @ np.array(changed))
    return weights


def label_rows(without: str) -> np.ndarray:
    """Diao et al. 2021: an element's mean is over its holders; of a class's row over those with the label."""
    weights = initial()
    for cohort in ROUNDS:
        moved, holders = np.zeros(27), np.zeros(27)
        for k in cohort:
            features = HELD.get(k, range(9))
            at, w = places(features), weights[places(features)]
            for _ in range(STEPS[k]):
                w = w - RATE * gradient(w, k, features)
            present = np.repeat(arrays(k)[1].sum(0) > 0, len(features))
            if without == "label rows":
                present[:] = True
            moved[at] += SIZES[k] * present * (w - weights[at])
            holders[at] += SIZES[k] * present
        weights = weights + moved / np.maximum(holders, 1)
    return weights


def feddyn(without: str) -> np.ndarray:
    """Acar et al. 2021, algorithm 1; ``own`` is the paper's gradient of L_k where client k ended last."""
    weights, drift = initial(), np.zeros(27)
    own = {k: np.zeros(27) for k in range(POPULATION)}
    for cohort in ROUNDS:
        ends = []
        for k in cohort:
            w = weights
            for _ in range(STEPS[k]):
                linear = 0 if without == "linear" else own[k]
                pull = 0 if without == "proximal" else ALPHA * (w - weights)
                w = w - RATE * (gradient(w, k) - linear + pull)
            own[k] = own[k] - ALPHA * (w - weights)
            ends.append(w)
        drift = drift - ALPHA / POPULATION * sum(end - weights for end in ends)
        weights = np.mean(ends, axis=0) - (0 if without == "drift" else drift / ALPHA)
    return weights


def fedasync(without: str) -> np.ndarray:
    """Xie et al. 2019, algorithm 1, polynomial weights: mixes models, not updates; two clients at work."""
    weights = initial()
    begun = {0: (initial(), 0), 1: (initial(), 0)}
    for version, (k, following) in enumerate(ARRIVALS):
        start, tau = begun.pop(k)
        w = start
        for _ in range(STEPS[k]):
            w = w - RATE * gradient(w, k)
        share = 0.6 * (1 if without == "staleness" else (version - tau + 1) ** -0.5)
        target = weights + (w - start) if without == "models" else w
        weights = (1 - share) * weights + share * target
        begun[following] = (weights, version + 1)
    return weights


def test_fedasync_mixes_models_as_in_the_paper() -> None:
    federation = Federation(
        server={"mode": "buffered", "buffer": 1, "cohort": 2},
        devices={"kind": "lognormal"},
        algorithms={"fedasync": {}},
    )
    found = federation.arrive(ARRIVALS)
    assert np.abs(found - fedasync("")).max() < 1e-5
    for term in ("staleness", "models"):
        assert np.abs(found - fedasync(term)).max() > 1e-3, term


CASES: list[tuple[Oracle, dict[str, Any], tuple[str, ...]]] = [
    (fedprox, {"client": {"proximal_mu": MU}}, ("proximal",)),
    (fednova, {"momentum": RHO, "server": {"normalisation": "fednova"}}, ("normalisation", "tau_eff")),
    (scaffold, {"client": {"scaffold": True}}, ("correction", "share")),
    (scaffold_of_parts, {"held": HELD, "client": {"scaffold": True}}, ("correction", "holders")),
    (
        scaffold_of_niid_bench,
        {"momentum": RHO, "client": {"scaffold": True, "scaffold_variant": "niid-bench"}},
        ("correction", "examples"),
    ),
    (label_rows, {"held": HELD, "policy": {"kind": "width"}}, ("label rows",)),
    (feddyn, {"algorithms": {"feddyn": {"alpha": ALPHA}}}, ("linear", "proximal", "drift")),
]


@pytest.mark.parametrize(
    ("oracle", "changes", "terms"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_three_rounds_are_those_of_the_paper(
    oracle: Oracle, changes: dict[str, Any], terms: tuple[str, ...]
) -> None:
    found = Federation(**changes).run()
    assert np.abs(found - oracle("")).max() < 1e-5
    for term in terms:
        assert np.abs(found - oracle(term)).max() > 1e-3, term
