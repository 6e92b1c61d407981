"""Exact sums of client updates, and the server optimisers that apply their mean."""

from fedfmd.aggregation.exact_sum import CHUNK, ExactSum, RejectedUpdateError, Scale, check_update, rounded
from fedfmd.aggregation.robust import aggregated, krum, median, trimmed_mean
from fedfmd.aggregation.server_optimizers import (
    STATE_PREFIX,
    VERSION_PREFIX,
    ServerOptimizer,
    server_optimizer,
    stepped,
)

__all__ = [
    "CHUNK",
    "STATE_PREFIX",
    "VERSION_PREFIX",
    "ExactSum",
    "RejectedUpdateError",
    "Scale",
    "ServerOptimizer",
    "aggregated",
    "check_update",
    "krum",
    "median",
    "rounded",
    "server_optimizer",
    "stepped",
    "trimmed_mean",
]
