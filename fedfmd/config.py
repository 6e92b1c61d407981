"""The experiment: one frozen, validated document, read from TOML and written back to TOML.

Every field says its unit. A wrong key, type or value raises ``UserError`` with one line a problem, which
names the file, the key, the value given and what is allowed, before any work starts.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fedfmd.errors import UserError
from fedfmd.sections import (
    BackendConfig,
    BudgetConfig,
    ClientConfig,
    CompressionConfig,
    Control,
    DataConfig,
    DevicesConfig,
    DiagnosticsConfig,
    EvaluationConfig,
    FaultsConfig,
    LoggingConfig,
    ModelConfig,
    PartitionConfig,
    PolicyConfig,
    Section,
    SelectionConfig,
    ServerConfig,
    TemperatureConfig,
    TrainConfig,
)


class ExperimentConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "experiment"
    """Name of the run directory under `runs/`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random follows from it."""
    control: Control = "none"
    """Turn the experiment into one of its controls, in one switch; see `fedfmd.controls`."""
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    model: ModelConfig = ModelConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    client: ClientConfig = ClientConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    backend: BackendConfig = BackendConfig()
    devices: DevicesConfig = DevicesConfig()
    budget: BudgetConfig = BudgetConfig()
    policy: PolicyConfig = PolicyConfig()
    selection: SelectionConfig = SelectionConfig()
    compression: CompressionConfig = CompressionConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    logging: LoggingConfig = LoggingConfig()
    faults: FaultsConfig = FaultsConfig()
    train: TrainConfig | None = None
    """For `fedfmd train`, which else takes the paper's recipe; a federated run ignores it."""

    @property
    def parts(self) -> bool:
        """Whether clients may train parts of the network."""
        return self.policy.kind in ("width", "kernels", "depth", "smallest", "auto")

    @property
    def measures_attention(self) -> bool:
        """Whether clients measure how they use the kernels."""
        by_usage = self.policy.kernel_mode == "usage" and self.policy.kind in ("kernels", "auto")
        return self.model.conv != "static" and (self.diagnostics.enabled or by_usage)

    @model_validator(mode="after")
    def _parts_are_possible(self) -> Self:
        """Check what the policies ask of the rest; the message names the keys that do not fit."""
        policy, model, client = self.policy, self.model, self.client
        ordered = policy.width_mode == "ordered" and policy.kind in ("width", "auto")
        needs_devices = self.selection.kind != "uniform" or self.selection.availability
        needs_devices |= self.selection.deadline_seconds is not None or self.server.mode == "buffered"
        needs_devices |= self.devices.states is not None
        needs_devices |= self.budget.joules is not None or self.budget.device_seconds is not None
        faults = (
            (self.parts and client.scaffold, f"policy.kind = '{policy.kind}': needs client.scaffold = false"),
            (
                self.parts and model.norm == "fedbn",
                f"policy.kind = '{policy.kind}': needs another model.norm than 'fedbn'",
            ),
            (
                policy.kind == "kernels" and (model.conv == "static" or model.kernels < 2),
                "policy.kind = 'kernels': needs a dynamic model.conv and model.kernels >= 2",
            ),
            (policy.kind == "depth" and not model.exits, "policy.kind = 'depth': needs model.exits = true"),
            (
                ordered and model.norm not in ("gn", "ln"),
                f"policy.width_mode = 'ordered': needs model.norm = 'gn' or 'ln', not '{model.norm}'",
            ),
            (
                needs_devices and self.devices.kind == "none",
                "devices.kind = 'none': selection, deadlines, joules, device_seconds, devices.states and "
                "server.mode = 'buffered' need devices",
            ),
            (
                client.scaffold and self.server.normalisation == "fednova",
                "server.normalisation = 'fednova': needs client.scaffold = false",
            ),
            (
                self.server.normalisation == "fednova" and client.learning_rate * client.proximal_mu >= 1,
                "server.normalisation = 'fednova': needs client.learning_rate * client.proximal_mu below 1, "
                f"not {client.learning_rate * client.proximal_mu:g}",
            ),
            (
                client.scaffold and self.compression.uplink != "none",
                "client.scaffold = true: needs compression.uplink = 'none'",
            ),
            (
                self.server.mode == "buffered" and client.scaffold,
                "server.mode = 'buffered': needs client.scaffold = false",
            ),
        )
        for wrong, message in faults:
            if wrong:
                raise ValueError(message)
        return self

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
