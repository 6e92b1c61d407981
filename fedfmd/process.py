"""Settings that every process which trains makes once."""

import torch

from fedfmd.allocator import keep_memory


def prepare_process(threads: int | None) -> None:
    """Fix torch's threads, since oneDNN's sums depend on their number, and let glibc keep its memory."""
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    keep_memory()
