"""A process of its own that finds how much memory training may take; its argument is the most, in bytes.

It limits its own data to BYTES (RLIMIT_DATA), imports what training imports, and searches by halves for the
largest block that it then still gets. Nothing is written to a block, so the machine's memory stays untouched:
it is the process's limit that answers, or one that was there before it.
"""

import sys

from fedfmd.machine.processes import own_bytes

STEP = 1_000_000
"""Bytes to which the answer is exact."""


def largest_block(limit: int) -> int:
    """Return the largest block below ``limit`` that can be had, in whole steps."""
    least, most = 0, limit // STEP + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if _fits(middle * STEP) else (least, middle)
    return least * STEP


def _fits(size: int) -> bool:
    import torch

    try:
        torch.empty(size, dtype=torch.uint8)
    except RuntimeError:
        return False
    return True


def main() -> None:
    """Print the answer, and the data of what is imported, which counts against the limit already."""
    import resource  # of Unix alone

    limit = int(sys.argv[1])
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    import fedfmd.training.local  # noqa: F401  (what it takes is not left for training)

    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    print(largest_block(bound), own_bytes("VmData") or 0)


if __name__ == "__main__":
    main()
