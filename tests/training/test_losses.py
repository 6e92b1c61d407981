"""Local losses and FedNova's steps against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedfmd.algorithms.depthfl import DepthFL, Distilled, mutual_divergence
from fedfmd.algorithms.fednova import effective_steps
from fedfmd.algorithms.heterofl import masked
from fedfmd.config.experiment import parse_config
from fedfmd.training.losses import classification_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = torch.tensor([0, 1])


def test_a_masked_class_has_logit_zero_and_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = classification_loss(masked(logits, torch.tensor([0, 1])), LABELS)
    expected = -(2.0 - math.log(math.e**2 + math.e**-1 + 1)) - (3.0 - math.log(1 + math.e**3 + 1))
    assert float(loss.detach()) == pytest.approx(expected / 2)
    loss.backward()
    assert torch.equal(logits.grad[:, 2], torch.zeros(2))
    assert bool(logits.grad[:, :2].abs().min() > 0)


def test_all_classes_present_is_plain_cross_entropy() -> None:
    assert torch.equal(
        classification_loss(masked(LOGITS, torch.arange(3)), LABELS), cross_entropy(LOGITS, LABELS)
    )


def test_equal_exits_have_nothing_to_teach_each_other() -> None:
    exits = torch.stack([LOGITS] * 3)
    assert float(mutual_divergence(exits)) == pytest.approx(0, abs=1e-6)
    loss = Distilled(1.0).loss(classification_loss(exits, LABELS), exits, LABELS)
    assert torch.allclose(loss, 3 * cross_entropy(LOGITS, LABELS))


def test_two_exits_diverge_by_both_kullback_leibler_divergences() -> None:
    one, two = LOGITS.log_softmax(1), (-LOGITS).log_softmax(1)
    both = ((one.exp() * (one - two)).sum() + (two.exp() * (two - one)).sum()) / len(LABELS)
    assert torch.allclose(mutual_divergence(torch.stack([LOGITS, -LOGITS])), both)


def test_distillation_ramps_up_over_its_share_of_the_rounds() -> None:
    """exp(-5 (1 - t/T)^2), as in the authors' code; T = 0.3 of 10 rounds."""
    document: dict[str, Any] = {
        "model": {"exits": True},
        "client": {"distillation": 2.0},
        "server": {"rounds": 10},
    }
    weight = DepthFL(parse_config(document)).distillation
    assert weight(1) == pytest.approx(2 * math.exp(-5 * (2 / 3) ** 2))
    assert [weight(3), weight(9)] == [2.0, 2.0]
    document["client"]["distillation_rampup"] = 0.0
    assert DepthFL(parse_config(document)).distillation(1) == 2.0


def test_the_step_count_without_momentum_is_itself() -> None:
    assert effective_steps(7, 0.0) == 7


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_effective_steps_are_the_sum_of_the_momentum_weights(momentum: float) -> None:
    """Step j of t counts 1 + m + ... + m^(t-j): the gradient stays in the velocity."""
    steps = 6
    expected = sum(sum(momentum**power for power in range(steps - j + 1)) for j in range(1, steps + 1))
    assert effective_steps(steps, momentum) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("momentum", "shrinkage", "expected"), [(0.0, 0.05, 18.46), (0.9, 0.05, 19.9), (0.9, 0.0005, 382.3)]
)
def test_effective_steps_under_a_proximal_term(momentum: float, shrinkage: float, expected: float) -> None:
    """Fifty steps of gradient 1 on a quadratic pull towards the start; the figures are rounded."""
    assert effective_steps(50, momentum, shrinkage) == pytest.approx(expected, abs=0.06)
    if not momentum:
        assert effective_steps(50, momentum, shrinkage) == pytest.approx((1 - 0.95**50) / 0.05)
    assert effective_steps(50, momentum, 1e-12) == pytest.approx(effective_steps(50, momentum))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_effective_steps_are_how_far_sgd_moves_by_a_gradient_of_one(momentum: float) -> None:
    """The definition of ||a||_1, with torch's own optimiser: w - w_global after steps of lr on g = -1."""
    mu, rate, steps = 1.0, 0.05, 50
    weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=rate, momentum=momentum)
    for _ in range(steps):
        weight.grad = -1 + mu * weight.detach()
        optimizer.step()
    assert float(weight.detach()) / rate == pytest.approx(effective_steps(steps, momentum, rate * mu))
