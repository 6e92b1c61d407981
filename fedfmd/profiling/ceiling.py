"""A process of its own that finds how much memory training may take; its argument is the most, in bytes.

It limits its own data to BYTES (RLIMIT_DATA), imports what training imports, and searches by halves for the
largest block that it then still gets. Nothing is written to a block, so the machine's memory stays untouched:
it is the process's limit that answers, or one that was there before it.
"""

import sys
from pathlib import Path

STEP = 1_000_000
"""Bytes to which the answer is exact."""


def ceiling(limit: int) -> int:
    """Return the largest block below ``limit`` that can be had, in whole steps."""
    least, most = 0, limit // STEP + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if _fits(middle * STEP) else (least, middle)
    return least * STEP


def data_bytes() -> int:
    """Return what counts against the limit already: the data of what is imported."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _fits(size: int) -> bool:
    import torch

    try:
        torch.empty(size, dtype=torch.uint8)
    except RuntimeError:
        return False
    return True


def main() -> None:
    """Print the answer, and what was taken before."""
    import resource  # of Unix alone

    limit = int(sys.argv[1])
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    import fedfmd.training.local  # noqa: F401  (what it takes is not left for training)

    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    print(ceiling(bound), data_bytes())


if __name__ == "__main__":
    main()
