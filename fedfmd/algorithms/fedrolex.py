"""FedRolex (Alam et al. 2022, "Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction").

A narrow client's channels are a window that starts at channel round - 1, modulo the layer's channels, and
wraps round; each element's mean is over its holders, of the classifier's rows over those that have the label
(``fedfmd.algorithms.label_rows``). Switched on by ``policy.width_mode = "rolling"``.
"""

from dataclasses import replace

from fedfmd.algorithms.base import Algorithm
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.submodel import Share


class FedRolex(Algorithm):
    """Move the window of channels by one per round."""

    name = "fedrolex"
    switch = 'policy.width_mode = "rolling"'

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether the window moves."""
        return config.policy.width_mode == "rolling"

    def share(self, share: Share, round: int) -> Share:
        """Return the window of the round; the full width has none."""
        return replace(share, rotation=round - 1) if share.width < 1 else share
