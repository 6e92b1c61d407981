"""FedAsync (Xie et al. 2019, "Asynchronous Federated Optimization", algorithm 1).

The server steps with every update: x_t = (1 - a) x_{t-1} + a x_new, where x_new is the model that a client
ends with, and a = alpha s(t - tau) falls with the update's staleness: ``constant`` s = 1, ``polynomial`` s =
(staleness + 1)^-a, ``hinge`` s = 1 up to b and 1 / (a (staleness - b) + 1) beyond. Switched on by the table
``[algorithms.fedasync]``; it needs ``server.mode = "buffered"`` with ``server.buffer = 1``. The paper's
regulariser is ``client.proximal_mu``.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, Collected
from fedfmd.config.values import Section


class FedAsyncOptions(Section):
    """The table ``[algorithms.fedasync]``."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Weight of a fresh update."""
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    """How the weight falls with the versions that came since."""
    a: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    """Exponent of `polynomial`, slope of `hinge`."""
    b: Annotated[int, Field(ge=0)] = 4
    """Staleness up to which `hinge` is 1."""


class FedAsync(Algorithm):
    """Mix each client's model into the global one."""

    name = "fedasync"
    Options = FedAsyncOptions
    needs_mean = True

    def allows(self) -> Iterator[str]:
        """Yield what does not go with it."""
        server = self.config.server
        if server.mode != "buffered":
            yield f"server.mode = {server.mode!r}: needs 'buffered', updates arrive one by one"
        elif server.buffer != 1:
            yield f"server.buffer = {server.buffer}: needs 1, the server steps with every update"
        if server.strategy != "fedavg":
            yield f"server.strategy = {server.strategy!r}: needs 'fedavg', it mixes models itself"
        if server.normalisation != "none":
            yield f"server.normalisation = {server.normalisation!r}: needs 'none', it mixes whole models"

    def weight_of(self, staleness: int) -> float:
        """Return alpha s(staleness)."""
        options: FedAsyncOptions = self.options
        if options.staleness == "polynomial":
            return float(options.alpha * (staleness + 1) ** -options.a)
        if options.staleness == "hinge" and staleness > options.b:
            return float(options.alpha / (options.a * (staleness - options.b) + 1))
        return options.alpha

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Turn the update of one client into the way to its model, as far as the weight goes."""
        del mean_extra
        if collected.rows and collected.lag is not None:
            mean.add_(collected.lag[: len(mean)]).mul_(self.weight_of(collected.rows[0].staleness or 0))
