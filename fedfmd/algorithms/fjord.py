"""FjORD (Horvath et al. 2021, "Fair and Accurate Federated Learning with Ordered Dropout").

A client of width p_max draws a width p <= p_max of ``policy.widths`` at every step, uniformly, and trains the
first channels as a network of that width. Each element's mean is over its holders. Switched on by
``policy.width_mode = "ordered"``. Not here: self-distillation, and norm statistics per width (the norms are
``gn`` or ``ln``, which have none).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedfmd.algorithms.base import Algorithm, Parts, Trained
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.macs import Macs
from fedfmd.nn.submodel import Share


class FjORD(Algorithm):
    """Train nested prefixes of the channels."""

    name = "fjord"

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether widths are drawn per step."""
        return config.policy.kind in ("width", "auto") and config.policy.width_mode == "ordered"

    def network(self, network: Trained, share: Share, parts: Parts) -> Trained:
        """Let every step draw its width."""
        shares = {w: replace(share, width=w) for w in self.config.policy.widths if w <= share.width}
        narrower = {width: parts.build_part(s).to("meta") for width, s in shares.items()}
        macs = {width: parts.part(s).cost.macs_by_kind for width, s in shares.items()}
        forward = OrderedDropout(network.model, narrower, macs)
        return replace(network, forward=forward, variants=tuple(narrower.values()))


class OrderedDropout:
    """Draws a width, the widest of which is the model's own, and runs the network of that width."""

    def __init__(self, model: nn.Module, narrower: Mapping[float, nn.Module], macs: Mapping[float, Macs]):
        self.model, self.macs = model, macs
        self.nested = NestedWidths(model, narrower)
        self.widths = sorted(narrower, reverse=True)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Macs]:
        """Return the logits at the drawn width, and what one image costs there."""
        width = self.widths[int(torch.randint(len(self.widths), (), generator=generator))]
        logits = self.model(inputs) if width == self.widths[0] else self.nested(width, inputs)
        return logits, self.macs[width]


class NestedWidths:
    """Runs the first channels of a network as a network.

    ``narrower`` maps widths, as shares of the global network's, to networks of that width; they may be on
    ``meta``, since only their structure is used. Gradients arrive in the wide network's parameters, and
    are zero beyond the prefix.
    """

    def __init__(self, model: nn.Module, narrower: Mapping[float, nn.Module]):
        self.model = model
        self.narrower = narrower

    def __call__(self, width: float, x: Tensor) -> Tensor:
        """Run images (B, C, H, W) at one width: the logits of that network."""
        network = self.narrower[width]
        network.train(self.model.training)
        own = dict(self.model.named_parameters())
        cut = {n: own[n][tuple(map(slice, p.shape))] for n, p in network.named_parameters()}
        logits: Tensor = torch.func.functional_call(network, cut, (x,))
        return logits
