"""PLACEHOLDER by the lead; the devices helper replaces this file."""

from fedfmd.cost import ModelCost


def training_bytes(cost: ModelCost, batch_size: int) -> int:
    from fedfmd.profiling.profile import training_bytes as old

    return old(cost, batch_size, compiled=True)
