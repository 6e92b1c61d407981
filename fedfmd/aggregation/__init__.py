"""Exact sums of client updates, and the server optimisers that apply their mean."""

from fedfmd.aggregation.exact_sum import CHUNK, ExactSum, RejectedUpdateError, Scale, check_update, rounded
from fedfmd.aggregation.robust import aggregated, krum, median, trimmed_mean
from fedfmd.aggregation.server_optimizers import ServerOptimizer, server_optimizer, stepped

__all__ = [
    "CHUNK",
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
