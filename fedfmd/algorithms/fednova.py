"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem", section 4).

w -= tau_eff sum_i p_i d_i with d_i = Delta_i / ||a_i||_1, tau_eff = sum_i p_i ||a_i||_1: clients that did
more steps do not count for more. Buffers, such as BatchNorm's statistics, stay plain means. Switched on by
``server.normalisation = "fednova"``.

The authors' code differs with FedProx's mu > 0: it adds the recursions of momentum and of the proximal term
up, where here the two act on one another, and takes the mean of the clients' plain step counts for tau_eff.
"""

from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit
from fedfmd.config.experiment import ExperimentConfig


class FedNova(Algorithm):
    """Divide each update by its client's effective steps, and multiply the mean by their mean."""

    name = "fednova"
    switch = 'server.normalisation = "fednova"'
    needs_mean = True

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether updates are normalised."""
        return config.server.normalisation == "fednova"

    def client(self, visit: Visit) -> ClientSide:
        """Normalise this client's update."""
        return Normalised(self, visit)

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Multiply by tau_eff, the weighted mean of the clients' effective steps."""
        del mean_extra
        clients = zip(collected.rows, collected.weights, collected.learning_rates, strict=True)
        total = sum(weight * self.steps(row.steps, rate) for row, weight, rate in clients)
        mean.mul_(total / max(1, sum(collected.weights)))

    def steps(self, steps: int, learning_rate: float) -> float:
        """Return ||a||_1 of a client that did ``steps`` in a round with that learning rate."""
        client = self.config.client
        return effective_steps(steps, client.sgd_momentum, learning_rate * client.proximal_mu)


class Normalised(ClientSide):
    """A client whose update is divided by its effective steps."""

    def __init__(self, algorithm: FedNova, visit: Visit):
        self.algorithm, self.visit = algorithm, visit

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Divide the parameters' part."""
        if steps:
            update[: self.visit.layout.parameters] /= self.algorithm.steps(steps, self.visit.learning_rate)
        return Finished(update=update)


def effective_steps(steps: int, momentum: float, shrinkage: float = 0.0) -> float:
    """Return ||a||_1 of ``steps`` of SGD with momentum.

    ``shrinkage`` is learning rate times FedProx's mu: how much of its distance from the global model a step
    takes back. From v = d = 0, ``steps`` times v = m v + 1 - shrinkage d; d = d + v; the norm is d. Without
    shrinkage that is [t - m (1 - m^t) / (1 - m)] / (1 - m), and t without momentum; without momentum it is
    [1 - (1 - shrinkage)^t] / shrinkage.
    """
    if not shrinkage:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    velocity = distance = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1 - shrinkage * distance
        distance += velocity
    return distance
