"""The sections of an experiment's config: every key with its type, range, default and unit.

``fedfmd.config.experiment`` puts them together and says what is wrong with a document.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fedfmd import registry
from fedfmd.config.conditions import (
    Condition,
    Needs,
    OnlyIf,
    above,
    absent,
    at_most,
    fails,
    given,
    holds,
    none_of,
    one_of,
    takes,
    value_of,
)
from fedfmd.config.parts import Named, NamedList

DatasetName = Annotated[str, Named("data")]
"""Sets of images."""
ModelName = Annotated[str, Named("network")]
"""Networks: depths and families of the ResNet, a small CNN, and what is registered."""
ConvName = Annotated[str, Named("conv")]
"""Convolutions inside the residual blocks."""
NormName = Annotated[str, Named("norm")]
"""GroupNorm, BatchNorm, LayerNorm; BatchNorm frozen later, and BatchNorm that stays with its client."""
ClientModel = Literal["global", "affordable", "finetuned", "local"]
"""What clients measure on their own images."""
StrategyName = Annotated[str, Named("strategy")]
"""Server optimisers."""
SchemeName = Annotated[str, Named("partition")]
"""Ways to spread the training images over the clients."""
PolicyName = Annotated[str, Named("policy")]
"""Ways to keep a client's plan within its budget."""
OptimizerName = Annotated[str, Named("optimizer")]
"""Clients' optimisers."""
CompressionName = Annotated[str, Named("compression")]
"""What updates become before they are sent."""
SelectionName = Annotated[str, Named("selection")]
"""Ways to draw a round's clients."""
Control = Literal["none", "exclude-weak", "smallest", "full", "static-equal-macs", "static-equal-parameters"]
"""Comparisons that an experiment is turned into."""
FaultKind = Literal[
    "raise",
    "kill",
    "hang",
    "nan",
    "shape",
    "zero",
    "absurd",
    "duplicate",
    "leave-keys",
    "leave-shares",
    "leave-unmasking",
]
"""What a client does wrong."""


def _over(axis: str, *built_in: str) -> Condition:
    """Return the condition that the policy chooses along an axis."""
    named = one_of("policy.kind", *built_in).words
    return Condition(named, ("policy.kind",), lambda config: axis in value_of(config, "policy.axes"))


def _unless(free: Callable[[Any], bool], condition: Condition) -> Condition:
    """Return a condition that also holds where a config is free of it."""
    return replace(
        condition,
        holds=lambda config: free(config) or condition.holds(config),
        parts=tuple(_unless(free, part) for part in condition.parts),
    )


def _if_over(condition: Condition, *axes: str) -> Condition:
    """Return what holds wherever the policy chooses along none of the axes."""
    return _unless(lambda config: not value_of(config, "policy.axes") & {*axes}, condition)


def _because(condition: Condition, why: str) -> Condition:
    """Return the condition with its reason in words."""
    return replace(condition, words=f"{condition.words}, {why}")


def _optimizer_takes(option: str) -> Condition:
    """Return the condition that the clients' optimiser has an argument; those built in read the config."""
    named = takes("client.optimizer", "optimizer", option)
    read = takes("client.optimizer", "optimizer", "config")
    return replace(named, holds=lambda config: named.holds(config) or read.holds(config))


def _once(names: list[str]) -> bool:
    return len(set(names)) == len(names)


def _whole(value: Any) -> Any:
    """Turn a float without a fraction into an integer: TOML writes 20e9 for a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_either_way(value: float) -> float:
    """Return a ratio of whole numbers, one of which is 1; raises ``ValueError`` for another."""
    larger = max(value, 1 / value)
    if abs(larger - round(larger)) > 1e-9:
        raise ValueError("must be a whole number, or one over it")
    return value


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LONGEST_NAME = 100
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
"""What a folder may be called after: a name, never a path."""
HERE = "a file or folder on the machine that reads the config"
CARD = "such a file if it ends in .toml, and else a name"
"""Marks keys that name what a program opens; a real client refuses any that its server sets."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer, which may be written as 1e9."""
Count = Annotated[Whole, Field(ge=1, le=10**18)]
Repeats = Annotated[Whole, Field(ge=1, le=10**6)]
"""How often something is done."""
Population = Annotated[Whole, Field(ge=1, le=10**7)]
"""Clients, or samples of a client: memory is proportional to it."""
Samples = Annotated[Whole, Field(ge=1, le=10**8)]
Places = Annotated[Whole, Field(ge=1, le=1024)]
"""Processes or threads."""
LARGEST = 1e30
"""Of a number without another limit: a row of a ledger, which may repeat it, holds as much."""
Rate = Annotated[float, Field(gt=0, le=LARGEST)]
Physical = Annotated[float, Field(ge=1e-9, le=1e18)]
"""A speed or a share: within what sums and quotients can hold."""
Seconds = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Sigma = Annotated[float, Field(ge=0, le=5)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(ge=1 / 16, le=16), AfterValidator(_whole_either_way)]
PartRatio = Annotated[float, Field(ge=1 / 16, le=1), AfterValidator(_whole_either_way)]
Share = Annotated[float, Field(ge=0, le=1)]
BudgetFraction = Annotated[float, Field(gt=0, le=1)]

OWNED = none_of("data.name", "embedded", "cifar10", "cifar100", "fashion-mnist")
DEVICES = none_of("devices.kind", "none")
LAYERED = takes("model.name", "network", "conv")
DYNAMIC = LAYERED & holds(
    "model.dynamic", "model.conv = 'condconv' or 'dyconv' or 'odconv' or 'fmdconv'", "model.conv"
)
ANNEALED = none_of("temperature.mode", "fixed")
OORT = one_of("selection.kind", "oort")
TIFL = Condition(
    one_of("selection.kind", "tifl").words,
    ("selection.kind",),
    lambda config: value_of(config, "selection.tiered"),
)
TEMPERED = LAYERED & holds(
    "model.tempered", "model.conv = 'dyconv' or 'odconv' or 'fmdconv' or 'kernelwarehouse'", "model.conv"
)
DIVIDED = LAYERED & holds("model.divided", "model.conv = 'dyconv' or 'odconv' or 'fmdconv'", "model.conv")
CELLS = LAYERED & takes("model.conv", "conv", "cell_num_ratio")
NORMED = takes("model.name", "network", "norm")
FREEZABLE = NORMED & holds("model.freezes", "model.norm = 'fixbn'", "model.norm")
SHARED_NORMS = fails("model.keeps_norms", "model.norm other than 'fedbn'", "model.norm")
STATISTICS_PER_WIDTH = Condition(
    "model.norm = 'gn' or 'ln' or 'bn'",
    ("model.norm",),
    lambda config: value_of(config, "model.norm") == "bn" or not value_of(config, "model.norm_needs_pairs"),
)
UNSHARED = _because(
    fails("model.shares", "model.conv other than 'kernelwarehouse'", "model.conv"),
    "whose layers share cells that no part of a layer has alone",
)
SLICED = Condition(
    "a model.name and a model.conv of which clients can hold a part",
    ("model.name", "model.conv"),
    lambda config: "width" in value_of(config, "model.slices"),
)
SYNCHRONOUS = one_of("server.mode", "sync")
TIMED = _unless(lambda config: not value_of(config, "selection.timed"), DEVICES & SYNCHRONOUS)
"""What a selection that looks at devices needs."""
WIDTHS = _over("width", "width", "smallest", "auto")
BUFFER_FITS = Condition(
    "server.buffer at most server.cohort (the clients at work)",
    ("server.buffer", "server.cohort"),
    lambda c: (
        value_of(c, "server.mode") == "sync" or value_of(c, "server.buffer") <= value_of(c, "server.cohort")
    ),
)
COMPLETED_FITS = Condition(
    "at most server.buffer where server.mode = 'buffered'",
    ("server.mode", "server.buffer"),
    lambda c: (
        value_of(c, "server.mode") == "sync"
        or value_of(c, "server.min_completed") <= value_of(c, "server.buffer")
    ),
)
GPU_SHARED = Condition(
    "backend.gpus_per_worker > 0 where backend.kind = 'ray'",
    ("backend.gpus_per_worker", "backend.kind"),
    lambda c: value_of(c, "backend.kind") == "inline" or value_of(c, "backend.gpus_per_worker") > 0,
)
KILLABLE = Condition(
    "backend.kind = 'ray' or backend.workers > 1 for the fault 'kill', which would end a run in one process",
    ("backend.kind", "backend.workers"),
    lambda c: value_of(c, "backend.apart") or "kill" not in value_of(c, "faults.possible"),
)
HANGING = Condition(
    "a fault 'hang' in faults.at or, with faults.probability > 0, in faults.kinds",
    ("faults.kinds", "faults.at", "faults.probability"),
    lambda c: "hang" in value_of(c, "faults.possible"),
)
PROXIMAL_SHRINKS = Condition(
    "client.learning_rate * client.proximal_mu below 1",
    ("client.learning_rate", "client.proximal_mu"),
    lambda c: value_of(c, "client.learning_rate") * value_of(c, "client.proximal_mu") < 1,
)
PAIRS_TO_NORMALISE = Condition(
    "2 or more with model.attention_norm = 'bn', which normalises over a batch; or attention_norm = 'ln'",
    ("model.attention_norm",),
    lambda c: value_of(c, "client.batch_size") > 1 or not value_of(c, "model.attention_needs_pairs"),
)
UNBUFFERED_ATTENTION = Condition(
    "model.attention_norm other than 'bn', whose running statistics have no narrower part",
    ("model.attention_norm", "model.conv"),
    lambda c: not value_of(c, "model.attention_needs_pairs"),
)
STARTS_ABOVE_END = Condition(
    "at least temperature.end, where it is annealed",
    ("temperature.end", "temperature.mode", "model.conv"),
    lambda c: (
        not (ANNEALED.holds(c) and TEMPERED.holds(c))
        or value_of(c, "temperature.start") >= value_of(c, "temperature.end")
    ),
)
WHOLE_MODELS = Condition(
    "clients that hold the whole model, for each element to have a value from each of them",
    ("policy.kind",),
    lambda c: not value_of(c, "parts"),
)
ENOUGH_FOR_KRUM = Condition(
    "server.cohort at least 2 server.hostile + 3",
    ("server.cohort", "server.hostile"),
    lambda c: value_of(c, "server.cohort") >= 2 * value_of(c, "server.hostile") + 3,
)
DRAWN = one_of("policy.rates", "drawn")
AS_MANY_AS_WIDTHS = Condition(
    "one for each of policy.widths",
    ("policy.widths",),
    lambda c: len(value_of(c, "policy.proportions")) == len(value_of(c, "policy.widths")),
)
MEASURED_EXIST = Condition(
    "at most partition.clients",
    ("evaluation.clients", "partition.clients"),
    lambda c: (
        not isinstance(value_of(c, "evaluation.clients"), int)
        or value_of(c, "evaluation.clients") <= value_of(c, "partition.clients")
    ),
)
DISTINCT = Condition(
    "each of evaluation.models once",
    ("evaluation.models",),
    lambda c: len(set(value_of(c, "evaluation.models"))) == len(value_of(c, "evaluation.models")),
)
ALONE_FROM_THE_SEED = Condition(
    "no model.init with 'local', which starts from the weights that the seed draws",
    ("model.init", "evaluation.models"),
    lambda c: value_of(c, "model.init") is None or "local" not in value_of(c, "evaluation.models"),
)
FINETUNES = Condition(
    "'finetuned' in evaluation.models",
    ("evaluation.models",),
    lambda c: "finetuned" in value_of(c, "evaluation.models"),
)
TRAINS_ALONE = Condition(
    "'local' in evaluation.models",
    ("evaluation.models",),
    lambda c: "local" in value_of(c, "evaluation.models"),
)
MEASURES = Condition(
    "clients that measure (evaluation.clients other than 0)",
    ("evaluation.clients",),
    lambda c: value_of(c, "measuring_clients") > 0,
)
COUNTS_EXAMPLES = Condition(
    "server.aggregation = 'mean': the others let all clients count alike",
    ("server.aggregation",),
    lambda c: value_of(c, "server.aggregation") == "mean" or value_of(c, "server.weighting") == "uniform",
)
THAWS_IN_TIME = Condition(
    "at most server.rounds",
    ("server.rounds",),
    lambda c: (value_of(c, "model.freeze_round") or 0) <= value_of(c, "server.rounds"),
)
FAULTS_TAKE_PLACE = Condition(
    "each round of faults.at at most server.rounds, and each client below partition.clients",
    ("server.rounds", "partition.clients"),
    lambda c: all(
        place.round <= value_of(c, "server.rounds") and place.client < value_of(c, "partition.clients")
        for place in value_of(c, "faults.at")
    ),
)
LOGGED_ONCE = Condition(
    "each logger once, in this list or by its own key",
    ("logging.tensorboard", "logging.wandb", "logging.mlflow"),
    lambda c: _once([*value_of(c, "logging.loggers"), *value_of(c, "logging.switched_on")]),
)
SECURE = one_of("privacy.secure", "secagg")
UNJUDGED = Condition(
    "a selection.kind that looks at no client's loss or accuracy",
    ("selection.kind", "selection.adapt_every"),
    lambda c: not value_of(c, "selection.judges"),
)
UNEXAMINED = Condition(
    "no client that measures by itself (evaluation.clients = 0)",
    ("evaluation.clients", "partition.holdout"),
    lambda c: not value_of(c, "measuring_clients"),
)
UNUSED_KERNELS = Condition(
    "policy.kernel_mode other than 'usage', which is told of each client's kernels",
    ("policy.kernel_mode",),
    lambda c: "kernels" not in value_of(c, "policy.axes") or value_of(c, "policy.kernel_mode") != "usage",
)
ROWS_OF_HOLDERS = Condition(
    "policy.classifier_rows = 'holders', since rows by label tell who has which",
    ("policy.classifier_rows",),
    lambda c: (
        value_of(c, "policy.kind") != "width"
        or value_of(c, "policy.width_mode") == "ordered"
        or value_of(c, "policy.classifier_rows") == "holders"
    ),
)
UNRESTATED_NORMS = fails(
    "restates_norms",
    "evaluation.static_norms = false, since clients tell what their images are to BatchNorm",
    "evaluation.static_norms",
    "model.norm",
)
ENOUGH_HOLDERS = Condition(
    "server.cohort at least privacy.min_holders",
    ("server.cohort", "privacy.min_holders"),
    lambda c: value_of(c, "server.cohort") >= value_of(c, "privacy.min_holders"),
)
SUMS_ALONE = (
    SYNCHRONOUS
    & one_of("compression.uplink", "none")
    & one_of("server.aggregation", "mean")
    & UNJUDGED
    & UNEXAMINED
    & UNUSED_KERNELS
    & ROWS_OF_HOLDERS
    & one_of("diagnostics.enabled", False)
    & UNRESTATED_NORMS
    & ENOUGH_HOLDERS
)
"""Where nothing is asked of the clients but one exact sum of their updates."""
PRIVATE = one_of("privacy.dp", "central")
UNPROTECTED = one_of("privacy.dp", "none")
WITHOUT_STATISTICS = Condition(
    "a model.norm that keeps nothing of the images, 'gn' or 'ln'",
    ("model.norm",),
    lambda c: (
        not any(value_of(c, f"model.{fact}") for fact in ("norm_needs_pairs", "keeps_norms", "freezes"))
    ),
)
DRAWN_BY_CHANCE = Condition(
    "selection.kind = 'uniform' or 'poisson', whose chances the accountant knows",
    ("selection.kind",),
    lambda c: value_of(c, "selection.kind") == "uniform" or value_of(c, "selection.independent"),
)
NOISE_GIVEN = Condition(
    "privacy.noise_multiplier or privacy.epsilon to be given",
    ("privacy.noise_multiplier", "privacy.epsilon"),
    lambda c: value_of(c, "privacy.noise_multiplier") is not None or value_of(c, "privacy.epsilon"),
)
NOISED = Condition(
    "privacy.noise_multiplier > 0",
    ("privacy.noise_multiplier",),
    lambda c: value_of(c, "privacy.noise_multiplier") != 0,
)
DELTA_BELOW_ONE_CLIENT = Condition(
    "less than 1 / partition.clients: else the data of one client in the open would do",
    ("partition.clients",),
    lambda c: (value_of(c, "privacy.delta") or 0) * value_of(c, "partition.clients") < 1,
)
PROTECTABLE = (
    NOISE_GIVEN
    & _because(one_of("server.weighting", "uniform"), "so that the clip bounds what a client counts for")
    & _because(above("partition.clients", 1), "one among whom to hide")
    & _because(SYNCHRONOUS, "as the accountant knows rounds of clients that are drawn together")
    & _because(one_of("server.aggregation", "mean"), "whose sum the noise is for")
    & DRAWN_BY_CHANCE
    & _because(one_of("selection.availability", False), "as who is there is not left to chance")
    & _because(one_of("selection.over_selection", 1.0), "as who is first is not left to chance")
    & _because(absent("selection.deadline_seconds"), "as who is late is not left to chance")
    & WHOLE_MODELS
    & WITHOUT_STATISTICS
    & UNBUFFERED_ATTENTION
    & _because(one_of("privacy.secure", "none"), "whose rounds are repeated when too few are left of them")
    & _because(one_of("client.scaffold", False), "whose controls the noise does not cover")
    & _because(one_of("server.normalisation", "none"), "as the steps of clients are in the open")
    & _because(one_of("compression.uplink", "none"), "which could take an update beyond its clip")
)
"""What differential privacy asks of the rest."""
WARM_UP_ENDS = Condition(
    "less than train.epochs",
    ("train.epochs",),
    lambda c: value_of(c, "train.warmup_epochs") < value_of(c, "train.epochs"),
)


class Section(BaseModel):
    """What all sections share: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """Which images, and where they are."""

    name: Annotated[DatasetName, Needs(given("data.image_size"), ("imagefolder",))] = "embedded"
    """`embedded` is drawn by a program and needs no download; `cifar10`, `cifar100`, `fashion-mnist`;
    `imagefolder` are folders of yours, `huggingface` any set that `datasets` loads (`options.data.source`),
    `MODULE:NAME` any `torch.utils.data.Dataset`, as `torchvision.datasets:MNIST`, and `packs` what each real
    client has packed of its own (`fedfmd data pack`; in deployments alone)."""
    root: Annotated[str, HERE, OnlyIf(none_of("data.name", "embedded", "packs"))] = "data"
    """Folder with the downloaded files (`fedfmd data fetch`); relative to where the command runs."""
    classes: Annotated[Literal[10, 100], OnlyIf(one_of("data.name", "embedded"))] = 10
    """Number of classes of the embedded set; the others know theirs."""
    image_size: Annotated[
        Annotated[Whole, Field(ge=8, le=512)] | None,
        OnlyIf(none_of("data.name", "embedded", "cifar10", "cifar100", "packs")),
    ] = None
    """Side of the images in pixels: for `imagefolder`, and for other sets whose images differ in size. 28 for
    `fashion-mnist` is its images as they are, in one channel, which are else padded to three of 32."""
    resized_crop: Annotated[Whole, Field(ge=8, le=512)] | None = None
    """Side in pixels of the network's input, made as usual for ImageNet: training images are random crops of
    8% to 100% of the area, resized; test images are resized by 256/224 of the side and cropped at the centre
    (224: RandomResizedCrop(224); Resize(256), CenterCrop(224)). Absent: images keep their size, and random
    crops are of images padded by 4."""
    train_samples: Samples | None = None
    """Use only this many training images (a seeded choice); all of them when absent."""
    test_samples: Samples | None = None
    """Use only this many test images; all of them when absent."""

    @property
    def known_classes(self) -> int | None:
        """How many classes the images have, where that is known before they are read."""
        if self.name == "embedded":
            return self.classes
        stated = registry.fact("data", self.name, "classes")  # how many, or their names
        if isinstance(stated, int):
            return stated
        return len(stated) if isinstance(stated, list | tuple) else None


class PartitionConfig(Section):
    """Who has what: how the training images are spread over the clients."""

    scheme: Annotated[SchemeName, Needs(OWNED, ("natural",))] = "dirichlet"
    """How label and quantity skew are drawn: `iid`, `dirichlet`, `label-dirichlet`, `shards`, `labels`,
    `quantity`, `sampled`, or `MODULE:NAME` of another scheme. `natural` draws nothing: the first level of the
    training folders are the clients, `train/CLIENT/CLASS/*`, or a column of a Hugging Face set
    (`options.data.client`), or each real client has its pack; under all others subfolders belong to their
    class."""
    clients: Population = 100
    """Number of clients in the population."""
    alpha: Annotated[Rate, OnlyIf(takes("partition.scheme", "partition", "alpha"))] = 0.5
    """Concentration of the Dirichlet schemes; smaller is more skewed."""
    min_size: Annotated[Population, OnlyIf(takes("partition.scheme", "partition", "min_size"))] = 10
    """Fewest samples a client may get under `dirichlet`."""
    self_balancing: Annotated[bool, OnlyIf(takes("partition.scheme", "partition", "self_balancing"))] = False
    """`dirichlet`: a client that has its share of samples gets no more of the next classes."""
    shards_per_client: Annotated[
        Population, OnlyIf(takes("partition.scheme", "partition", "shards_per_client"))
    ] = 2
    """`shards`: how many single-label shards a client holds."""
    labels_per_client: Annotated[
        Population, OnlyIf(takes("partition.scheme", "partition", "labels_per_client"))
    ] = 2
    """`labels`: how many labels a client holds."""
    samples_per_client: Annotated[
        Annotated[Whole, Field(ge=1, le=10**6)],
        OnlyIf(takes("partition.scheme", "partition", "samples_per_client")),
    ] = 50
    """`sampled`: how many samples each (virtual) client draws."""
    validation: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the training set that the server keeps to choose by, taken before clients get any.

    Best round and cost to a target need it: what chooses on the test set flatters what it reports there.
    """
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of each client's samples that it keeps for testing and never trains on: stratified over its
    labels, drawn by the seed, at least one. Where clients may share samples, as under `sampled`, it is drawn
    before they are dealt, so that no client trains on what another is tested on. `evaluation.clients` measure
    on it."""


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


class ClientConfig(Section):
    """Local training on a client."""

    epochs: Repeats = 1
    """Passes over the client's samples a round."""
    batch_size: Annotated[Repeats, Needs(PAIRS_TO_NORMALISE)] = 32
    """Samples a step."""
    optimizer: OptimizerName = "sgd"
    """Local optimiser: `sgd`, `adamw`, or `MODULE:NAME` of another, as `torch.optim:RMSprop`; its state does
    not outlive the round."""
    learning_rate: Rate = 0.05
    """Step size in round 1."""
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the step size from one round to the next."""
    learning_rate_milestones: list[Repeats] = []
    """Rounds after which the step size falls to `learning_rate_drop` of itself."""
    learning_rate_drop: Annotated[
        float, Field(gt=0, le=1), OnlyIf(given("client.learning_rate_milestones"))
    ] = 0.1
    """Factor at a milestone."""
    momentum: Annotated[Fraction, OnlyIf(_optimizer_takes("momentum"))] = 0.9
    """Momentum of `sgd`, first beta of `adamw`."""
    nesterov: Annotated[bool, Needs(one_of("client.optimizer", "sgd") & above("client.momentum", 0))] = False
    """Nesterov's form of the momentum."""
    weight_decay: Annotated[NonNegative, OnlyIf(_optimizer_takes("weight_decay"))] = 5e-4
    """L2 penalty (`sgd`) or decoupled decay (`adamw`)."""
    proximal_mu: NonNegative = 0.0
    """FedProx: weight of mu/2 * ||w - w_global||^2 in the local objective; 0 is FedAvg."""
    clip_norm: Rate | None = None
    """Largest L2 norm of a step's gradient; no clipping when absent."""
    augment: bool = True
    """Random crop (see `data.resized_crop`) and horizontal flip."""
    scaffold: bool = False
    """SCAFFOLD: correct each step by control variates."""
    scaffold_variant: Annotated[Literal["paper", "niid-bench"], OnlyIf(one_of("client.scaffold", True))] = (
        "paper"
    )
    """`paper`: the correction is in the gradient; needs plain SGD, and clients weigh the same. `niid-bench`:
    it comes after a step with momentum, and clients weigh by examples (the benchmark's published tables)."""
    masked_loss: bool = False
    """HeteroFL: the cross entropy sees only the classes that the client has."""
    scaler: Annotated[bool, OnlyIf(WIDTHS & none_of("policy.width_mode", "ordered"))] = True
    """HeteroFL: a client of width r divides its activations by r while it trains."""
    self_distillation: Annotated[
        bool, OnlyIf(one_of("policy.kind", "width", "auto") & one_of("policy.width_mode", "ordered"))
    ] = False
    """FjORD: each step trains the client's widest network, and the drawn one on what that predicts; at up to
    twice the cost."""
    distillation: Annotated[NonNegative, OnlyIf(one_of("model.exits", True))] = 1.0
    """DepthFL: weight of the classifiers' learning from each other, where `model.exits` is on."""
    distillation_rampup: Annotated[Share, OnlyIf(one_of("model.exits", True))] = 0.3
    """DepthFL: share of `server.horizon` over which `distillation` ramps up; 0 is at once."""
    deadline_seconds: Seconds | None = None
    """A client that has not finished by then, on the host's clock, is dropped; never when absent."""

    def rate(self, round: int) -> float:
        """Step size in a round, the first of which is 1."""
        passed = sum(round > milestone for milestone in self.learning_rate_milestones)
        return self.learning_rate * self.learning_rate_decay ** (round - 1) * self.learning_rate_drop**passed

    @property
    def sgd_momentum(self) -> float:
        """Momentum of plain SGD; 0 for other optimisers."""
        return self.momentum if self.optimizer == "sgd" else 0.0


class ServerConfig(Section):
    """The federated loop and what the server does with the mean update."""

    rounds: Repeats = 10
    """Rounds of training."""
    horizon: Repeats | None = None
    """Rounds that schedules given as a share refer to; `rounds` of the first start when absent, and recorded
    in the run, so that more rounds later leave the schedules as they were."""
    cohort: Annotated[Population, Needs(at_most("server.cohort", "partition.clients"))] = 10
    """Clients per round, drawn without replacement by the seed."""
    strategy: StrategyName = "fedavg"
    """How the mean update moves the global model: `fedavg`, `fedavgm`, `fedadam`, `fedyogi` (Reddi et al.
    2021), or `MODULE:NAME` of another server optimiser."""
    learning_rate: Annotated[Rate | None, OnlyIf(takes("server.strategy", "strategy", "learning_rate"))] = (
        None
    )
    """Server step size; when absent 1, FedAvg's plain averaging, and 0.01 for `fedadam` and `fedyogi`."""
    momentum: Annotated[Fraction, OnlyIf(takes("server.strategy", "strategy", "momentum"))] = 0.9
    """`fedavgm`'s momentum and the first beta of `fedadam` and `fedyogi`."""
    beta2: Annotated[Fraction, OnlyIf(takes("server.strategy", "strategy", "beta2"))] = 0.99
    """Second beta of `fedadam` and `fedyogi`."""
    tau: Annotated[Rate, OnlyIf(takes("server.strategy", "strategy", "tau"))] = 1e-3
    """Adaptivity of `fedadam` and `fedyogi`: added to the root of the second moment."""
    weighting: Annotated[Literal["examples", "uniform"], OnlyIf(COUNTS_EXAMPLES)] = "examples"
    """What a client's update weighs in the mean: its examples, or as much as any other's (HeteroFL)."""
    aggregation: Annotated[
        Literal["mean", "trimmed-mean", "median", "krum"],
        Needs(WHOLE_MODELS & SYNCHRONOUS),
        Needs(ENOUGH_FOR_KRUM, ("krum",)),
    ] = "mean"
    """What becomes of the updates: their mean, or what wrong and hostile ones cannot move far, of clients
    that count alike: `trimmed-mean` and `median` by element (Yin et al. 2018), `krum` the one that is nearest
    to the others (Blanchard et al. 2017). The robust ones keep a cohort of updates in the server's memory, 8
    bytes for each element and client."""
    trim: Annotated[float, Field(ge=0, lt=0.5), OnlyIf(one_of("server.aggregation", "trimmed-mean"))] = 0.1
    """`trimmed-mean`: share of the largest, and of the smallest, values of an element that is left out."""
    hostile: Annotated[Whole, Field(ge=0, le=10**6), OnlyIf(one_of("server.aggregation", "krum"))] = 1
    """`krum`: hostile clients of a cohort that it withstands."""
    krum_keep: Annotated[
        Repeats,
        OnlyIf(one_of("server.aggregation", "krum")),
        Needs(at_most("server.krum_keep", "server.cohort")),
    ] = 1
    """`krum`: the mean of so many best updates (Multi-Krum)."""
    normalisation: Annotated[Literal["none", "fednova"], Needs(PROXIMAL_SHRINKS)] = "none"
    """`fednova`: each update is divided by its client's effective number of steps (Wang et al. 2020)."""
    mode: Annotated[Literal["sync", "buffered"], Needs(DEVICES)] = "sync"
    """`buffered`: FedBuff; clients run on the simulated clock and a round ends with `buffer` updates."""
    buffer: Annotated[
        Population,
        OnlyIf(one_of("server.mode", "buffered")),
        Needs(BUFFER_FITS),
    ] = 5
    """`buffered`: updates a round, of `cohort` clients that train at the same time."""
    min_completed: Annotated[
        Population,
        OnlyIf(UNPROTECTED),
        Needs(at_most("server.min_completed", "server.cohort") & COMPLETED_FITS),
    ] = 1
    """A round with fewer usable replies is repeated with a new cohort; with `privacy.dp` none is."""
    max_retries: Annotated[Whole, Field(ge=0, le=1000), OnlyIf(UNPROTECTED)] = 2
    """How often one round is repeated before the run stops."""
    checkpoint_every: Repeats = 1
    """Rounds between checkpoints; a resumed run repeats at most that many."""

    @property
    def step_size(self) -> float:
        """Step size of the strategy: its own where none is given."""
        if self.learning_rate is not None:
            return self.learning_rate
        return float(registry.fact("strategy", self.strategy, "step_size", 1.0))

    @property
    def horizon_rounds(self) -> int:
        """Rounds that schedules refer to."""
        return self.horizon or self.rounds


class EvaluationConfig(Section):
    """When and how the global model is measured."""

    every: Repeats = 1
    """Rounds between central evaluations on the test set; the last round is always evaluated."""
    batch_size: Repeats = 250
    """Images per forward pass."""
    clients: Annotated[
        Literal["all"] | Annotated[Whole, Field(ge=0, le=10**7)] | None, Needs(MEASURED_EXIST)
    ] = None
    """Clients that measure `models` on what they kept for testing (`partition.holdout`), drawn anew by the
    seed for each evaluated round; `"all"` for all of them. When absent, `server.cohort` of them where there
    is a holdout, else none. Without a holdout, clients measure the global model on the images that they
    train on: training accuracy."""
    models: Annotated[
        list[ClientModel],
        Field(min_length=1),
        Needs(DISTINCT & ALONE_FROM_THE_SEED),
        OnlyIf(above("partition.holdout", 0) & MEASURES),
    ] = ["global", "affordable"]
    """What these clients measure: `global`, the server's model; `affordable`, the part of it that their
    budget allows; `finetuned`, that part after `finetune_epochs` of training of their own; `local`, the same
    part trained by the same steps from the same initial weights, alone. Gain is `affordable` - `local`."""
    finetune_epochs: Annotated[Repeats, OnlyIf(FINETUNES)] = 1
    """`finetuned`: passes over the client's training images, as far as its budget allows."""
    local_at: Annotated[Literal["last", "every"], OnlyIf(TRAINS_ALONE)] = "last"
    """`local` is trained from its start for every evaluation that measures it: the last one, or each."""
    static_norms: Annotated[bool | None, Needs(one_of("model.norm", "bn"), (True,))] = None
    """HeteroFL's static BatchNorm: before the global model is measured, the round's clients run their
    training images through it, and its statistics are theirs, not averages of running statistics. When
    absent, true where clients may train narrower networks, whose statistics are not the whole one's
    (FjORD's BatchNorm has its own for each width)."""


class BackendConfig(Section):
    """Where clients are computed."""

    kind: Literal["ray", "inline"] = "ray"
    """`ray`: Flower's nodes on Ray; `inline`: a plain loop in this process, the oracle of all others, or with
    more `workers` processes of this machine, without Ray."""
    workers: Places | None = None
    """Processes that train clients at the same time; when absent one for each core
    on Ray, as far as memory holds them, and inline one."""
    threads: Places = 1
    """Threads of torch per worker. One by default, on every machine: oneDNN's sums depend on their number."""
    ray_address: Annotated[
        str | None, OnlyIf(one_of("backend.kind", "ray")), Needs(given("backend.workers"))
    ] = None
    """An existing Ray cluster, `auto` or `HOST:PORT`, that sees the same files; a new one when absent."""
    device: Annotated[Literal["cpu", "cuda"], Needs(GPU_SHARED)] = "cpu"
    """Where the network is computed; only `cpu` promises the same bits for any number of workers."""
    gpus_per_worker: Annotated[
        float, Field(ge=0, le=64), OnlyIf(one_of("backend.kind", "ray") & one_of("backend.device", "cuda"))
    ] = 0.0
    """Share of a GPU that Ray gives to a worker, as 0.25 for four workers on one."""

    @property
    def apart(self) -> bool:
        """Whether clients are trained in other processes than the server's."""
        return self.kind == "ray" or (self.workers or 1) > 1


class FaultPlace(Section):
    """One fault at a given place."""

    round: Repeats
    """Round of the fault."""
    client: Annotated[Whole, Field(ge=0, le=10**7)]
    """Client with the fault."""
    kind: FaultKind
    """What goes wrong."""


class FaultsConfig(Section):
    """Faults put into clients on purpose, to see what a run makes of them."""

    probability: Annotated[float, Field(ge=0, le=1), Needs(KILLABLE)] = 0.0
    """Chance that a client is faulty in a round it takes part in, drawn by the seed."""
    kinds: Annotated[list[FaultKind], Field(min_length=1), OnlyIf(above("faults.probability", 0))] = [
        "raise",
        "nan",
        "shape",
        "zero",
        "absurd",
    ]
    """What can go wrong then: an error, kill -9, a hang, NaN, a wrong shape or example count, two answers; a
    client that leaves before it tells its keys or its shares of a secure sum, and so does not train, or once
    its update has arrived (`leave-keys`, `leave-shares`, `leave-unmasking`)."""
    at: Annotated[list[FaultPlace], Needs(KILLABLE & FAULTS_TAKE_PLACE)] = []
    """Faults at given places, as `[{round = 2, client = 5, kind = "kill"}]`."""
    hang_seconds: Annotated[Annotated[float, Field(gt=0, le=1e7)], OnlyIf(HANGING)] = 3600.0
    """How long a hanging client hangs."""

    @property
    def possible(self) -> set[FaultKind]:
        """What can go wrong at all."""
        return {place.kind for place in self.at} | (set(self.kinds) if self.probability else set())


class BudgetConfig(Section):
    """Limits a client and round; absent is without limit. A fraction is of the full plan's cost."""

    macs: Count | None = None
    """Multiply-accumulates of training."""
    macs_fraction: BudgetFraction | None = None
    """The same, as a fraction of what the whole model and all epochs cost this client."""
    downlink_bytes: Count | None = None
    """Payload received."""
    uplink_bytes: Count | None = None
    """Payload sent."""
    bytes_fraction: BudgetFraction | None = None
    """Payload each way, as a fraction of the whole model's."""
    memory_bytes: Count | None = None
    """Peak memory of training."""
    device_memory: Annotated[bool | None, Needs(DEVICES, (True,))] = None
    """Limit the memory by what the device has; not, when absent."""
    joules: Annotated[Rate | None, Needs(DEVICES)] = None
    """Energy of receiving, computing and sending."""
    device_seconds: Annotated[Rate | None, Needs(DEVICES)] = None
    """Simulated time of receiving, computing and sending: a deadline."""

    def over(self, general: "BudgetConfig") -> "BudgetConfig":
        """Return these limits, and for those that are absent the ``general`` ones."""
        return general.model_copy(update=self.model_dump(exclude_none=True))


class LinkConfig(Section):
    """What is between a device and the server beside bandwidth; see `fedfmd.devices.links`.

    Absent keys are those of the card that `like` names, and else 0, or no trace.
    """

    round_trip_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Time for a packet to the server and back; every transfer waits for it once."""
    jitter_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Standard deviation of the round trip from transfer to transfer, drawn by the seed, never below 0; it
    counts on the simulated clock, not in plans and bills."""
    loss: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the segments that are lost, which slows TCP down by the formula of Mathis et al. (1997)."""
    downlink_trace: Annotated[str | None, HERE] = None
    """File of the bandwidth of receiving over time: a Mahimahi trace, seconds and Mbit/s, or an HSDPA log, as
    in `fedfmd.devices.bandwidth`. It repeats, each client beginning somewhere by the seed. Plans and bills
    take its mean, the simulated clock what it is at the time."""
    uplink_trace: Annotated[str | None, HERE] = None
    """The same of sending."""


class ServerLinkConfig(Section):
    """The server's own link, which the clients at work share max-min fairly; see `fedfmd.devices.traffic`."""

    uplink_bits_per_second: Annotated[Physical | None, OnlyIf(DEVICES)] = None
    """Speed of sending to all clients together; absent is without limit."""
    downlink_bits_per_second: Annotated[Physical | None, OnlyIf(DEVICES)] = None
    """Speed of receiving from all clients together; absent is without limit."""


def is_card(like: str) -> bool:
    """Return whether a device is like a card, which is a file, and not like a built-in profile."""
    return like.endswith(".toml")


class DeviceConfig(Section):
    """One kind of device. Absent fields are those of the profile that `like` names."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What the client rows call it."""
    share: Annotated[Physical, OnlyIf(one_of("devices.kind", "tiers"))] = 1.0
    """Its part of the population, relative to the others'."""
    like: Annotated[str, CARD] = "phone-mid"
    """A built-in profile: `server`, `laptop`, `phone-high`, `phone-mid`, `phone-low`, `raspberry-pi`; or a
    device card, the file NAME.toml that `fedfmd profile --device-card` wrote."""
    conv_macs_per_second: Physical | None = None
    """Effective rate of convolutions, in training."""
    aggregation_macs_per_second: Physical | None = None
    """Effective rate of mixing kernels."""
    attention_macs_per_second: Physical | None = None
    """Effective rate of the attention branches."""
    linear_macs_per_second: Physical | None = None
    """Effective rate of linear layers."""
    activation_bytes_per_second: Physical | None = None
    """Rate at which norms, activations and additions, which are no MACs, go over what layers put out; if
    absent, the rates of MACs make up for them, as those of the built-in profiles do."""
    layer_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Time that a training step takes for each layer, however small."""
    memory_bytes: Count | None = None
    """Memory that training may use."""
    downlink_bits_per_second: Physical | None = None
    """Speed of receiving."""
    uplink_bits_per_second: Physical | None = None
    """Speed of sending."""
    compute_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while computing."""
    receive_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while receiving."""
    send_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while sending."""
    watts_source: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What measured the watts set here, in words; cards say it, and `joules_source` of the rows has it."""
    availability: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None, OnlyIf(one_of("selection.availability", True))
    ] = None
    """Chance that a client is there in a round."""
    link: LinkConfig = LinkConfig()
    """Latency, loss and traces of its link."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of this kind of device; its keys go before those of a card, and these before the section
    `budget`."""

    @model_validator(mode="after")
    def _a_source_is_of_watts(self) -> Self:
        if self.watts_source and self.compute_watts is self.receive_watts is self.send_watts is None:
            raise ValueError(
                f"watts_source = {self.watts_source!r}: counts only with compute_watts, receive_watts or "
                "send_watts; set one, or leave watts_source out"
            )
        return self


class DevicesConfig(Section):
    """What the clients' devices are. Who has which is drawn by the seed."""

    kind: Annotated[
        Literal["none", "tiers", "lognormal", "trace"],
        Needs(given("devices.tiers"), ("tiers",)),
        Needs(given("devices.trace"), ("trace",)),
    ] = "none"
    """`tiers`: kinds with shares; `lognormal`: spread around one profile; `trace`: rows of a file."""
    tiers: Annotated[list[DeviceConfig], OnlyIf(one_of("devices.kind", "tiers"))] = []
    """`tiers`: the kinds of devices."""
    median: Annotated[DeviceConfig, OnlyIf(one_of("devices.kind", "lognormal"))] = DeviceConfig(name="device")
    """`lognormal`: the middle device."""
    compute_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.5
    """`lognormal`: standard deviation of the natural logarithm of the compute rates."""
    network_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.7
    """`lognormal`: the same of the bandwidths."""
    memory_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.4
    """`lognormal`: the same of the memory."""
    trace: Annotated[str | None, HERE, OnlyIf(one_of("devices.kind", "trace"))] = None
    """`trace`: CSV or JSON file of devices; see `fedfmd.devices.traces`."""
    server_link: ServerLinkConfig = ServerLinkConfig()
    """The server's link, which all clients share; it counts on the simulated clock, not in plans, bills."""
    states: Annotated[str | None, HERE, Needs(DEVICES)] = None
    """JSON file of when devices are there, in the shape of FLASH's or FedScale's traces; who has which is
    drawn by the seed. On the simulated clock a client then works only while it is there; see
    `fedfmd.devices.states`."""
    calibration: Annotated[str | None, HERE, OnlyIf(DEVICES)] = None
    """JSON file of `fedfmd profile --calibrate`, whose ratios between operators replace the profiles'."""


MeterName = Literal["none", "auto", "rapl", "nvml", "plug"]


class EnergyConfig(Section):
    """What measures the energy of the machine that trains; the joules of devices are modelled anyway."""

    meter: Annotated[
        MeterName,
        Needs(given("energy.plug"), ("plug",)),
        Needs(given("energy.idle_watts"), ("plug",)),
    ] = "none"
    """`rapl`: the processors' own counters (Linux, powercap); `nvml`: those of the GPUs that may be used;
    `auto`: both, or what there is of them; `plug`: a log of the plug's power."""
    plug: Annotated[str | None, HERE, OnlyIf(one_of("energy.meter", "plug"))] = None
    """`plug`: CSV file of times and watts that grows meanwhile; see `fedfmd.machine.plug`."""
    idle_watts: Annotated[
        Annotated[float, Field(ge=0, le=1e9)] | None, OnlyIf(none_of("energy.meter", "none"))
    ] = None
    """Power of the machine at rest, which is subtracted; if absent, it is measured for 2 s at the start."""


class PolicyConfig(Section):
    """How a client's plan meets its budget."""

    kind: Annotated[
        PolicyName,
        Needs(DYNAMIC & above("model.kernels", 1), ("kernels",)),
        Needs(one_of("model.exits", True), ("depth",)),
        Needs(_if_over(SHARED_NORMS, "width", "kernels", "depth")),
        Needs(_if_over(UNSHARED, "width", "kernels", "depth")),
        Needs(_if_over(SLICED, "width")),
    ] = "none"
    """`none`: the full plan, whatever the budget; `drop`: clients over budget are left out; `partial`: fewer
    steps; `width`, `kernels`, `depth`, `batch`: the largest share on that axis that fits; `smallest`: the
    smallest share of the model for all; `auto`: the best plan on all axes together; or `MODULE:NAME` of
    another policy."""
    widths: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=100), OnlyIf(WIDTHS)
    ] = [
        1.0,
        0.5,
        0.25,
        0.125,
        0.0625,
    ]
    """Shares of the channels that a client may hold."""
    rates: Annotated[Literal["budget", "drawn"], OnlyIf(one_of("policy.kind", "width"))] = "budget"
    """`budget`: the largest of `widths` that fits a client's limits; `drawn`: one by chance for each client
    and round, whatever the limits, as in HeteroFL's dynamic setting; violations are counted."""
    proportions: Annotated[
        list[Physical], OnlyIf(one_of("policy.kind", "width") & DRAWN), Needs(AS_MANY_AS_WIDTHS)
    ] = []
    """`drawn`: the relative frequency of each of `widths`; all alike when empty."""
    classifier_rows: Annotated[
        Literal["labels", "holders"],
        OnlyIf(one_of("policy.kind", "width") & none_of("policy.width_mode", "ordered")),
    ] = "labels"
    """Over whom a row of the classifier is averaged: those holders that have the label (HeteroFL, FedRolex),
    or all of them."""
    width_mode: Annotated[
        Literal["static", "ordered", "rolling"],
        OnlyIf(WIDTHS),
        Needs(STATISTICS_PER_WIDTH & UNBUFFERED_ATTENTION, ("ordered",)),
    ] = "static"
    """Which channels: the first (HeteroFL), nested random prefixes a step (FjORD), a window that moves with
    the rounds (FedRolex)."""
    kernel_mode: Annotated[
        Literal["prefix", "rolling", "usage"], OnlyIf(_over("kernels", "kernels", "auto") & DYNAMIC)
    ] = "prefix"
    """Which kernels: the first, a window that moves with the rounds, those the client's data use most."""
    min_batch_size: Annotated[
        Repeats,
        OnlyIf(_over("batch", "batch", "auto")),
        Needs(at_most("policy.min_batch_size", "client.batch_size")),
    ] = 1
    """`batch` and `auto`: smallest batch allowed."""
    capacity_weight: Annotated[float, Field(ge=0, le=1), OnlyIf(one_of("policy.kind", "auto"))] = 0.5
    """`auto` maximises elements_share^w * samples_share^(1-w) with this w."""

    @property
    def axes(self) -> frozenset[str]:
        """Along which axes it chooses a client's plan: `width`, `kernels`, `depth`, `batch`, `steps`."""
        return frozenset(registry.fact("policy", self.kind, "axes", ()))

    @property
    def shares(self) -> bool:
        """Whether clients may train parts of the network."""
        return bool(self.axes & {"width", "kernels", "depth"})


class SelectionConfig(Section):
    """Who is asked in a round."""

    kind: Annotated[SelectionName, Needs(TIMED)] = "uniform"
    """`uniform`: by the seed, `server.cohort` of them; `poisson`: each client by itself, so many on average;
    `oort`: by loss and speed (Lai et al. 2021); `tifl`: from one latency tier (Chai et al. 2020); or
    `MODULE:NAME` of another."""
    availability: Annotated[bool, Needs(DEVICES)] = False
    """Ask only clients whose device is there in that round, or at its begin where `devices.states` says so.
    Where fewer than `server.min_completed` are, the clock goes on to when they are."""
    over_selection: Annotated[float, Field(ge=1, le=10), Needs(DEVICES & SYNCHRONOUS)] = 1.0
    """Ask this many times the cohort; the first `server.cohort` on the simulated clock are used."""
    deadline_seconds: Annotated[Rate | None, Needs(DEVICES & SYNCHRONOUS)] = None
    """A client not finished by then, on the simulated clock, is dropped; the round then takes that long."""
    exploration: Annotated[Share, OnlyIf(OORT)] = 0.9
    """`oort`: share of the places that is for clients never used, before the first round; 0 once there are
    none."""
    exploration_decay: Annotated[Share, OnlyIf(OORT)] = 0.98
    """`oort`: factor on `exploration` from one round to the next."""
    exploration_least: Annotated[Share, OnlyIf(OORT)] = 0.2
    """`oort`: where `exploration` stays."""
    clip_percentile: Annotated[Share, OnlyIf(OORT)] = 0.98
    """`oort`: share of the utilities beyond which all count as the one there."""
    staleness_bonus: Annotated[NonNegative, OnlyIf(OORT)] = 0.1
    """`oort`: a score grows by sqrt(this * ln(round) / round of the last use)."""
    cut_off: Annotated[Share, OnlyIf(OORT)] = 0.7
    """`oort`: share of the score at the last place that a client must have; the paper has 0.95."""
    window: Annotated[float, Field(ge=1, le=1e6), OnlyIf(OORT)] = 5.0
    """`oort`: new clients are drawn among the best so many times the places."""
    slowness_exponent: Annotated[NonNegative, OnlyIf(OORT)] = 2.0
    """`oort`: a client that takes t > T seconds scores (T / t) to this power."""
    preferred_seconds: Annotated[Rate | None, OnlyIf(OORT)] = None
    """`oort`: T in device seconds; when absent a percentile of all clients' durations, moved by the pacer."""
    preferred_percentile: Annotated[Share, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.3
    """`oort`: the share of the clients that is within T at first; 1 is without T."""
    pacer_rounds: Annotated[Repeats, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 20
    """`oort`: rounds between two looks at the utility gained, each over as many."""
    pacer_step: Annotated[Share, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.05
    """`oort`: how far the pacer moves `preferred_percentile`."""
    pacer_flat: Annotated[NonNegative, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 0.1
    """`oort`: relative change of the utility up to which the pacer moves T up."""
    pacer_sharp: Annotated[NonNegative, OnlyIf(OORT & absent("selection.preferred_seconds"))] = 5.0
    """`oort`: relative change of the utility from which on the pacer moves T down."""
    blacklist_after: Annotated[Whole, Field(ge=0, le=10**6), OnlyIf(OORT)] = 10
    """`oort`: who was used more often is left out; 0 is never."""
    blacklist_share: Annotated[Share, OnlyIf(OORT)] = 0.3
    """`oort`: share of all clients that may be left out so."""
    tiers: Annotated[Whole, Field(ge=1, le=100), OnlyIf(TIFL)] = 5
    """`tifl`: number of latency tiers."""
    tier_credits: Annotated[Repeats | None, OnlyIf(TIFL)] = None
    """`tifl`: how often one tier may be chosen; without limit when absent."""
    adapt_every: Annotated[Whole, Field(ge=0, le=10**6), OnlyIf(TIFL)] = 20
    """`tifl`: rounds between two measurements of the tiers' accuracy on their clients' images, after which a
    tier that is behind becomes likelier; 0 is never."""

    @property
    def timed(self) -> bool:
        """Whether it needs to know how fast the clients' devices are."""
        return bool(registry.fact("selection", self.kind, "timed", False))

    @property
    def judges(self) -> bool:
        """Whether it looks at losses or accuracies of single clients; one of your own, at its history."""
        looks = registry.takes("selection", self.kind, "history") or self.looks_at_losses
        asked = not self.tiered or self.adapt_every > 0
        return asked and bool(registry.fact("selection", self.kind, "judges", looks))

    @property
    def looks_at_losses(self) -> bool:
        """Whether clients tell it the root of the mean squared loss of their samples."""
        return bool(registry.fact("selection", self.kind, "looks_at_losses", False))

    @property
    def tiered(self) -> bool:
        """Whether it draws from latency tiers, whose accuracy is measured every `adapt_every` rounds."""
        return bool(registry.fact("selection", self.kind, "tiered", False))

    @property
    def independent(self) -> bool:
        """Whether each client is drawn by itself, so that a cohort has any size."""
        return bool(registry.fact("selection", self.kind, "independent", False))

    @property
    def learns(self) -> bool:
        """Whether it is told of the clients that have been asked."""
        return bool(registry.fact("selection", self.kind, "learns", True))


class CompressionConfig(Section):
    """What updates become before they are sent."""

    uplink: CompressionName = "none"
    """`float16`: half precision; `int8`: 8 bits and a scale per block; `topk`: the largest elements only."""
    topk_fraction: Annotated[
        float, Field(gt=0, le=1), OnlyIf(takes("compression.uplink", "compression", "topk_fraction"))
    ] = 0.1
    """`topk`: share of the elements sent."""
    error_feedback: Annotated[bool, OnlyIf(none_of("compression.uplink", "none"))] = True
    """Keep on the client what compression lost, and add it to its next update."""

    @property
    def keeps_residual(self) -> bool:
        """Whether clients remember what compression lost."""
        return self.uplink != "none" and self.error_feedback


class PrivacyConfig(Section):
    """What the server may learn of a single client."""

    secure: Annotated[Literal["none", "secagg"], Needs(SUMS_ALONE, ("secagg",))] = "none"
    """`secagg`: the server sees the sum of a round's updates and no client's own (Bonawitz et al. 2017, Bell
    et al. 2020); the sum has the bits of the plain one. See the page on secure sums."""
    masks: Annotated[Literal["real", "counted"], OnlyIf(SECURE)] = "real"
    """In a simulation: `real` masks are added and taken off, `counted` ones only billed. The result is the
    same; real clients always mask."""
    threshold: Annotated[float, Field(gt=0.5, le=1), OnlyIf(SECURE)] = 0.66
    """Share of those that hold parts of a client's secrets who must answer for its masks to come off. Fewer
    colluders than this learn nothing; with more drop-outs than the rest the round is repeated."""
    min_holders: Annotated[Whole, Field(ge=2, le=10**6), OnlyIf(SECURE)] = 3
    """Fewest clients in a sum that the server gets to see. Elements that fewer were to send are not sent, and
    of those that fewer have sent the masks stay on: they keep their value."""
    dp: Annotated[Literal["none", "central"], Needs(PROTECTABLE, ("central",))] = "none"
    """`central`: clients clip their updates, and the server, which is trusted, adds noise to their sum, so
    that its models tell little of any one client (McMahan et al. 2018). See the page on privacy."""
    clip: Annotated[Rate, OnlyIf(PRIVATE)] = 1.0
    """Largest L2 norm of an update; with `clip_quantile` the first one."""
    noise_multiplier: Annotated[
        Annotated[float, Field(ge=0, le=1000)] | None, OnlyIf(PRIVATE & absent("privacy.epsilon"))
    ] = None
    """Standard deviation of the noise on the sum of updates, over the clip. 0 clips and promises nothing."""
    epsilon: Annotated[Rate | None, OnlyIf(PRIVATE)] = None
    """In place of `noise_multiplier`: the noise that comes to this epsilon after `server.horizon` rounds."""
    delta: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None, OnlyIf(PRIVATE), Needs(DELTA_BELOW_ONE_CLIENT)
    ] = None
    """Chance that the promise may fail; `partition.clients` to the power of -1.1 when absent."""
    epsilon_budget: Annotated[Rate | None, OnlyIf(PRIVATE), Needs(NOISED)] = None
    """The run ends before a round that would take epsilon beyond this."""
    clip_quantile: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, OnlyIf(PRIVATE), Needs(NOISED)] = (
        None
    )
    """Let the clip follow this quantile of the updates' norms, learned with noise (Andrew et al. 2021); the
    clip stays as it is when absent."""
    clip_rate: Annotated[Rate, OnlyIf(PRIVATE & given("privacy.clip_quantile"))] = 0.2
    """How fast it follows: the clip is multiplied by exp(-this * (share within the clip - quantile))."""


class DiagnosticsConfig(Section):
    """What dynamic convolutions do under federation; see `fedfmd.training.diagnostics`."""

    enabled: Annotated[bool, OnlyIf(DYNAMIC)] = False
    """Measure attention entropy, kernel usage and the agreement of kernel updates each round."""


class LoggingConfig(Section):
    """Where each round's figures go besides the run directory; nothing needs a network."""

    tensorboard: bool = True
    """Event files in the run directory, where TensorBoard is installed."""
    wandb: bool = False
    """Weights & Biases, offline unless WANDB_MODE says otherwise; needs `fedfmd[wandb]`."""
    mlflow: bool = False
    """MLflow, into the run directory unless MLFLOW_TRACKING_URI is set; needs `fedfmd[mlflow]`."""
    loggers: Annotated[list[str], NamedList("logger"), Needs(LOGGED_ONCE)] = []
    """Further loggers, each a `MODULE:NAME` or a registered name."""

    @property
    def switched_on(self) -> list[str]:
        """The loggers that have keys of their own here, and are on."""
        return [name for name in ("tensorboard", "wandb", "mlflow") if getattr(self, name)]


class TrainConfig(Section):
    """Centralised training (`fedfmd train`): all images in one place; by default the paper's recipe."""

    epochs: Repeats = 100
    """Passes over the training images."""
    batch_size: Annotated[Whole, Field(ge=2, le=10**6)] = 64
    """Samples per step, of all processes together."""
    learning_rate: Rate = 0.1
    """Step size after the warm-up."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: times `decay` at each milestone; `cosine`: down to 0 at the end of training."""
    milestones: Annotated[list[Repeats], OnlyIf(one_of("train.schedule", "step"))] = [30, 60, 90]
    """`step`: epochs after which the step size falls."""
    decay: Annotated[float, Field(gt=0, le=1), OnlyIf(one_of("train.schedule", "step"))] = 0.1
    """`step`: factor at a milestone."""
    warmup_epochs: Annotated[NonNegative, Needs(WARM_UP_ENDS)] = 0.0
    """The step size rises linearly over these first epochs."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    nesterov: Annotated[bool, Needs(above("train.momentum", 0))] = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty on all parameters."""
    label_smoothing: Fraction = 0.0
    """Share of the label's probability that is spread over all classes."""
    ema: Fraction = 0.0
    """Decay a step of the exponential moving average of the weights, which is then evaluated; 0 is none."""
    augment: bool = True
    """Random crop (see `data.resized_crop`) and horizontal flip."""
    temperature_every: Literal["epoch", "step"] = "epoch"
    """When temperatures move: from one epoch to the next, or a little with every step (the authors' code)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: bfloat16 where autocast allows, with float32 weights; `fp32`: float32, on GPUs with TF32."""
    channels_last: bool = False
    """Keep images and static kernels in memory with the channel last."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU when there is one; only the CPU promises the same bits again."""
    threads: Places | None = None
    """Threads of torch a process; the cores divided by the processes when absent."""
    evaluate_every: Repeats = 1
    """Epochs between evaluations on the test set; the last epoch is always evaluated."""
    checkpoint_every: Repeats = 1
    """Epochs between checkpoints; a resumed run repeats at most that many."""
    tensorboard: bool = True
    """Write TensorBoard's event files, too, when it is installed."""
