"""A client's training step beside a plain PyTorch loop: the small CNN of NIID-Bench, batches of CIFAR's size.

The loop has neither augmentation nor a bill, and its images are floats already. One thread, processor time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Row, interleaved, milliseconds, report
from torch import Tensor, nn

from fedfmd.config.sections.client import ClientConfig
from fedfmd.data.augment import Augment
from fedfmd.machine.process import prepare_process
from fedfmd.nn.cnn import SmallCNN
from fedfmd.nn.submodel import WHOLE
from fedfmd.nn.vector import bind
from fedfmd.training.local import LocalTrainer
from fedfmd.wire.plan import ClientPlan, Progress

STEPS = 10
RECIPE = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-5}


class PlainCNN(SmallCNN):
    """The same network in PyTorch's operations alone."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc(F.relu(self.fc2(x)))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write NAME.json and NAME.txt")
    arguments = parser.parse_args()
    prepare_process(1)
    samples = STEPS * arguments.batch
    images = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (samples,))
    runs = {
        "plain PyTorch loop": plain_loop(images.float() / 255, labels, arguments.batch),
        "fedfmd": local_training(images, labels, arguments.batch),
    }
    seconds = interleaved(runs, repeats=arguments.repeats)
    steps = {name: milliseconds([s / STEPS for s in taken]) for name, taken in seconds.items()}
    base = steps["plain PyTorch loop"]["median"]
    rows: list[Row] = [
        {
            "what": name,
            **{f"{key} ms": value for key, value in ms.items()},
            "ratio": round(ms["median"] / base, 2),
        }
        for name, ms in steps.items()
    ]
    report(f"One step of {arguments.batch} images", rows, arguments.json)


def plain_loop(images: Tensor, labels: Tensor, batch: int) -> Callable[[], None]:
    model: nn.Module = PlainCNN(num_classes=10)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=RECIPE["learning_rate"],
        momentum=RECIPE["momentum"],
        weight_decay=RECIPE["weight_decay"],
    )

    def run() -> None:
        for chosen in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()

    return run


def local_training(images: Tensor, labels: Tensor, batch: int) -> Callable[[], None]:
    model = SmallCNN(num_classes=10)
    bind(model)
    config = ClientConfig(epochs=1, batch_size=batch, **RECIPE)
    trainer = LocalTrainer(model, config, Augment(mean=(0.5,) * 3, std=(0.2,) * 3))
    plan = ClientPlan(share=WHOLE, epochs=1, steps=STEPS, batch_size=batch)
    generator = torch.Generator()

    def run() -> None:
        trainer.train(
            images,
            labels,
            plan=plan,
            learning_rate=config.learning_rate,
            generator=generator,
            progress=Progress(),
        )

    return run


if __name__ == "__main__":
    main()
