"""The network, and the temperatures of its attentions."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedfmd import registry
from fedfmd.config.conditions import (
    Condition,
    Needs,
    OnlyIf,
    absent,
    at_most,
    none_of,
    one_of,
    states,
    takes,
    value_of,
)
from fedfmd.config.parts import Named
from fedfmd.config.sections.switches import DYNAMIC, LAYERED
from fedfmd.config.values import HERE, Count, Rate, Repeats, Section, Whole

ModelName = Annotated[str, Named("network")]
"""Networks: depths and families of the ResNet, a small CNN, and what is registered."""
ConvName = Annotated[str, Named("conv")]
"""Convolutions inside the residual blocks."""
NormName = Annotated[str, Named("norm")]
"""GroupNorm, BatchNorm, LayerNorm; BatchNorm frozen later, and BatchNorm that stays with its client."""


def _whole_either_way(value: float) -> float:
    """Return a ratio of whole numbers, one of which is 1; raises ``ValueError`` for another."""
    larger = max(value, 1 / value)
    if abs(larger - round(larger)) > 1e-9:
        raise ValueError("must be a whole number, or one over it")
    return value


Ratio = Annotated[float, Field(ge=1 / 16, le=16), AfterValidator(_whole_either_way)]
PartRatio = Annotated[float, Field(ge=1 / 16, le=1), AfterValidator(_whole_either_way)]
TEMPERED = LAYERED & states(
    "model.conv", "tempered", "model.tempered", "dyconv", "odconv", "fmdconv", "kernelwarehouse"
)
DIVIDED = LAYERED & states("model.conv", "tempered", "model.divided", "dyconv", "odconv", "fmdconv")
CELLS = LAYERED & takes("model.conv", "conv", "cell_num_ratio")
NORMED = takes("model.name", "network", "norm")
FREEZABLE = NORMED & states("model.norm", "freezes", "model.freezes", "fixbn")
THAWS_IN_TIME = Condition(
    "at most server.rounds",
    ("server.rounds",),
    lambda c: (value_of(c, "model.freeze_round") or 0) <= value_of(c, "server.rounds"),
)
ANNEALED = none_of("temperature.mode", "fixed")
STARTS_ABOVE_END = Condition(
    "at least temperature.end, where it is annealed",
    ("temperature.end", "temperature.mode", "model.conv"),
    lambda c: (
        not (ANNEALED.holds(c) and TEMPERED.holds(c))
        or value_of(c, "temperature.start") >= value_of(c, "temperature.end")
    ),
)


class ModelConfig(Section):
    """The network; the convolution and the norms are its arguments."""

    name: ModelName = "resnet8"
    """A ResNet by depth and family (`preresnet12` is the pre-activation one that HeteroFL calls ResNet-18),
    `cnn`, the small network of NIID-Bench, or `MODULE:NAME` of what returns a network."""
    conv: Annotated[ConvName, OnlyIf(LAYERED)] = "fmdconv"
    """The convolution inside the residual blocks: `static`; `condconv`, `dyconv`, `odconv`, `fmdconv`, which
    mix kernels; `kernelwarehouse`, which assembles them from cells that layers share; `se`, static ones with
    squeeze-and-excitation at the end of each residual branch; or `MODULE:NAME` of another."""
    width: Annotated[
        Annotated[float, Field(ge=0.01, le=8)], OnlyIf(takes("model.name", "network", "width"))
    ] = 1.0
    """Multiplier of all channel counts."""
    kernels: Annotated[Whole, Field(ge=1, le=64), OnlyIf(DYNAMIC)] = 4
    """K, the number of kernels a dynamic convolution mixes."""
    norm: Annotated[NormName, OnlyIf(NORMED)] = "gn"
    """Norm of the backbone, or `MODULE:NAME` of another; `gn` is the choice
    for federated runs, `bn` for the paper's tables.

    `fedbn` keeps these layers on their clients, so the global model lacks them: measure it on the clients
    (`evaluation.clients`).
    """
    freeze_round: Annotated[Repeats | None, OnlyIf(FREEZABLE), Needs(THAWS_IN_TIME)] = None
    """`fixbn`: from this round on the statistics of BatchNorm stay as they are."""
    attention_norm: Annotated[
        Literal["ln", "bn", "none"], OnlyIf(LAYERED & takes("model.conv", "conv", "attention_norm"))
    ] = "ln"
    """Norm inside the attention branch; `bn` is the paper's and needs batches of two or more."""
    cell_num_ratio: Annotated[Ratio, OnlyIf(CELLS)] = 1.0
    """KernelWarehouse: cells of a warehouse to the places in kernels that are assembled of them. The paper's
    1x is 1, with both ratios below; its 2x is 2, 1, 1, and its 1/2x is 0.5, 0.5, 0.5."""
    cell_inplane_ratio: Annotated[PartRatio, OnlyIf(CELLS)] = 1.0
    """Input channels of a cell to those that the layers of a warehouse have in common."""
    cell_outplane_ratio: Annotated[PartRatio, OnlyIf(CELLS)] = 1.0
    """The same of output channels."""
    stem: Annotated[Literal["cifar", "imagenet"], OnlyIf(takes("model.name", "network", "stem"))] = "cifar"
    """3x3 stride-1 stem without pooling, or 7x7 stride-2 stem with max-pool."""
    init: Annotated[str | None, HERE] = None
    """File to begin from: a model file or run directory of ours, or a checkpoint of the authors' code
    (`.pth`, `.pt`, `.tar`). What does not fit, by name and shape, is said and keeps its initial weights."""
    outputs: Count | None = None
    """Outputs of the classifier, at least one per class; as many as there are classes when absent."""
    exits: Annotated[bool, OnlyIf(takes("model.name", "network", "exits"))] = False
    """Give every stage a classifier of its own (DepthFL); clients can then hold the first stages only. The
    model is measured as the ensemble of its classifiers, the mean of their logits."""

    @property
    def layer(self) -> str:
        """The convolution, `static` in a network that takes none by name."""
        return self.conv if registry.takes("network", self.name, "conv") else "static"

    @property
    def dynamic(self) -> bool:
        """Whether the convolution mixes kernels."""
        return bool(registry.fact("conv", self.layer, "dynamic", False))

    @property
    def tempered(self) -> bool:
        """Whether the convolution has attentions with temperatures."""
        return bool(registry.fact("conv", self.layer, "tempered", False))

    @property
    def divided(self) -> bool:
        """Whether temperatures divide the logits of its attentions, and are no share of an assignment."""
        return self.tempered and not registry.fact("conv", self.layer, "assigns", False)

    @property
    def shares(self) -> bool:
        """Whether its layers share their elements with others."""
        return registry.fact("conv", self.layer, "share") is not None

    @property
    def attention_needs_pairs(self) -> bool:
        """Whether no batch of one can be trained: the attention's BatchNorm sees one value per channel."""
        smallest_batch = registry.fact("conv", self.layer, "smallest_batch")
        return smallest_batch is not None and smallest_batch(attention_norm=self.attention_norm) > 1

    @property
    def norm_needs_pairs(self) -> bool:
        """Whether the norm of the backbone makes nothing of a batch of one."""
        return self._norm_states("over_batch")

    @property
    def keeps_norms(self) -> bool:
        """Whether the norms of the backbone stay on their clients."""
        return self._norm_states("local")

    @property
    def freezes(self) -> bool:
        """Whether the norm of the backbone has statistics to fix."""
        return self._norm_states("freezes")

    def _norm_states(self, fact: str) -> bool:
        takes = registry.takes("network", self.name, "norm")
        return takes and bool(registry.fact("norm", self.norm, fact, False))

    @property
    def stages(self) -> int:
        """Parts one after another of which a client can hold the first ones."""
        return int(registry.fact("network", self.name, "stages", 1))

    @property
    def slices(self) -> frozenset[str]:
        """Along which axes clients may hold a part of the network: `width`, `kernels`, `depth`."""
        if self.shares:
            return frozenset()
        network = registry.fact("network", self.name, "slices", frozenset())
        layer = registry.fact("conv", self.layer, "slices", frozenset())
        return frozenset(axis for axis in network if axis == "depth" or axis in layer)


class TemperatureConfig(Section):
    """Temperatures of the attentions: a pure function of the round, owned by the server."""

    mode: Literal["both", "kernel_only", "sigmoid_only", "fixed"] = "both"
    """What is annealed: softmax over kernels, sigmoids, both or neither; see `fedfmd.nn.temperature`. With
    `sigmoid_only` and `fixed` KernelWarehouse has no assignment of cells, tau = 0."""
    curve: Annotated[Literal["step", "linear"], OnlyIf(ANNEALED & DIVIDED)] = "step"
    """`step`: down in stairs of `step` (DyConv's); `linear`: evenly (ODConv's)."""
    start: Annotated[Rate, OnlyIf(ANNEALED & DIVIDED), Needs(STARTS_ABOVE_END)] = 34.0
    """Temperature of the first round."""
    end: Annotated[
        Rate,
        OnlyIf(ANNEALED & DIVIDED),
        Needs(at_most("temperature.end", "temperature.start")),
    ] = 1.0
    """Temperature that the annealing ends at."""
    step: Annotated[Rate, OnlyIf(ANNEALED & one_of("temperature.curve", "step") & DIVIDED)] = 3.0
    """Height of a stair of the `step` curve."""
    anneal_rounds: Annotated[
        Repeats | None, OnlyIf(ANNEALED), Needs(absent("temperature.anneal_fraction"))
    ] = None
    """Rounds (epochs of `fedfmd train`) until `end`. Without this and `anneal_fraction`, `step` descends one
    stair per round, `linear` takes a tenth of `server.horizon`, and KernelWarehouse's tau, which falls evenly
    from 1 to 0, takes 20 rounds, or all if there are fewer."""
    anneal_fraction: Annotated[Annotated[float, Field(gt=0, le=1)] | None, OnlyIf(ANNEALED)] = None
    """The same as a share of `server.horizon` (of `train.epochs`): a schedule that scales with the run."""
    held: Annotated[Rate, OnlyIf(one_of("temperature.mode", "sigmoid_only", "fixed") & DIVIDED)] = 34.0
    """Temperature of a softmax that `mode` does not anneal; sigmoids that it does not anneal have 1."""
