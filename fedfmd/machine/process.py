"""Settings that every process which trains makes once."""

import ctypes
import functools

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1  # bytes; the largest value mallopt takes


def prepare_process(threads: int) -> None:
    """Fix torch's threads, since oneDNN's sums depend on their number, and let glibc keep its memory.

    On a GPU matrix products get the precision of convolutions, TF32 unless PyTorch is told otherwise: a
    dynamic convolution is made of products, and is compared with a static one. NVIDIA_TF32_OVERRIDE=0 in the
    environment turns it off for both.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    keep_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32


@functools.cache
def keep_memory() -> bool:
    """Let freed memory stay with this process; returns whether that could be set (only glibc knows how).

    By default glibc maps every large block afresh and unmaps it when freed, so each activation and gradient
    is page-faulted in again at every step: measured, that doubles a dynamic network's training step.  With
    both thresholds out of reach large blocks come from the heap and are reused.  Call it in every process
    that trains, before the first large tensor; calling it again does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _NEVER)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
