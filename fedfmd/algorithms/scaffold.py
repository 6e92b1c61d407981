"""SCAFFOLD (Karimireddy et al. 2020, "Stochastic Controlled Averaging", algorithm 1, option II).

Each step follows g_i(y) - c_i + c. After K steps c_i+ = c_i - c + (x - y_i) / (K lr), and the server moves
c by |S|/N of the mean change of the c_i (line 17). The controls belong to the whole model: a client of a part
uses, and changes, the elements that it holds, and c moves by the sum of the holders' changes over N. Switched
on by ``client.scaffold``, in one of two forms, ``client.scaffold_variant``:

- ``paper``: the correction is part of the gradient, after clipping, and clients weigh the same. It needs
  plain SGD.
- ``niid-bench`` (Li et al. 2022, "Federated Learning on Non-IID Data Silos"): a step with momentum, and then
  y -= lr (c - c_i); models and changes of controls weigh by examples.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit, put, taken
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.vector import Layout

CONTROL = "control"


class Scaffold(Algorithm):
    """Correct every step by the difference of the server's and the client's control variate."""

    name = "scaffold"
    switch = "client.scaffold = true"
    needs_mean = True
    keeps = (CONTROL,)

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether there are control variates."""
        return config.client.scaffold

    @property
    def as_in_paper(self) -> bool:
        """Whether the correction is part of the gradient, and clients weigh the same."""
        return self.config.client.scaffold_variant == "paper"

    def allows(self) -> Iterator[str]:
        """Yield what does not go with it."""
        client, server, compression = self.config.client, self.config.server, self.config.compression
        if client.optimizer != "sgd":
            yield f"client.optimizer = {client.optimizer!r}: needs 'sgd', whose steps are lr times gradients"
        if self.as_in_paper and client.momentum:
            yield f"client.momentum = {client.momentum}: needs 0, or client.scaffold_variant = 'niid-bench'"
        if server.mode != "sync":
            yield f"server.mode = {server.mode!r}: all controls must start from the same model"
        if server.normalisation != "none":
            yield f"server.normalisation = {server.normalisation!r}: needs 'none', the controls see to drift"
        if compression.uplink != "none":
            yield f"compression.uplink = {compression.uplink!r}: the controls would drift by what is lost"

    def extra_elements(self, layout: Layout) -> int:
        """Count the control's elements, one per parameter."""
        return layout.parameters

    def extra_places(self, index: Tensor, part: Layout, whole: Layout) -> Tensor:
        """Return the places of the part's parameters, which come first in a state."""
        del whole
        return index[: part.parameters]

    def weight(self, weight: int, staleness: int) -> int:
        """Let all clients weigh the same, as in the paper."""
        del staleness
        return min(weight, 1) if self.as_in_paper else weight

    def client(self, visit: Visit) -> ClientSide:
        """Correct this client's steps."""
        return Controlled(visit) if self.as_in_paper else ControlledAfterwards(visit)

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        """Move the server's control: c += |S|/N mean(c_i+ - c_i), where who lacks an element counts as 0."""
        share = len(collected.rows) / collected.population
        return (extra.double() + share * collected.held * mean_extra).float()


class Controlled(ClientSide):
    """A client with a control variate of the whole model, zero before its first round."""

    alike = True

    def __init__(self, visit: Visit):
        self.control, self.learning_rate = visit.extra, visit.learning_rate
        self.index = visit.parameter_index
        self.all_own = visit.kept.get(CONTROL, torch.zeros(visit.whole.parameters))
        self.own = taken(self.all_own, self.index)
        self.corrections = visit.by_parameter(self.control - self.own)

    def direction(self, parameters: Sequence[Tensor]) -> None:
        """Add c - c_i."""
        for parameter, correction in zip(parameters, self.corrections, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(correction)

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Keep the next control variate, and send its change."""
        moved = update[: len(self.own)]
        new = next_control(self.own, self.control, moved, steps, self.learning_rate)
        return Finished(
            update=update, extra=new - self.own, kept={CONTROL: put(new, self.all_own, self.index)}
        )


class ControlledAfterwards(Controlled):
    """A client that is corrected behind each step, past the momentum."""

    def direction(self, parameters: Sequence[Tensor]) -> None:
        """Leave the gradient as it is."""

    @torch.no_grad()
    def stepped(self, parameters: Sequence[Tensor]) -> None:
        """Take off lr (c - c_i)."""
        for parameter, correction in zip(parameters, self.corrections, strict=True):
            parameter.sub_(correction, alpha=self.learning_rate)


def next_control(own: Tensor, control: Tensor, moved: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Return c_i - c + (x - y_i) / (K lr), all (parameters,), for ``moved`` = y_i - x after K ``steps``."""
    return own - control - moved / (max(steps, 1) * learning_rate)
