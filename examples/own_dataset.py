"""Your own images: folders as for ImageNet, ``ROOT/train/CLASS/*.png`` and ``ROOT/val/CLASS/*.png``.

Here the images are drawn: stripes that lean one way or the other, and rings. Put your own into such
folders, and everything else stays as it is: partitions, budgets, reports.

    python examples/own_dataset.py
    python examples/own_dataset.py server.rounds=2
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import fedfmd

SIDE = 16
PATTERNS = {
    "rising": lambda x, y: np.sin(x + y),
    "falling": lambda x, y: np.sin(x - y),
    "rings": lambda x, y: np.sin(np.hypot(x, y)),
}


def draw(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Draw ``count`` noisy images of each class."""
    for name, pattern in PATTERNS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            x, y = np.meshgrid(*2 * [np.linspace(-9, 9, SIDE) * rng.uniform(0.8, 1.2)])
            waves = pattern(x + rng.normal(), y + rng.normal()) + rng.normal(0, 0.4, (SIDE, SIDE))
            grey = np.clip(128 + 60 * waves, 0, 255).astype(np.uint8)
            Image.fromarray(grey).convert("RGB").save(folder / name / f"{i}.png")


with tempfile.TemporaryDirectory() as root:
    rng = np.random.default_rng(0)
    draw(Path(root, "train"), 150, rng)
    draw(Path(root, "val"), 50, rng)
    document = {
        "name": "own-images",
        "data": {"name": "imagefolder", "root": root, "image_size": SIDE},
        "partition": {"clients": 10, "alpha": 0.5},
        "model": {"name": "resnet8", "width": 0.5},
        "client": {"batch_size": 16, "optimizer": "adamw", "learning_rate": 0.003, "augment": False},
        "server": {"rounds": 12, "cohort": 5},
        "backend": {"kind": "inline"},
    }
    result = fedfmd.simulate(document, overrides=sys.argv[1:])
print(f"{result.path}: top-1 {result.summary['final_top1']:.1%} (guessing: {1 / len(PATTERNS):.0%})")
