"""FjORD (Horvath et al. 2021, "Fair and Accurate Federated Learning with Ordered Dropout").

A client of width p_max draws a width p <= p_max of ``policy.widths`` at every step, uniformly, and trains the
first channels as a network of that width. Each element is averaged over its holders. BatchNorm has statistics
of its own for each width, and one scale and shift (``fedfmd.nn.part_norm``). With
``client.self_distillation`` every step trains the client's widest network on the labels, and the drawn one on
what the widest predicts: cross entropy with its softmax, which is held fixed. Switched on by
``policy.width_mode = "ordered"``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedfmd.algorithms.base import Algorithm, ClientSide, PartSource, Trained, Visit
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.macs import Macs
from fedfmd.nn.norm import BatchNorm
from fedfmd.nn.part_norm import norms_per_width, plain_names
from fedfmd.nn.submodel import Share


class FjORD(Algorithm):
    """Train nested prefixes of the channels."""

    name = "fjord"
    switch = 'policy.width_mode = "ordered"'

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether widths are drawn per step."""
        return config.policy.kind in ("width", "auto") and config.policy.width_mode == "ordered"

    def allows(self) -> Iterator[str]:
        """Yield what does not go with it."""
        config = self.config
        if self.distils and config.model.exits:
            yield "client.self_distillation = true: not with model.exits, whose classifiers are other outputs"
        if self.per_width and 1.0 not in config.policy.widths:
            yield "policy.widths: needs 1.0 with BatchNorm, or nobody has the whole network's statistics"
        if self.per_width and config.evaluation.static_norms:
            yield "evaluation.static_norms = true: statistics are each width's own"

    @property
    def distils(self) -> bool:
        """Whether the widest network teaches the drawn one."""
        return self.config.client.self_distillation

    @property
    def per_width(self) -> bool:
        """Whether norms have statistics of their own for each width."""
        return self.config.model.norm_needs_pairs

    @property
    def passes(self) -> int:
        """Count two, of the widest network and of the drawn one, where the one teaches the other."""
        return 2 if self.distils else 1

    def structure(self, model: nn.Module, share: Share, parts: PartSource) -> None:
        """Give every BatchNorm statistics for each width up to the share's."""
        if not self.per_width:
            return
        widths = {share.width, *(w for w in self.config.policy.widths if w <= share.width)}
        channels: dict[float, dict[str, int]] = {}
        for width in sorted(widths):
            bare = parts.bare_outline(replace(share, width=width))
            found = ((n, m) for n, m in bare.named_modules() if isinstance(m, BatchNorm))
            channels[width] = {name: module.num_features for name, module in found}
        norms_per_width(model, channels)

    def exported(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole network's statistics by the names that they have in a plain one."""
        return plain_names(state, 1.0) if self.per_width else dict(state)

    def network(self, network: Trained, share: Share, parts: PartSource) -> Trained:
        """Let every step draw its width."""
        shares = {w: replace(share, width=w) for w in self.config.policy.widths if w <= share.width}
        narrower = {width: parts.build_part(s).to("meta") for width, s in shares.items()}
        macs = {width: parts.part(s).cost.macs_by_kind for width, s in shares.items()}
        forward = OrderedDropout(network.model, narrower, macs, distils=self.distils)
        return replace(network, forward=forward, variants=tuple(narrower.values()))

    def client(self, visit: Visit) -> ClientSide:
        """Let the widest network teach."""
        del visit
        return Taught() if self.distils else ClientSide()


class Taught(ClientSide):
    """A client whose drawn network learns from its widest one."""

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of ``logits`` (1 or 2, B, classes): of the widest network, and of the drawn one."""
        del loss
        widest = cross_entropy(logits[0], labels)
        if len(logits) == 1:
            return widest
        return widest + cross_entropy(logits[1], logits[0].detach().softmax(1))


class OrderedDropout:
    """Draws a width, the widest of which is the model's own, and runs the network of that width."""

    def __init__(
        self,
        model: nn.Module,
        narrower: Mapping[float, nn.Module],
        macs: Mapping[float, Macs],
        *,
        distils: bool = False,
    ):
        self.model, self.macs, self.distils = model, macs, distils
        self.nested = NestedWidths(model, narrower)
        self.widths = sorted(narrower, reverse=True)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Macs]:
        """Return the logits at the drawn width, and what one image costs there.

        Where the widest network teaches, those of both, (1 or 2, B, classes), once where they are the same.
        """
        width = self.widths[int(torch.randint(len(self.widths), (), generator=generator))]
        widest = width == self.widths[0]
        if not self.distils:
            return self.model(inputs) if widest else self.nested(width, inputs), self.macs[width]
        logits = [self.model(inputs), *([] if widest else [self.nested(width, inputs)])]
        cost = self.macs[self.widths[0]]
        return torch.stack(logits), cost if widest else cost + self.macs[width]


class NestedWidths:
    """Runs the first channels of a network as a network.

    ``narrower`` maps widths, as shares of the global network's, to networks of that width; they may be on
    ``meta``, since only their structure is used. Gradients arrive in the wide network's parameters, and
    are zero beyond the prefix; statistics of the width in its buffers.
    """

    def __init__(self, model: nn.Module, narrower: Mapping[float, nn.Module]):
        self.model = model
        self.narrower = narrower

    def __call__(self, width: float, x: Tensor) -> Tensor:
        """Run images (B, C, H, W) at one width: the logits of that network."""
        network = self.narrower[width]
        network.train(self.model.training)
        own, kept = dict(self.model.named_parameters()), dict(self.model.named_buffers())
        cut = {n: own[n][tuple(map(slice, p.shape))] for n, p in network.named_parameters()}
        cut |= {name: kept[name] for name, _ in network.named_buffers()}
        logits: Tensor = torch.func.functional_call(network, cut, (x,))
        return logits
