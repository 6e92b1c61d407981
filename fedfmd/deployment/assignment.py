"""What a server tells a client, read to the letter: no client has to trust its server with its files."""

import json
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

import fedfmd
from fedfmd.config.conditions import applied
from fedfmd.config.documents import flat_keys
from fedfmd.config.experiment import ExperimentConfig, named_paths
from fedfmd.config.parts import named_parts, part_keys
from fedfmd.config.sections.data import DataConfig, PartitionConfig
from fedfmd.config.sections.devices import DevicesConfig
from fedfmd.config.sections.logging import LoggingConfig
from fedfmd.config.sections.machine import EnergyConfig
from fedfmd.config.sections.selection import SelectionConfig
from fedfmd.config.sections.server import ServerConfig
from fedfmd.config.values import Name, Section
from fedfmd.data.agreement import Normalisation
from fedfmd.data.dataset import Dataset
from fedfmd.data.requests import FIXED_SIZE
from fedfmd.devices import device_of
from fedfmd.devices.profiles import section_of
from fedfmd.errors import RunError, UserError
from fedfmd.records.schema import Json
from fedfmd.registry import origin

SERVERS_PARTS = ("selection", "aggregation", "strategy", "logger")
"""Kinds of parts that only the server uses."""


class RefusedOrderError(RunError):
    """An order that a client does not carry out; the text holds nothing of the client's."""


class ToldNormalisation(Section):
    """By what all clients see their images: mean and standard deviation per channel."""

    mean: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=4)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=4)]

    @property
    def figures(self) -> Normalisation:
        """The same as the data have it."""
        return Normalisation(tuple(self.mean), tuple(self.std))

    def is_of(self, data: Dataset) -> bool:
        """Whether ``data`` say the same of themselves."""
        return (tuple(self.mean), tuple(self.std)) == (data.mean, data.std)


class Assignment(Section):
    """The experiment, as one client has to know it."""

    config: ExperimentConfig
    run: Name
    """What the client keeps its states under."""
    normalisation: ToldNormalisation | None = None
    """Null where each client's file says it."""
    version: str = fedfmd.__version__
    """Of fedfmd, on the server."""

    @field_validator("config")
    @classmethod
    def _names_no_files(cls, config: ExperimentConfig) -> ExperimentConfig:
        if named := ", ".join(named_paths(config)):
            raise ValueError(f"{named}: a client opens no file that a server names")
        if config.privacy.masks == "counted":
            raise ValueError("privacy.masks = 'counted': a client masks what it sends")
        return config


def assignment(config: ExperimentConfig, run: str, client: int, data: Dataset | None = None) -> str:
    """Describe an experiment for one client, as JSON; ``data`` are the server's, seen as clients shall.

    What lies in files of the server goes as figures: the client's own device in the place of a trace. What
    the server does by itself does not go at all, so that no client has to have its parts.
    """
    document = _of_clients(config)
    if list(named_paths(config.devices)):
        device = device_of(config, client)
        assert device is not None  # files of devices need a kind of devices
        own = DevicesConfig(kind="tiers", tiers=[section_of(device)])
        document = document.model_copy(update={"devices": own})
    seen = {"mean": list(data.mean), "std": list(data.std)} if data and data.mean else None
    told = {"config": applied(document), "run": run, "normalisation": seen, "version": fedfmd.__version__}
    return json.dumps(told, sort_keys=True)


def check_told(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for parts that clients would refuse to import, a line for each."""
    named = [(key, name) for key, _, name in named_parts(_of_clients(config)) if ":" in name]
    if named:
        raise UserError(
            "\n".join(
                f"{key} = {name!r}: a client imports no module that a server names: install it, as a package "
                "with an entry point, on the server and on each client, and name it by that"
                for key, name in named
            )
        )


def _of_clients(config: ExperimentConfig) -> ExperimentConfig:
    """Leave out who is asked, how the server steps, what is logged, and images that a client must bring."""
    options = {kind: own for kind, own in (config.options or {}).items() if kind not in SERVERS_PARTS}
    own = {key: getattr(ServerConfig(), key) for key in ("aggregation", "strategy")}
    update: dict[str, Any] = {
        "model": config.model.model_copy(update={"init": None}),
        "server": config.server.model_copy(update=own),
        "selection": SelectionConfig(),
        "logging": LoggingConfig(),
        "energy": EnergyConfig(),
        "data": config.data.model_copy(update={"root": DataConfig().root}),
    }
    scheme = config.partition.scheme
    if config.data.name not in FIXED_SIZE or origin("partition", scheme) is not None:
        kept = {key: getattr(config.partition, key) for key in ("clients", "holdout")}
        update["partition"] = PartitionConfig(scheme="natural", **kept)
        update["data"] = DataConfig(name="packs", resized_crop=config.data.resized_crop)
        options = {kind: own for kind, own in options.items() if kind not in ("data", "partition")}
    return config.model_copy(update={**update, "options": options or None})


def _refuse_modules(document: Json) -> None:
    """Refuse modules by name before one is imported: a client has the parts that are installed, no others."""
    given = flat_keys(document)
    for key in part_keys(ExperimentConfig):
        tables = [name for name in given if name.startswith(f"config.{key}.")]  # whose keys name parts
        if ":" in "".join([str(given.get(f"config.{key}", "")), *tables]):
            raise RefusedOrderError(f"{key}: a client imports no module that a server names")


def _refuse_versions(document: Json) -> None:
    """Refuse a server of another version: the rest of its description may mean another thing here."""
    theirs = str(document.get("version", "before 0.1.0"))[:40]
    if theirs != fedfmd.__version__:
        raise RefusedOrderError(
            f"the server has fedfmd {theirs}, the client {fedfmd.__version__}: install the same on both, as "
            f"pip install fedfmd=={theirs} on the client"
        )


def read_assignment(text: str) -> Assignment:
    """Read the server's description; raises ``RefusedOrderError`` for anything that is not exactly one."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None  # said by the reader proper
    if isinstance(document, dict):
        _refuse_versions(document)
        _refuse_modules(document)
    try:
        return Assignment.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RefusedOrderError(f"the server's description of the run: {where}: {problem['msg']}") from None
