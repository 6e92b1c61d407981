"""What local training minimises."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax


def local_loss(
    logits: Tensor, labels: Tensor, present: Tensor | None = None, distillation: float = 1.0
) -> Tensor:
    """Give the loss of logits (B, classes), or of all exits (E, B, classes), for labels int64 (B,).

    ``present`` int64 lists the classes that the client has: the logits of all others count as 0, as in
    HeteroFL's masked cross entropy. Exits each have their cross entropy and learn from one another by
    ``distillation`` / (E-1) times the sum of all KL divergences (DepthFL, Kim et al. 2023, eq. 4).
    """
    if present is not None:
        absent = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        absent[present] = False
        logits = logits.masked_fill(absent, 0.0)
    if logits.dim() == 2:
        return cross_entropy(logits, labels)
    loss = torch.stack([cross_entropy(exit, labels) for exit in logits]).sum()
    return loss + distillation * mutual_divergence(logits) if distillation and len(logits) > 1 else loss


def mutual_divergence(logits: Tensor) -> Tensor:
    """Sum over ordered pairs of exits of KL(p_other || p_exit), by E-1; the other one is held fixed."""
    logs = log_softmax(logits, 2)
    pairs = [
        kl_div(logs[exit], logs[other].detach(), reduction="batchmean", log_target=True)
        for exit in range(len(logs))
        for other in range(len(logs))
        if exit != other
    ]
    return torch.stack(pairs).sum() / (len(logs) - 1)


def effective_steps(steps: int, momentum: float, shrinkage: float = 0.0) -> float:
    """Give FedNova's ||a||_1 of ``steps`` of SGD with momentum (Wang et al. 2020, section 4).

    ``shrinkage`` is learning rate times FedProx's mu: how much of its distance from the global model a step
    takes back. From v = d = 0, ``steps`` times v = m v + 1 - shrinkage d; d = d + v; the norm is d. Without
    shrinkage that is [t - m (1 - m^t) / (1 - m)] / (1 - m), and t without momentum; without momentum it is
    [1 - (1 - shrinkage)^t] / shrinkage.

    The authors' code differs with mu > 0: it adds the recursions of momentum and of the proximal term up,
    where here the two act on one another, and takes the mean of the clients' plain step counts for tau_eff.
    """
    if not shrinkage:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    velocity = distance = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1 - shrinkage * distance
        distance += velocity
    return distance
