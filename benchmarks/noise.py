"""What the noise of a private round takes: exact samples of the discrete Gaussian, for each element of a sum.

    python benchmarks/noise.py [--elements 45000000] [--out benchmarks/figures/noise]

One thread. The last line is the same vector clipped by one client: its norm, and scaling it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import Row, clock, report

from fedfmd.privacy.clipping import Clip
from fedfmd.privacy.discrete_gaussian import Words, add_noise, seeded_words, system_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elements", type=int, default=45_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        noised(arguments.elements, sigma, source, words)
        for sigma in (1 << 8, 1 << 16, 1 << 20, 1 << 27)
        for source, words in (("seeded", seeded_words(np.random.default_rng(0))), ("system's", system_words))
    ]
    rows.append(clipped(arguments.elements))
    report(f"Noise for {arguments.elements:,} elements", rows, arguments.out)


def noised(elements: int, sigma: int, source: str, words: Words) -> Row:
    quanta = torch.zeros(elements, dtype=torch.float64)
    add_noise(quanta[:10], sigma, words)  # makes the table
    started, wall = clock(), time.perf_counter()
    add_noise(quanta, sigma, words)
    return row(
        f"noise of {sigma:,} quanta", source, elements, clock() - started, time.perf_counter() - wall
    ) | {"deviation / sigma": round(float(quanta.std()) / sigma, 5)}


def clipped(elements: int) -> Row:
    update = torch.full((elements,), 1.0)
    started, wall = clock(), time.perf_counter()
    Clip(1.0).apply(update)
    return row("one client's clip", "-", elements, clock() - started, time.perf_counter() - wall) | {
        "deviation / sigma": None
    }


def row(what: str, source: str, elements: int, cpu: float, wall: float) -> Row:
    return {
        "what": what,
        "random bits": source,
        "CPU s": round(cpu, 2),
        "wall s": round(wall, 2),
        "ns an element": round(1e9 * cpu / elements, 1),
    }


if __name__ == "__main__":
    main()
