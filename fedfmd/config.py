"""The experiment: one frozen, validated document, read from TOML and written back to TOML.

Every field says its unit. A wrong key, type or value raises ``UserError`` with one line a problem, which
names the file, the key, the value given and what is allowed, before any work starts.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fedfmd.errors import UserError

DatasetName = Literal["embedded", "cifar10", "cifar100", "fashion-mnist", "imagefolder"]
ConvName = Literal["static", "condconv", "dyconv", "odconv", "fmdconv"]
NormName = Literal["gn", "bn", "ln", "fixbn", "fedbn"]
FaultKind = Literal["raise", "kill", "hang", "nan", "shape", "zero", "absurd", "duplicate"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """What all sections share: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class DataConfig(Section):
    """Which pictures, and where they are."""

    name: DatasetName = "embedded"
    """`embedded` is drawn by a program and needs no download."""
    root: str = "data"
    """Folder with the downloaded files (`fedfmd data fetch`); relative to where the command runs."""
    classes: Literal[10, 100] = 10
    """Number of classes of the embedded set; the others know theirs."""
    image_size: Annotated[int, Field(ge=8, le=512)] | None = None
    """Side of the pictures in pixels, for `imagefolder`."""
    train_samples: Count | None = None
    """Use only this many training pictures (a seeded choice); all of them when absent."""
    test_samples: Count | None = None
    """Use only this many test pictures; all of them when absent."""


class PartitionConfig(Section):
    """Who has what: how the training pictures are spread over the clients."""

    scheme: Literal["iid", "dirichlet", "label-dirichlet", "shards", "quantity", "sampled"] = "dirichlet"
    """How label and quantity skew are drawn."""
    clients: Count = 100
    """Number of clients in the population."""
    alpha: Rate = 0.5
    """Concentration of the Dirichlet schemes; smaller is more skewed."""
    min_size: Annotated[int, Field(ge=1)] = 10
    """Fewest samples a client may get under `dirichlet`."""
    self_balancing: bool = False
    """`dirichlet`: a client that has its share of samples gets no more of the next classes."""
    shards_per_client: Count = 2
    """`shards`: how many single-label shards a client holds."""
    samples_per_client: Count = 50
    """`sampled`: how many samples each (virtual) client draws."""


class ModelConfig(Section):
    """The network: one ResNet; the convolution and the norms are its arguments."""

    name: Literal["resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50", "resnet101"] = (
        "resnet8"
    )
    """Depth and family."""
    conv: ConvName = "fmdconv"
    """The convolution inside the residual blocks."""
    width: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Multiplier of all channel counts."""
    kernels: Annotated[int, Field(ge=1, le=64)] = 4
    """K, the number of kernels a dynamic convolution mixes."""
    norm: NormName = "gn"
    """Norm of the backbone; `gn` is the choice for federated runs, `bn` for the paper's tables.

    `fedbn` keeps these layers on their clients, so the global model lacks them: measure it on the clients
    (`evaluation.clients`).
    """
    freeze_round: Count | None = None
    """`fixbn`: from this round on the statistics of BatchNorm stay as they are."""
    attention_norm: Literal["ln", "bn", "none"] = "ln"
    """Norm inside the attention branch; `bn` is the paper's and needs batches of two or more."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """3x3 stride-1 stem without pooling, or 7x7 stride-2 stem with max-pool."""


class TemperatureConfig(Section):
    """Temperatures of the attentions: a pure function of the round, owned by the server."""

    mode: Literal["both", "sigmoid_only", "fixed"] = "both"
    """What is annealed; see `fedfmd.nn.temperature`."""
    curve: Literal["step", "linear"] = "step"
    """`step`: minus `step` a round (DyConv's); `linear`: over the first `anneal_fraction` of the rounds."""
    start: Rate = 34.0
    """Temperature of the first round."""
    end: Rate = 1.0
    """Temperature that the annealing ends at."""
    step: Rate = 3.0
    """Decrease a round of the `step` curve."""
    anneal_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the rounds in which the `linear` curve reaches its end."""
    held: Rate = 34.0
    """Temperature of whatever `mode` does not anneal."""


class ClientConfig(Section):
    """Local training on a client."""

    epochs: Count = 1
    """Passes over the client's samples a round."""
    batch_size: Count = 32
    """Samples a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Local optimiser; its state does not outlive the round."""
    learning_rate: Rate = 0.05
    """Step size in round 1."""
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the step size from one round to the next."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`, first beta of `adamw`."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 5e-4
    """L2 penalty (`sgd`) or decoupled decay (`adamw`)."""
    proximal_mu: NonNegative = 0.0
    """FedProx: weight of mu/2 * ||w - w_global||^2 in the local objective; 0 is FedAvg."""
    clip_norm: Rate | None = None
    """Largest L2 norm of a step's gradient; no clipping when absent."""
    augment: bool = True
    """Random crop (padding 4) and horizontal flip."""
    scaffold: bool = False
    """SCAFFOLD: correct each step by control variates; needs plain SGD, and clients weigh the same."""
    deadline_seconds: Rate | None = None
    """A client that has not finished by then, on the host's clock, is dropped; never when absent."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("client.nesterov = true needs client.momentum > 0")
        return self

    @model_validator(mode="after")
    def _scaffold_needs_plain_sgd(self) -> Self:
        if self.scaffold and (self.optimizer != "sgd" or self.momentum != 0):
            raise ValueError("client.scaffold = true needs client.optimizer = 'sgd' and client.momentum = 0")
        return self


class ServerConfig(Section):
    """The federated loop and what the server does with the mean update."""

    rounds: Count = 10
    """Rounds of training."""
    cohort: Count = 10
    """Clients a round, drawn without replacement by the seed."""
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    """How the mean update moves the global model (Reddi et al. 2021)."""
    learning_rate: Rate = 1.0
    """Server step size; 1 for FedAvg's plain averaging, about 0.01 to 0.1 for fedadam and fedyogi."""
    momentum: Fraction = 0.9
    """`fedavgm`'s momentum and the first beta of `fedadam` and `fedyogi`."""
    beta2: Fraction = 0.99
    """Second beta of `fedadam` and `fedyogi`."""
    tau: Rate = 1e-3
    """Adaptivity of `fedadam` and `fedyogi`: added to the root of the second moment."""
    min_completed: Count = 1
    """A round with fewer usable replies is repeated with a new cohort."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often one round is repeated before the run stops."""
    checkpoint_every: Count = 1
    """Rounds between checkpoints; a resumed run repeats at most that many."""


class EvaluationConfig(Section):
    """When and how the global model is measured."""

    every: Count = 1
    """Rounds between central evaluations on the test set; the last round is always evaluated."""
    batch_size: Count = 250
    """Samples a forward pass."""
    clients: Annotated[int, Field(ge=0)] = 0
    """Clients that evaluate the global model on their own training pictures in an evaluated round."""


class BackendConfig(Section):
    """Where clients are computed."""

    kind: Literal["ray", "inline"] = "ray"
    """`ray`: Flower's simulation engine on Ray; `inline`: a plain loop in this process, the oracle."""
    workers: Count | None = None
    """Processes that train clients at the same time; one for each core when absent."""
    threads: Count | None = None
    """Threads of torch a worker; the cores divided by the workers when absent."""
    ray_address: str | None = None
    """An existing Ray cluster, `auto` or `HOST:PORT`, that sees the same files; a new one when absent."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the network is computed; only `cpu` promises the same bits for any number of workers."""
    gpus_per_worker: NonNegative = 0.0
    """Share of a GPU that Ray gives to a worker, as 0.25 for four workers on one."""

    @model_validator(mode="after")
    def _cluster_needs_workers(self) -> Self:
        if self.ray_address is not None and self.workers is None:
            raise ValueError("backend.ray_address needs backend.workers: how many of the cluster's to use")
        if self.device == "cuda" and self.kind == "ray" and not self.gpus_per_worker:
            raise ValueError("backend.device = 'cuda' needs backend.gpus_per_worker > 0")
        return self


class FaultPlace(Section):
    """One fault at a given place."""

    round: Count
    """Round of the fault."""
    client: Annotated[int, Field(ge=0)]
    """Client with the fault."""
    kind: FaultKind
    """What goes wrong."""


class FaultsConfig(Section):
    """Faults put into clients on purpose, to see what a run makes of them."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that a client is faulty in a round it takes part in, drawn by the seed."""
    kinds: Annotated[list[FaultKind], Field(min_length=1)] = ["raise", "nan", "shape", "zero", "absurd"]
    """What can go wrong then: an error, kill -9, a hang, NaN, a wrong shape or example count, two answers."""
    at: list[FaultPlace] = []
    """Faults at given places, as `[{round = 2, client = 5, kind = "kill"}]`."""
    hang_seconds: Rate = 3600.0
    """How long a hanging client hangs."""

    @property
    def possible(self) -> set[FaultKind]:
        """What can go wrong at all."""
        return {place.kind for place in self.at} | (set(self.kinds) if self.probability else set())


class TrainConfig(Section):
    """Centralised training (`fedfmd train`): all pictures in one place; by default the paper's recipe."""

    epochs: Count = 100
    """Passes over the training pictures."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Samples a step, of all processes together."""
    learning_rate: Rate = 0.1
    """Step size after the warm-up."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: times `decay` at each milestone; `cosine`: down to 0 at the end of training."""
    milestones: list[Count] = [30, 60, 90]
    """`step`: epochs after which the step size falls."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """`step`: factor at a milestone."""
    warmup_epochs: NonNegative = 0.0
    """The step size rises linearly over these first epochs."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty on all parameters."""
    label_smoothing: Fraction = 0.0
    """Share of the label's probability that is spread over all classes."""
    ema: Fraction = 0.0
    """Decay a step of the exponential moving average of the weights, which is then evaluated; 0 is none."""
    augment: bool = True
    """Random crop (padding 4) and horizontal flip."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: bfloat16 where autocast allows, with float32 weights; `fp32`: float32, on GPUs with TF32."""
    channels_last: bool = False
    """Keep pictures and static kernels in memory with the channel last."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU when there is one; only the CPU promises the same bits again."""
    threads: Count | None = None
    """Threads of torch a process; the cores divided by the processes when absent."""
    evaluate_every: Count = 1
    """Epochs between evaluations on the test set; the last epoch is always evaluated."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; a resumed run repeats at most that many."""
    tensorboard: bool = True
    """Write TensorBoard's event files, too, when it is installed."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("train.nesterov = true needs train.momentum > 0")
        if self.warmup_epochs >= self.epochs:
            allowed = f"less than train.epochs = {self.epochs}"
            raise ValueError(f"train.warmup_epochs = {self.warmup_epochs:g}: {allowed}")
        return self


class ExperimentConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "experiment"
    """Name of the run directory under `runs/`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random follows from it."""
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    model: ModelConfig = ModelConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    client: ClientConfig = ClientConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    backend: BackendConfig = BackendConfig()
    faults: FaultsConfig = FaultsConfig()
    train: TrainConfig | None = None
    """For `fedfmd train`, which else takes the paper's recipe; a federated run ignores it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        population = self.partition.clients
        for key, value in (
            ("server.cohort", self.server.cohort),
            ("evaluation.clients", self.evaluation.clients),
        ):
            if value > population:
                raise ValueError(f"{key} = {value}: at most partition.clients = {population}")
        if self.model.freeze_round is not None and self.model.norm != "fixbn":
            raise ValueError(f"model.freeze_round = {self.model.freeze_round}: needs model.norm = 'fixbn'")
        if self.backend.kind == "inline" and "kill" in self.faults.possible:
            raise ValueError("faults: kind 'kill' needs backend.kind = 'ray'; inline, it would end the run")
        server, temperature = self.server, self.temperature
        if server.min_completed > server.cohort:
            allowed = f"at most server.cohort = {server.cohort}"
            raise ValueError(f"server.min_completed = {server.min_completed}: {allowed}")
        if temperature.end > temperature.start:
            allowed = f"at most temperature.start = {temperature.start:g}"
            raise ValueError(f"temperature.end = {temperature.end:g}: {allowed}")
        return self


def load_config(path: Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a TOML file, apply ``KEY=VALUE`` overrides, validate.

    Raises ``UserError`` for an unreadable file, broken TOML, a malformed override, or any invalid value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        apply_override(document, override)
    return parse_config(document, source=str(path))


def parse_config(document: Mapping[str, Any], *, source: str = "config") -> ExperimentConfig:
    """Validate a document; ``source`` is the file named in error messages."""
    try:
        return ExperimentConfig.model_validate(document)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(e)}" for e in error.errors())) from None


def dump_config(config: ExperimentConfig) -> str:
    """Give the resolved config as TOML; reading it back gives an equal config."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one dotted key, as in ``server.rounds=5``; the value is TOML, or else a plain string."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise UserError(f"--set {override}: must look like SECTION.KEY=VALUE, for example server.rounds=5")
    target: Any = document
    for name in names[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: {name} is a value, not a section")
    target[names[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{_suggestion(error['loc'])}"
    message = error["msg"].removeprefix("Value error, ")
    if not key or (error["type"] == "value_error" and "=" in message):
        return message
    message = message.replace("Input should be", "must be").replace("String should", "must")
    if error["type"] == "model_type":
        message = "must be a section of keys"
    return f"{key} = {error['input']!r}: {message}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = ExperimentConfig
    for part in (p for p in location[:-1] if isinstance(p, str)):
        annotation = section.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))  # a section, or a list of sections
        section = next(t for t in candidates if isinstance(t, type) and issubclass(t, BaseModel))
    allowed = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} (allowed: {', '.join(allowed)})"
