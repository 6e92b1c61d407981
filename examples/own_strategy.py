"""Your own server strategy: how the clients' mean update becomes the next global model.

A strategy is a class with ``step`` and a dictionary ``state`` of tensors, which checkpoints keep. This one is
FedLion: the server moves every weight by a fixed step, in the direction that momentum and mean update agree
on (Chen et al. 2023, Lion, with the mean update in the gradient's place).

    python examples/own_strategy.py
    python examples/own_strategy.py server.rounds=2
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from fedfmd.config import load_config
from fedfmd.rounds.engine import FederatedRun
from fedfmd.runs import InlineExecutor, free_run_folder, open_experiment, start_run


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


config = load_config(Path("configs/quickstart.toml"), ["backend.kind=inline", *sys.argv[1:]])
directory = start_run(config, free_run_folder("fedlion"))
experiment = open_experiment(directory)
run = FederatedRun(experiment, directory, InlineExecutor(experiment))
run.optimizer = FedLion()
summary = run.run()
spent = summary["cumulative"]["macs"]
print(f"{directory.path}: top-1 {summary['final_top1']:.1%} for {spent / 1e9:.1f} GMAC")
