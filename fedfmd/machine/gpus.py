"""Which GPUs this process may use."""

import os


def visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` would."""
    import torch  # a client's node, which trains nothing itself, has no other need of it

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (chosen.split(",") if chosen else [str(i) for i in range(count)])[:count]
