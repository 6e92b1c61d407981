"""FedDyn (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", algorithm 1).

Client k minimises L_k(w) - <g_k, w> + alpha/2 ||w - w_t||^2 and ends at w_k; then g_k -= alpha (w_k - w_t),
so that g_k is the gradient of L_k there. The server keeps h -= alpha/m sum_k (w_k - w_t), over all m clients
of the federation, and the next model is the plain mean of the w_k minus h / alpha. Switched on by the table
``[algorithms.feddyn]`` with ``alpha``.

Clients minimise by the steps that their plans have, where the paper has an exact minimum in theory.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit
from fedfmd.config.values import Section

GRADIENT, DRIFT = "gradient", "drift"


class FedDynOptions(Section):
    """The table ``[algorithms.feddyn]``."""

    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    """Weight of the dynamic regulariser."""


class FedDyn(Algorithm):
    """Let each client's objective drift towards one whose minimum is the global one."""

    name = "feddyn"
    Options = FedDynOptions
    needs_mean = True
    keeps = (GRADIENT,)

    def allows(self) -> Iterator[str]:
        """Yield what does not go with it."""
        config = self.config
        if config.parts:
            yield f"policy.kind = {config.policy.kind!r}: clients must hold the whole model"
        if config.client.scaffold:
            yield "client.scaffold = true: both correct the clients' drift, each as if alone"
        if config.server.mode != "sync":
            yield f"server.mode = {config.server.mode!r}: all updates must start from the same model"
        if config.server.strategy != "fedavg":
            yield f"server.strategy = {config.server.strategy!r}: needs 'fedavg', it moves the model itself"
        if config.server.normalisation != "none":
            yield f"server.normalisation = {config.server.normalisation!r}: needs 'none'"

    def weight(self, weight: int, staleness: int) -> int:
        """Let all clients weigh the same."""
        del staleness
        return min(weight, 1)

    def client(self, visit: Visit) -> ClientSide:
        """Regularise this client's objective."""
        return Regularised(visit, self.options.alpha)

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Move h by the clients' mean way, and take h / alpha off the next model."""
        del mean_extra
        alpha, share = self.options.alpha, len(collected.rows) / collected.population
        drift = self.state.setdefault(DRIFT, torch.zeros_like(mean))
        drift.sub_(mean, alpha=alpha * share)
        mean.sub_(drift, alpha=1 / alpha)


class Regularised(ClientSide):
    """A client with the gradient of its own loss where it ended last, zero before its first round."""

    alike = True

    def __init__(self, visit: Visit, alpha: float):
        self.alpha = alpha
        self.own = visit.kept.get(GRADIENT, torch.zeros(visit.layout.parameters))
        self.gradients = visit.by_parameter(self.own)
        self.anchor = [p.detach().clone() for p in visit.parameters]

    @torch.no_grad()
    def gradient(self, parameters: Sequence[Tensor]) -> None:
        """Add alpha (w - w_t) - g_k."""
        for parameter, origin, own in zip(parameters, self.anchor, self.gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=self.alpha).sub_(own)

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Keep the next gradient: g_k - alpha (w_k - w_t)."""
        del steps
        moved = update[: len(self.own)]
        return Finished(update=update, kept={GRADIENT: self.own - self.alpha * moved})
