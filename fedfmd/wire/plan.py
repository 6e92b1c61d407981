"""What a client is asked to do in a round: which part of the network, how much work; and what it has done."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.conventions import TRAINING_MACS_PER_FORWARD
from fedfmd.costs.macs import Macs
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.records.schema import Json


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """A client's part of the network and of the work; ``dataclasses.replace`` makes others of it."""

    share: Share = WHOLE
    """The part of the network."""
    epochs: int
    """Over the client's images."""
    batch_size: int
    steps: int | None = None
    """Most steps of the optimiser; null for all of the epochs."""
    why: str = ""
    """What decided."""

    def to_row(self, config: ExperimentConfig) -> Json:
        """Return the plan as it stands in a client's row."""
        share, all_kernels = self.share, config.model.kernels
        row = asdict(self) | {
            "width": share.width,
            "kernels": len(share.kernels) or all_kernels,
            "kernel_set": list(share.kernels),
            "depth": share.depth,
            "rotation": share.rotation,
        }
        del row["share"]
        return {name: value for name, value in row.items() if value not in (None, "", [], 0)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any], steps: int) -> "ClientPlan":
        """Return the plan that a client's row tells of, with the ``steps`` that were done of it."""
        share = Share(
            width=row["width"],
            kernels=tuple(row.get("kernel_set", ())),
            depth=row.get("depth", 0),
            rotation=row.get("rotation", 0),
        )
        return cls(share=share, epochs=row["epochs"], batch_size=row["batch_size"], steps=steps)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "ClientPlan":
        """Read plain data."""
        return cls(**{**document, "share": Share.from_json(document["share"])})


def full_plan(config: ExperimentConfig) -> ClientPlan:
    """Return the plan of a client without limits: the whole network, all epochs."""
    return ClientPlan(epochs=config.client.epochs, batch_size=config.client.batch_size)


@dataclass
class Progress:
    """What a client's local training has done so far; it stays readable when the training fails."""

    steps: int = 0
    samples: int = 0
    """Samples that passed through the network, counted once an epoch."""
    macs: Macs = field(default_factory=Macs)
    """What they cost: forward, gradient by input and gradient by weight."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Of the losses of ``squared`` samples."""
    squared: int = 0
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the samples, in the order they were seen; null without samples."""
        return float(self.loss_sum) / self.samples if self.samples else None

    @property
    def loss_rms(self) -> float | None:
        """Root of the mean squared loss of the samples that were looked at one by one; null without any."""
        return float((self.squares_sum / self.squared).sqrt()) if self.squared else None

    def look(self, losses: Tensor) -> None:
        """Look at the losses of some samples, float32 (B,)."""
        self.squares_sum = self.squares_sum + losses.square().sum()
        self.squared += len(losses)

    def count(self, loss: Tensor, samples: int, forward: Macs) -> None:
        """Add a step on ``samples`` images, each of which costs ``forward``."""
        self.loss_sum = self.loss_sum + loss * samples
        self._add(1, samples, forward)

    def count_all(self, losses: Tensor, samples: Sequence[int], forward: Macs) -> None:
        """Add steps with their ``losses`` (steps,), each on so many ``samples``."""
        self.loss_sum = self.loss_sum + losses @ torch.tensor(samples, dtype=losses.dtype)
        self._add(len(samples), sum(samples), forward)

    def _add(self, steps: int, samples: int, forward: Macs) -> None:
        self.macs += forward * (TRAINING_MACS_PER_FORWARD * samples)
        self.steps += steps
        self.samples += samples
        self.seconds = time.perf_counter() - self.started
