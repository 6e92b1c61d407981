"""What a secure sum adds to a client's round, before it begins: as if all of the cohort stay to the end."""

from math import prod

from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.experiment import Experiment
from fedfmd.secure.blocks import FIGURE_WORDS
from fedfmd.secure.costs import StageCost, keys_cost, masks_cost, recovery_cost, sealed_bytes, shares_cost
from fedfmd.secure.graph import degree_for
from fedfmd.secure.messages import NUMBER_BYTES
from fedfmd.secure.stream import WORD_BYTES
from fedfmd.wire.compression import planned_uplink_bytes


def update_bytes(experiment: Experiment, elements: int, extra: int) -> int:
    """Return the payload of an update of so many elements: compressed, as it is, or as words.

    The last ``extra`` ones, which go along with the part, are never compressed.
    """
    if experiment.secure:
        return elements * WORD_BYTES
    return planned_uplink_bytes(elements - extra, experiment.compressor) + extra * FLOAT32_BYTES


def secure_cost(experiment: Experiment, elements: int) -> StageCost:
    """Return what keys, shares, masks and recovery take from a client that sends so many elements."""
    if not experiment.secure:
        return StageCost()
    config = experiment.config
    clients, blocks = config.server.cohort, _most_blocks(experiment)
    near = degree_for(clients, parts=config.parts)
    secrets = 2 + blocks  # of the pairs, and of the own masks of the figures and of each block
    return (
        keys_cost(near, clients * NUMBER_BYTES)
        + shares_cost(near, secrets, near * sealed_bytes(secrets), config.privacy.threshold)
        + masks_cost(near, (near + 1) * (elements + FIGURE_WORDS))
        + recovery_cost(clients, near, (near + 1) * (1 + blocks), 0)
    )


def _most_blocks(experiment: Experiment) -> int:
    """Return how many blocks a client may hold, about: parts that lie in one another make one for each."""
    config = experiment.config
    policy, model = config.policy, config.model
    choices = (
        len(policy.widths) if "width" in policy.axes else 1,
        model.kernels if "kernels" in policy.axes and model.dynamic else 1,
        model.stages if "depth" in policy.axes and model.exits else 1,
    )
    return min(prod(choices), config.server.cohort)
