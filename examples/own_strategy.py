"""Your own server strategy: how the clients' mean update becomes the next global model.

A strategy is a class with ``step`` and a dictionary ``state`` of tensors, which checkpoints keep. This one is
FedLion: the server moves every weight by a fixed step, in the direction that momentum and mean update agree
on (Chen et al. 2023, Lion, with the mean update in the gradient's place).

    python examples/own_strategy.py
    python examples/own_strategy.py server.rounds=2

An interrupted run needs it again: ``fedfmd.resume("runs/fedlion", optimizer=FedLion())``; without it,
resuming is refused.
"""

import sys

import torch
from torch import Tensor

import fedfmd


class FedLion:
    """u = sign(b1 m + (1 - b1) d); m = b2 m + (1 - b2) d; w += lr u, for the mean update d."""

    def __init__(self, learning_rate: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99):
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.state: dict[str, Tensor] = {}

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        """Return the next global weights; ``mean_update`` is the clients' mean minus ``weights``."""
        momentum = self.state.setdefault("momentum", torch.zeros_like(mean_update))
        direction = torch.lerp(mean_update, momentum, self.beta1).sign()
        momentum.lerp_(mean_update, 1 - self.beta2)
        return (weights.double() + self.learning_rate * direction).float()


result = fedfmd.simulate(
    "configs/quickstart.toml",
    overrides=["backend.kind=inline", "name=fedlion", *sys.argv[1:]],
    optimizer=FedLion(),
)
spent = result.summary["cumulative"]["macs"]
print(f"{result.path}: top-1 {result.summary['final_top1']:.1%} for {spent / 1e9:.1f} GMAC")
