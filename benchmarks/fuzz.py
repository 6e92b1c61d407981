"""Try hostile inputs for some minutes: each becomes an object or one refusal; see ``tests/fuzz``.

    python benchmarks/fuzz.py --minutes 60

Kinds take turns: configs, overrides, command lines, tables, JSON and bytes for every reader of files,
studies, images, replies of real clients, run directories. Every turn has seeds of its own, counted from
``--seed`` on. Adds a line to ``benchmarks/figures/fuzz.jsonl``: how many inputs were tried, and which failed.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import machine

import fedfmd

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "figures" / "fuzz.jsonl"
SHOWN_CHARACTERS = 600
TURN = {"run directory": 4, "reply": 4, "study": 5}
"""Inputs of a kind a turn, for those that take long; of the others there are 50."""


def main() -> None:
    """Let the kinds take turns until the time is over, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    tried, failures = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as scratch, kinds(Path(scratch)) as turns:
        for seed in itertools.count(options.seed):
            for kind, turn in turns.items():
                if time.monotonic() - started > 60 * options.minutes:
                    write(tried, failures, options.seed, time.monotonic() - started)
                    return
                count = TURN.get(kind, 50)
                try:
                    turn(seed, count)
                except Exception as error:
                    failures.append(f"{kind}, turn {seed}: {error}"[:SHOWN_CHARACTERS])
                    print(failures[-1], flush=True)
                tried[kind] += count


@contextmanager
def kinds(scratch: Path) -> Iterator[dict[str, Callable[[int, int], None]]]:
    """Give for every kind of input what tries some, given a seed and how many."""
    for folder in ("fuzz", "flower", "pages"):
        sys.path.insert(0, str(ROOT / "tests" / folder))
    import test_hostile
    import test_inputs
    import test_run_directories
    from hypothesis import given, seed, settings

    def inputs(kind: str) -> Callable[[int, int], None]:
        strategy, check = test_inputs.KINDS[kind]

        def turn(number: int, count: int) -> None:
            once = settings(test_inputs.effort(count), derandomize=False, print_blob=False)
            once(seed(number)(given(strategy)(lambda value: check(scratch, value))))()

        return turn

    sound = test_run_directories.sound_runs(scratch / "sound")

    def directories(number: int, count: int) -> None:
        for one in range(number * count, (number + 1) * count):
            test_run_directories.check(one, sound, scratch / "run", whole=one % 25 == 0)

    with test_hostile.opened_world(scratch / "replies") as world:
        without = world.round(test_hostile.dead)

        def replies(number: int, count: int) -> None:
            for one in range(number * count, (number + 1) * count):
                test_hostile.fuzz(world, without, random.Random(one).getrandbits(32))

        yield {kind: inputs(kind) for kind in test_inputs.KINDS} | {
            "run directory": directories,
            "reply": replies,
        }


def write(tried: Counter[str], failures: list[str], seed: int, seconds: float) -> None:
    """Add the figures of a run to those of earlier ones."""
    document = {
        "machine": machine(),
        "fedfmd": fedfmd.__version__,
        "seed": seed,
        "minutes": round(seconds / 60, 1),
        "tried": dict(tried),
        "total": tried.total(),
        "failures": failures,
    }
    with FIGURES.open("a") as file:
        file.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
