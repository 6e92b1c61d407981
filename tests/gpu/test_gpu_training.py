"""Training on a CUDA device: replayed steps against eager ones, and central training."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedfmd.central.trainer import CentralTrainer
from fedfmd.central.world import World
from fedfmd.config.experiment import parse_config
from fedfmd.config.sections.client import ClientConfig
from fedfmd.data.augment import Augment
from fedfmd.data.dataset import Dataset
from fedfmd.nn.networks import build_model
from fedfmd.nn.vector import bind
from fedfmd.training.local import LocalTrainer
from fedfmd.wire.plan import ClientPlan, Progress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def images_of(client: int, count: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(client)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return images, torch.randint(0, 10, (count,), generator=rng)


def trained(conv: str, *, device: str, replays: bool, **options: Any) -> tuple[Tensor, list[float]]:
    """Train two clients of different sizes, each from the start; gives the last update, and the losses."""
    torch.manual_seed(0)
    model = build_model("resnet8", conv=conv, num_classes=10, kernels=4).to(device)
    vector = bind(model)
    start = vector.clone()
    config = ClientConfig(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.01} | options)
    trainer = LocalTrainer(model, config, Augment(mean=(0.5,) * 3, std=(0.2,) * 3), replays=replays)
    losses = []
    for client, count in enumerate((40, 70)):
        vector.copy_(start)
        progress = Progress()
        trainer.train(
            *images_of(client, count),
            plan=ClientPlan(epochs=2, batch_size=16),
            learning_rate=0.01,
            generator=torch.Generator().manual_seed(client),
            progress=progress,
        )
        losses.append(progress.mean_loss)
    return (vector - start).double().cpu(), losses


@pytest.mark.parametrize("conv", ["static", "fmdconv", "odconv"])
@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"clip_norm": 1.0}], ids=str)
def test_replayed_steps_are_eager_steps(conv: str, options: dict[str, Any]) -> None:
    eager, losses = trained(conv, device="cuda", replays=False, **options)
    replayed, repeated = trained(conv, device="cuda", replays=True, **options)
    assert repeated == pytest.approx(losses, rel=1e-3)
    # Sums in any order, and AdamW's sign of small gradients; another batch would be far beyond.
    assert ((replayed - eager).norm() / eager.norm()).item() < 0.2


def test_a_client_learns_what_it_learns_on_the_cpu() -> None:
    here, losses = trained("fmdconv", device="cpu", replays=False)
    there, repeated = trained("fmdconv", device="cuda", replays=True)
    assert repeated == pytest.approx(losses, rel=1e-2)
    assert torch.cosine_similarity(here, there, dim=0) > 0.98


@pytest.mark.parametrize("recipe", [{}, {"precision": "bf16", "channels_last": True}], ids=["fp32", "bf16"])
@pytest.mark.parametrize("conv", ["static", "fmdconv", "odconv"])
def test_central_training_takes_two_steps_on_the_device(conv: str, recipe: dict[str, Any]) -> None:
    images, labels = (part.numpy() for part in images_of(0, 64))
    dataset = Dataset(
        name="random",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        classes=tuple("abcdefghij"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        input_shape=(3, 32, 32),
    )
    config = parse_config(
        {
            "name": "two-steps",
            "model": {"name": "resnet8", "conv": conv, "norm": "bn"},
            "train": {"batch_size": 32, "learning_rate": 0.01, **recipe},
        }
    )
    assert config.train is not None
    trainer = CentralTrainer(config, config.train, dataset, torch.device("cuda"), World())
    before = torch.cat([p.detach().flatten() for p in trainer.parameters])
    result = trainer.train_epoch(1, lambda *_: None)
    found, _ = trainer.evaluate(1)
    assert (result.steps, result.samples, found.examples) == (2, 64, 64)
    assert trainer.pictures.images.is_cuda
    assert 1.0 < result.loss < 5.0
    after = torch.cat([p.detach().flatten() for p in trainer.parameters])
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    assert trainer.state()[1]["steps"].item() == 2
