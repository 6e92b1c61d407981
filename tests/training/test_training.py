"""Local training: closed forms, and nothing left over from the client before."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.algorithms import ClientSide, Trained, Visit
from fedfmd.algorithms.fedprox import Proximal
from fedfmd.algorithms.scaffold import Controlled
from fedfmd.config.sections.client import ClientConfig
from fedfmd.costs.macs import Macs
from fedfmd.data.augment import Augment
from fedfmd.nn import FMDConv2d, kernels
from fedfmd.nn.vector import Layout, bind
from fedfmd.training.local import PLAIN, LocalTrainer, PlainForward
from fedfmd.training.watchdog import Deadline, DeadlinePassedError, ended_when_hung, hard_seconds
from fedfmd.wire.plan import ClientPlan, Progress

AUGMENT = Augment(mean=(0.5,), std=(0.25,), input_shape=(1, 8, 8), crop_padding=0, flip=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def pictures(seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return images, torch.randint(0, 3, (count,), generator=rng)


def train(model: nn.Module, seed: int = 1, *, side: ClientSide = PLAIN, **options) -> Progress:
    trainer = LocalTrainer(model, ClientConfig(**{"momentum": 0.0, "weight_decay": 0.0, **options}), AUGMENT)
    return train_with(trainer, seed, side)


def plan_of(trainer: LocalTrainer, **changes: Any) -> ClientPlan:
    config = trainer.config
    return ClientPlan(**{"epochs": config.epochs, "batch_size": config.batch_size, **changes})


def train_with(trainer: LocalTrainer, seed: int, side: ClientSide = PLAIN) -> Progress:
    progress = Progress()
    trainer.train(
        *pictures(seed),
        plan=plan_of(trainer),
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(5),
        progress=progress,
        side=side,
    )
    return progress


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model: nn.Module, seed: int = 1) -> Tensor:
    images, labels = pictures(seed)
    loss = cross_entropy(model(AUGMENT.eval_batch(images)), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_dropout_follows_from_the_seed_and_leaves_the_generator_of_others_alone() -> None:
    found = []
    for elsewhere in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
        torch.manual_seed(elsewhere)
        expected = torch.rand(3)
        torch.manual_seed(elsewhere)
        train(model, batch_size=4, epochs=2)
        assert torch.equal(torch.rand(3), expected)
        found.append(flat(model))
    assert torch.equal(*found)


def test_one_full_batch_is_one_step_of_gradient_descent() -> None:
    model = network()
    expected = flat(model) - 0.1 * gradient(model)
    progress = train(model, batch_size=12)
    assert torch.allclose(flat(model), expected, atol=1e-7)
    assert (progress.steps, progress.samples) == (1, 12)


def test_two_clients_with_full_batches_average_to_the_central_step() -> None:
    """FedSGD = SGD on the union (McMahan et al. 2017): equal sizes, one step each."""
    start = flat(network())
    updates = []
    for seed in (1, 2):
        model = network()
        train(model, seed, batch_size=12)
        updates.append(flat(model) - start)
    central = -0.1 * (gradient(network(), 1) + gradient(network(), 2)) / 2
    assert torch.allclose((updates[0] + updates[1]) / 2, central, atol=1e-7)


def test_the_proximal_gradient_is_mu_times_the_way_gone() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    parameter.grad = torch.tensor([0.5, 0.5])
    side = Proximal([torch.tensor([0.0, 2.0])], mu=0.1)
    side.gradient([parameter])
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.1])


def test_two_proximal_steps_follow_the_closed_form() -> None:
    """w2 = w1 - lr (g(w1) + mu (w1 - w0)); the first step has no proximal part."""
    start = network()
    first = network()
    for parameter, step in zip(first.parameters(), _parts(start, 0.1 * gradient(start)), strict=True):
        parameter.data -= step
    expected = flat(first) - 0.1 * (gradient(first) + 0.7 * (flat(first) - flat(start)))
    model = network()
    train(model, batch_size=12, epochs=2, side=Proximal(list(model.parameters()), mu=0.7))
    assert torch.allclose(flat(model), expected, atol=1e-6)


def _parts(model: nn.Module, vector: Tensor) -> list[Tensor]:
    shapes = [p.shape for p in model.parameters()]
    return [v.view(s) for v, s in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]


def visit(model: nn.Module, extra: Tensor) -> Visit:
    layout, vector = Layout.of(model), bind(model)
    return Visit(
        round=1,
        network=Trained(model, PlainForward(model, Macs())),
        vector=vector,
        layout=layout,
        start=vector.clone(),
        index=None,
        whole=layout,
        extra=extra,
        kept={},
        labels=torch.zeros(0, dtype=torch.int64),
        learning_rate=0.1,
        seed=0,
    )


def test_a_correction_shifts_every_gradient() -> None:
    model, correction = network(), torch.linspace(-1, 1, 195)
    expected = flat(model) - 0.1 * (gradient(model) + correction)
    train(model, batch_size=12, side=Controlled(visit(model, extra=correction)))
    assert torch.allclose(flat(model), expected, atol=1e-7)


class Onlooker(ClientSide):
    """An algorithm that looks at gradients, and changes none."""

    def gradient(self, parameters: Sequence[Tensor]) -> None:
        assert all(p.grad is not None for p in parameters)


@pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")
def test_kernels_move_within_the_backward_pass_where_nobody_looks_and_by_the_same_bits() -> None:
    def kernels_of(side: ClientSide = PLAIN, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        layer = FMDConv2d(8, 8, 3, padding=1)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), layer, nn.Flatten(), nn.Linear(288, 3))
        bind(model)
        rates: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
        train(model, batch_size=5, side=side, **rates, **options)
        assert (layer.weight.grad is None) == (side is PLAIN and not options)
        return model

    moved = flat(kernels_of())
    assert torch.equal(moved, flat(kernels_of(Onlooker())))
    assert torch.equal(moved, flat(kernels_of(clip_norm=1e6)))  # which clips nothing


def test_a_clipped_step_has_the_length_allowed() -> None:
    model = network()
    start = flat(model)
    train(model, batch_size=12, clip_norm=0.01)
    assert float((flat(model) - start).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_nothing_is_left_over_from_the_client_before(optimizer: str) -> None:
    """Momentum and Adam's moments start fresh: client 2 alone, or after client 1, gives the same bits."""
    alone = network()
    options: dict[str, Any] = {"optimizer": optimizer, "momentum": 0.9, "batch_size": 4, "epochs": 2}
    train(alone, 2, **options)
    model = network()
    origin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = LocalTrainer(model, ClientConfig(**{"weight_decay": 0.0, **options}), AUGMENT)
    train_with(trainer, 1)
    model.load_state_dict(origin)
    train_with(trainer, 2)
    assert torch.equal(flat(model), flat(alone))


def test_the_mean_loss_is_over_samples_not_steps() -> None:
    """Learning rate near zero: the mean over batches of 5, 5 and 2 is the loss of all twelve."""
    model = network()
    trainer = LocalTrainer(model, ClientConfig(momentum=0.0, batch_size=5), AUGMENT)
    progress = Progress()
    trainer.train(
        *pictures(1),
        plan=plan_of(trainer),
        learning_rate=1e-30,
        generator=torch.Generator().manual_seed(0),
        progress=progress,
    )
    images, labels = pictures(1)
    expected = float(cross_entropy(model(AUGMENT.eval_batch(images)), labels).detach())
    assert progress.mean_loss == pytest.approx(expected, rel=1e-5)
    assert (progress.steps, progress.samples) == (3, 12)


def test_a_client_past_its_deadline_stops_and_says_what_it_has_done() -> None:
    trainer = LocalTrainer(network(), ClientConfig(batch_size=4, deadline_seconds=5.0), AUGMENT)
    late = Progress(started=time.perf_counter() - 6)
    with pytest.raises(DeadlinePassedError, match="5 s"):
        trainer.train(
            *pictures(1),
            plan=plan_of(trainer),
            learning_rate=0.1,
            generator=torch.Generator().manual_seed(0),
            progress=late,
        )
    assert (late.steps, late.mean_loss) == (0, None)


def test_no_deadline_never_passes_and_a_watch_without_one_does_nothing() -> None:
    Deadline(None, -1e9).check()
    with ended_when_hung(None):
        pass
    with ended_when_hung(3600.0):
        pass
    assert hard_seconds(6.0) > 6.0


def test_a_plan_with_fewer_steps_stops_there_and_bills_only_those() -> None:
    model = network()
    forward = PlainForward(model, Macs(linear=7))
    trainer = LocalTrainer(model, ClientConfig(batch_size=5, epochs=2), AUGMENT, forward)
    progress = Progress()
    trainer.train(
        *pictures(1),
        plan=plan_of(trainer, steps=4),
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(0),
        progress=progress,
    )
    assert (progress.steps, progress.samples) == (4, 5 + 5 + 2 + 5)
    assert progress.macs == Macs(linear=3 * 7 * 17)
