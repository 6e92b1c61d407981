"""The experiment: one frozen, validated document, read from TOML and written back to TOML.

Every field says its unit. A wrong key, type or value raises ``UserError`` with one line a problem, which
names the file, the key, the value given and what is allowed, before any work starts.
"""

import copy
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, model_validator

from fedfmd.config.conditions import Condition, Needs, OnlyIf, Unmet, applied, unmet
from fedfmd.config.documents import (
    Keys,
    drop_key,
    explained,
    flat_keys,
    has_key,
    leaves,
    read_toml,
    set_key,
    shown,
    split_override,
)
from fedfmd.config.parts import NamedKeys, check_parts
from fedfmd.config.sections.budget import BudgetConfig
from fedfmd.config.sections.central import TrainConfig
from fedfmd.config.sections.client import ClientConfig
from fedfmd.config.sections.compression import CompressionConfig
from fedfmd.config.sections.data import DataConfig, PartitionConfig
from fedfmd.config.sections.devices import DevicesConfig, is_card
from fedfmd.config.sections.evaluation import DiagnosticsConfig, EvaluationConfig
from fedfmd.config.sections.faults import FaultsConfig
from fedfmd.config.sections.logging import LoggingConfig
from fedfmd.config.sections.machine import BackendConfig, EnergyConfig
from fedfmd.config.sections.model import TEMPERED, ModelConfig, TemperatureConfig
from fedfmd.config.sections.policy import PolicyConfig
from fedfmd.config.sections.privacy import PrivacyConfig
from fedfmd.config.sections.selection import SelectionConfig
from fedfmd.config.sections.server import ServerConfig
from fedfmd.config.values import (
    CARD,
    HERE,
    LONGEST_NAME,
    NAME_IN_WORDS,
    NAME_PATTERN,
    Name,
    Options,
    Section,
    Whole,
)
from fedfmd.errors import UserError, pasted
from fedfmd.modules import trust
from fedfmd.registry import beside

Control = Literal["none", "exclude-weak", "smallest", "full", "static-equal-macs", "static-equal-parameters"]
"""Comparisons that an experiment is turned into."""
Overrides = Mapping[str, Any] | Iterable[str] | None
"""Changes to a document: nested or dotted keys with values, or lines of ``KEY=VALUE``."""


def _budgeted(config: Any) -> bool:
    budgets = [config.budget, config.devices.median.budget, *(tier.budget for tier in config.devices.tiers)]
    limits = any(value for budget in budgets for _, value in budget)
    return limits or config.devices.kind == "trace"  # whose rows may have budgets of their own


CENTRAL_ALONE = ("train",)
"""Keys, or sections, that count for `fedfmd train` alone."""
FEDERATED_ALONE = (
    "control",
    "client",
    "server",
    "backend",
    "devices",
    "budget",
    "policy",
    "selection",
    "algorithms",
    "compression",
    "privacy",
    "diagnostics",
    "faults",
    *(f"partition.{key}" for key in PartitionConfig.model_fields if key not in ("scheme", "validation")),
    *(f"evaluation.{key}" for key in EvaluationConfig.model_fields if key != "batch_size"),
)
"""Keys, or sections, that count for federated runs alone."""


BUDGETED = Condition("some limit in [budget], or in a device's budget", ("budget", "devices"), _budgeted)


class ExperimentConfig(Section):
    """A whole experiment."""

    name: Name = "experiment"
    """Name of the run directory under `runs/`."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Everything random follows from it."""
    control: Annotated[Control, Needs(BUDGETED, ("exclude-weak",))] = "none"
    """Turn the experiment into one of its controls, in one switch; see `fedfmd.planning.controls`."""
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    model: ModelConfig = ModelConfig()
    temperature: Annotated[TemperatureConfig, OnlyIf(TEMPERED)] = TemperatureConfig()
    client: ClientConfig = ClientConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    backend: BackendConfig = BackendConfig()
    devices: DevicesConfig = DevicesConfig()
    energy: EnergyConfig = EnergyConfig()
    budget: BudgetConfig = BudgetConfig()
    policy: PolicyConfig = PolicyConfig()
    selection: SelectionConfig = SelectionConfig()
    algorithms: Annotated[dict[str, Options] | None, NamedKeys("algorithm")] = None
    """Further algorithms by name, each a table of its options, as `[algorithms.NAME]`, or
    `[algorithms."MODULE:NAME"]`; see `fedfmd.algorithms`."""
    options: dict[str, Options] | None = None
    """Further arguments of parts of your own by kind, as `[options.partition]`."""
    compression: CompressionConfig = CompressionConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    logging: LoggingConfig = LoggingConfig()
    faults: FaultsConfig = FaultsConfig()
    train: TrainConfig | None = None
    """For `fedfmd train`, which else takes the paper's recipe; a federated run ignores it."""

    def own(self, kind: str) -> dict[str, Any]:
        """Return the further arguments of the part of a kind."""
        return (self.options or {}).get(kind, {})

    @property
    def recipe(self) -> TrainConfig:
        """How it is trained centrally: as its section [train] says, or by the paper's recipe."""
        return self.train or TrainConfig()

    @property
    def parts(self) -> bool:
        """Whether clients may train parts of the network."""
        return self.policy.shares

    @property
    def least_completed(self) -> int:
        """How many usable replies a round needs; none where repeating it would tell who did not reply."""
        return self.server.min_completed if self.privacy.dp == "none" else 0

    @property
    def measures_attention(self) -> bool:
        """Whether clients measure how they use the kernels."""
        by_usage = self.policy.kernel_mode == "usage" and "kernels" in self.policy.axes
        return self.model.dynamic and (self.diagnostics.enabled or by_usage)

    @property
    def restates_norms(self) -> bool:
        """Whether clients' images give BatchNorm its statistics before the global model is measured."""
        asked = self.evaluation.static_norms
        narrower = "width" in self.policy.axes and self.policy.width_mode != "ordered"
        return narrower and self.model.norm == "bn" if asked is None else asked

    @property
    def trains_alone_at_the_end(self) -> bool:
        """Whether clients train alone for the last evaluation, and for no other."""
        evaluation = self.evaluation
        return bool(self.measuring_clients) and "local" in evaluation.models and evaluation.local_at == "last"

    @property
    def measuring_clients(self) -> int:
        """How many clients measure models on their own images in an evaluated round."""
        chosen, population = self.evaluation.clients, self.partition.clients
        if chosen is None:
            return self.server.cohort if self.partition.holdout else 0
        return population if chosen == "all" else chosen

    @model_validator(mode="after")
    def _every_key_counts(self, info: ValidationInfo) -> Self:
        """Refuse keys that do not count or lack what they need; a list given as context takes them."""
        found = unmet(self)
        if isinstance(info.context, list):
            info.context.extend(found)
        elif found:
            raise ValueError("\n".join(_complaint(one) for one in found))
        check_parts(self, self.options or {})
        return self


def load_config(path: Path, overrides: Overrides = (), *, run: Path | None = None) -> ExperimentConfig:
    """Read a TOML file, apply overrides, validate; modules that it names may lie beside it, or where its run
    has found them. Those of a file in a ``run`` have to be approved, see ``fedfmd.approvals``.

    Raises ``UserError`` for an unreadable file, broken TOML, a malformed override, or any invalid value.
    """
    return config_in(path, read_toml(path, "config file"), overrides, run=run)


def config_in(
    path: Path, document: Mapping[str, Any], overrides: Overrides = (), *, run: Path | None = None
) -> ExperimentConfig:
    """Do what ``load_config`` does with what ``path`` held: a pipe, as of ``<(...)``, is read once."""
    overrides = kept(overrides)
    trust(str(overrides))
    with beside(path, run=run):
        return changed(document, overrides, source=str(path))


def make_config(
    given: "ExperimentConfig | Mapping[str, Any] | str | Path", overrides: Overrides = ()
) -> "ExperimentConfig":
    """Return the experiment that is given as one, as its content, or as its file, with overrides applied.

    Raises ``UserError`` as ``load_config`` does, and for anything else.
    """
    if isinstance(given, ExperimentConfig):
        return changed(applied(given), overrides)
    if isinstance(given, Mapping):
        return changed(given, overrides)
    if isinstance(given, str) and "\n" in given:
        raise UserError(
            "config: is a text; give the name of a file, or a mapping, as tomllib.loads makes of it"
        )
    if isinstance(given, str | Path):
        return load_config(Path(given), overrides)
    raise UserError(f"config = {shown(given)}: must be an ExperimentConfig, a mapping or the name of a file")


def changed(document: Mapping[str, Any], overrides: Overrides, *, source: str = "config") -> ExperimentConfig:
    """Validate a document after some changes; what the changes switch off is left out of the document."""
    changes = override_keys(overrides)
    whole = copy.deepcopy(dict(document))
    for key, value in changes.items():
        set_key(whole, key, value, f"--set {key}={shown(value)}")
    return parse_config(whole, source=source, overridden=changes | flat_keys(changes))


def kept(overrides: Overrides) -> Overrides:
    """Return overrides that can be read twice."""
    return overrides if overrides is None or isinstance(overrides, Mapping | str) else list(overrides)


def override_keys(overrides: Overrides) -> Keys:
    """Return changes as dotted keys with their values; raises ``UserError`` for malformed ones."""
    if overrides is None:
        return {}
    if isinstance(overrides, Mapping):
        if wrong := next((key for key in overrides if not isinstance(key, str)), None):
            raise UserError(f"overrides: {shown(wrong)}: a key must be text, for example 'server.rounds'")
        return flat_keys(overrides)
    lines = [overrides] if isinstance(overrides, str) else list(overrides)
    if any(not isinstance(line, str) for line in lines):
        raise UserError("overrides: must be a mapping, or texts that look like server.rounds=5")
    return dict(map(split_override, lines))


def check_asked(overrides: Overrides, idle: Collection[str], command: str) -> None:
    """Raise ``UserError`` for changes of keys that are ``idle`` here, and count for ``command`` alone.

    In a file they may stand: it can serve both.
    """
    for key, value in override_keys(overrides).items():
        if any(f"{key}.".startswith(f"{one}.") for one in idle):
            raise UserError(f"--set {key}={shown(value)}: counts only for {command}; leave it out")


def parse_config(
    document: Mapping[str, Any], *, source: str = "config", overridden: Collection[str] = ()
) -> ExperimentConfig:
    """Validate a document; ``source`` is the file named in error messages.

    Keys that do not count are refused, but for those that one of the ``overridden`` keys switched off.
    """
    check_kind(document, source)
    whole = copy.deepcopy(dict(document)) if overridden else document
    try:
        idle = idle_keys(whole) if overridden else []
        drop_idle(whole, [one for one in idle if switched_off(one, overridden)], idle)  # type: ignore[arg-type]
        return ExperimentConfig.model_validate(whole)
    except ValidationError as error:
        raise explained(error, ExperimentConfig, source) from None


def idle_keys(document: Mapping[str, Any]) -> list[Unmet]:
    """Return the keys of an otherwise valid document that do not count; raises ``ValidationError``."""
    found: list[Unmet] = []
    ExperimentConfig.model_validate(document, context=found)
    return [one for one in found if isinstance(one.rule, OnlyIf)]


def drop_idle(document: Keys, left_out: Collection[Unmet], idle: Collection[Unmet]) -> None:
    """Remove the keys that are ``left_out`` of a document: a table as a whole, or nothing of it.

    What else a table holds, as the name that it must have, would not count either; one with ``idle`` keys
    that are to stay stays as it is, and is refused.
    """
    gone = {one.path for one in left_out}
    kept = [one.path for one in idle if one.path not in gone]
    for one in left_out:
        part = one.table or one.path
        stays = any(path[: len(part)] == part for path in kept)
        if not stays and has_key(document, part):  # and no table around it is gone
            drop_key(document, part)


def switched_off(one: Unmet, overridden: Collection[str]) -> bool:
    """Return whether changed keys decide that this key does not count, and do not set it themselves."""
    own = any(one.key == key or one.key.startswith(f"{key}.") for key in overridden)
    return not own and any(key in overridden for key in one.rule.condition.keys)


def dump_config(config: ExperimentConfig) -> str:
    """Return the resolved config as TOML, with every key that counts; read back, it is equal."""
    return tomli_w.dumps(applied(config))


def named_paths(section: Section, prefix: str = "") -> Iterator[str]:
    """Yield the keys below ``section`` that choose a file or folder on the machine that reads them."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        chosen = HERE in field.metadata and value != field.default
        if chosen or (CARD in field.metadata and is_card(value)):
            yield prefix + name
        elif isinstance(value, Section):
            yield from named_paths(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, Section):
                    yield from named_paths(item, f"{prefix}{name}.{place}.")


def check_name(text: str, source: str) -> str:
    """Return what is a name and no path; ``source`` is what the message calls it. Raises ``UserError``."""
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise UserError(f"{source} {text!r}: must be {NAME_IN_WORDS}, at most {LONGEST_NAME}") from None


def name_from(folder: Path) -> str:
    """Return a name for a folder: its own where that is one, else what it keeps of it and a hash."""
    own = folder.name
    if re.fullmatch(NAME_PATTERN, own) and len(own) <= LONGEST_NAME:
        return own
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", own).strip("._-")[: LONGEST_NAME // 2]
    return f"{kept or 'run'}-{hashlib.sha256(os.fsencode(own)).hexdigest()[:8]}"


def is_study(document: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is a study's, and no experiment's."""
    return bool({"base", "experiment", "arms", "axes", "seeds"} & document.keys())


def check_kind(document: Mapping[str, Any], source: str) -> None:
    """Refuse a file of another kind by the name of the command that takes it."""
    if is_study(document):
        raise UserError(f"{source}: is a study, not an experiment; run: fedfmd study {pasted(source)}")
    if "models" in document:
        raise UserError(f"{source}: is a list of models; run: fedfmd profile {pasted(source)}")


def _complaint(one: Unmet) -> str:
    what = f"{one.key} = {shown(one.value)}"
    if isinstance(one.rule, Needs):
        return f"{what}: needs {one.lacks}"
    return f"{what}: counts only with {one.lacks}; set that, or leave {one.key} out"


def changed_keys(before: ExperimentConfig, now: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, each with the old value and the new one."""
    old, new = leaves(before.model_dump(mode="json")), leaves(now.model_dump(mode="json"))
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
