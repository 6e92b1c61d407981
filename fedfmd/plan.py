"""What a client is asked to do in a round: which part of the network, and how much work."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedfmd.accounting import Json
from fedfmd.config import ExperimentConfig
from fedfmd.submodel import WHOLE, Share


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """A client's part of the network and of the work."""

    share: Share = WHOLE
    epochs: int
    batch_size: int
    steps: int | None = None
    """Most steps of the optimiser; null for all of the epochs."""
    why: str = ""
    """What decided."""

    def to_row(self, config: ExperimentConfig) -> Json:
        """Give the plan as it stands in a client's row."""
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
    def from_json(cls, document: Mapping[str, Any]) -> "ClientPlan":
        """Read plain data."""
        return cls(**{**document, "share": Share.from_json(document["share"])})


def full_plan(config: ExperimentConfig) -> ClientPlan:
    """Give the plan of a client without limits: the whole network, all epochs."""
    return ClientPlan(epochs=config.client.epochs, batch_size=config.client.batch_size)
