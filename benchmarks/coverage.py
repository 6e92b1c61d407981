"""How often an interval over seeds covers the true mean: normal, top-1, and samples that are not normal.

    python benchmarks/coverage.py [--draws 40000]

Prints a Markdown table: a line for each kind of sample, a column for each number of seeds n, the share of
95% intervals by Student's t that cover. The last line is how often two equal arms, paired by seed, are told
apart.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fedfmd.results.statistics import student_interval

SEEDS = (2, 3, 5, 10, 20)
LEVEL = 0.95
Floats = npt.NDArray[np.float64]
Sampler = Callable[[np.random.Generator, tuple[int, int]], Floats]


def top1(images: int) -> Sampler:
    """Sample top-1 of runs whose true accuracy is 80%, give or take 1 point from seed to seed."""
    return lambda rng, shape: rng.binomial(images, rng.normal(0.8, 0.01, shape)) / images


SAMPLES: dict[str, tuple[Sampler, float]] = {
    "normal": (lambda rng, shape: rng.normal(0, 1, shape), 0.0),
    "top-1 of 1,000 images": (top1(1_000), 0.8),
    "top-1 of 10,000 images": (top1(10_000), 0.8),
    "lognormal, sigma 0.5": (lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125))),
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0),
    "two values, each half of the time": (lambda rng, shape: 1.0 * rng.integers(0, 2, shape), 0.5),
}


def covered(samples: Floats, truth: float) -> float:
    """Return the share of samples (draws, n) whose interval covers; equal values have none."""
    low, high = student_interval(samples, LEVEL)
    return float(((low <= truth) & (truth <= high) & (high > low)).mean())


def false_differences(rng: np.random.Generator, shape: tuple[int, int]) -> float:
    """Return how often equal arms that share their seeds' effect are told apart, top-1 of 1,000 images."""
    shared = rng.normal(0.8, 0.01, shape)
    first, second = (rng.binomial(1_000, shared) / 1_000 for _ in range(2))
    low, high = student_interval(first - second, LEVEL)
    return float(((low > 0) | (high < 0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=40_000)
    draws = parser.parse_args().draws
    print("| samples | " + " | ".join(f"n = {n}" for n in SEEDS) + " |")
    print("| --- |" + " ---: |" * len(SEEDS))
    for name, (sample, truth) in SAMPLES.items():
        cells = [f"{100 * covered(sample(np.random.default_rng(n), (draws, n)), truth):.1f}" for n in SEEDS]
        print(f"| {name} | {' | '.join(cells)} |")
    cells = [f"{100 * false_differences(np.random.default_rng(n), (draws, n)):.1f}" for n in SEEDS]
    print(f"| two equal arms told apart | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
