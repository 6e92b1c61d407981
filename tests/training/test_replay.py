"""Steps that read from tables do what steps on batches do, to the bit; tests/gpu tries to capture them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedfmd.algorithms import ClientSide
from fedfmd.algorithms.fedprox import Proximal
from fedfmd.config.sections.client import ClientConfig
from fedfmd.costs.macs import Macs
from fedfmd.data.augment import Augment
from fedfmd.nn.networks import build_model
from fedfmd.nn.vector import bind
from fedfmd.training.local import PLAIN, LocalTrainer, PlainForward
from fedfmd.wire.plan import ClientPlan, Progress

AUGMENT = Augment(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
MACS = Macs(conv=7)


def trained(
    *, replays: bool, norm: str = "bn", sided: bool = False, **options: Any
) -> tuple[Tensor, list[Progress]]:
    """Train one client after another from the same start; gives where the last ended, and their work."""
    torch.manual_seed(0)
    model = build_model("resnet8", num_classes=5, conv="fmdconv", width=0.25, norm=norm)
    vector = bind(model)
    start = vector.clone()
    config = ClientConfig(**{"learning_rate": 0.05, "batch_size": 8, "epochs": 2, **options})
    trainer = LocalTrainer(model, config, AUGMENT, PlainForward(model, MACS), replays=replays)
    done = []
    for visit in range(2):
        rng = torch.Generator().manual_seed(visit)
        images = torch.randint(0, 256, (21 + 9 * visit, 3, 32, 32), dtype=torch.uint8, generator=rng)
        labels = torch.randint(0, 5, (len(images),), generator=rng)
        vector.copy_(start)
        progress = Progress()
        parameters = [p for p in model.parameters() if p.requires_grad]
        trainer.train(
            images,
            labels,
            plan=ClientPlan(epochs=config.epochs, batch_size=config.batch_size, steps=None if visit else 5),
            learning_rate=0.05,
            generator=rng,
            progress=progress,
            side=Proximal(parameters, 0.1) if sided else PLAIN,
        )
        done.append(progress)
    return vector, done


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0},
        {"optimizer": "adamw", "momentum": 0.9},
        {"clip_norm": 0.5},
        {"sided": True},
    ],
    ids=lambda o: "-".join(o) or "sgd",
)
def test_steps_from_tables_have_the_bits_of_steps_on_batches(options: dict[str, Any]) -> None:
    one, did = trained(replays=False, **options)
    other, also = trained(replays=True, **options)
    assert torch.equal(one, other)
    assert [(p.steps, p.samples, p.macs) for p in did] == [(p.steps, p.samples, p.macs) for p in also]
    assert [p.mean_loss for p in also] == pytest.approx([p.mean_loss for p in did], rel=1e-6)


def test_a_batch_that_is_not_full_is_filled_up_with_what_counts_nothing() -> None:
    """Where no norm looks at a whole batch; sums over more images have other bits."""
    one, did = trained(replays=False, norm="gn")
    other, also = trained(replays=True, norm="gn")
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    assert [p.samples for p in also] == [p.samples for p in did]
    assert [p.mean_loss for p in also] == pytest.approx([p.mean_loss for p in did], rel=1e-5)


class Looks(ClientSide):
    """Takes part in steps, and looks at a value in each."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Note the loss."""
        self.losses.append(float(loss))
        return loss


@pytest.mark.parametrize(
    ("options", "side", "replayed"),
    [
        ({}, PLAIN, True),
        ({"deadline_seconds": 60.0}, PLAIN, False),
        ({}, Looks(), False),
    ],
)
def test_what_looks_at_every_step_is_not_replayed(
    options: dict[str, Any], side: ClientSide, replayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    trainer = LocalTrainer(model, ClientConfig(batch_size=4, **options), AUGMENT, replays=True)
    drawn = []
    monkeypatch.setattr(LocalTrainer, "_hold", lambda self, *_: drawn.append(True))
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    trainer.train(
        images,
        torch.zeros(9, dtype=torch.int64),
        plan=ClientPlan(epochs=1, batch_size=4),
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(0),
        progress=Progress(),
        side=side,
    )
    assert bool(drawn) is replayed
