"""What a server tells a client, read to the letter: no client has to trust its server with its files."""

import json

from pydantic import ValidationError, field_validator

from fedfmd.config.conditions import applied
from fedfmd.config.documents import flat_keys
from fedfmd.config.experiment import ExperimentConfig, named_paths
from fedfmd.config.parts import part_keys
from fedfmd.config.sections import DataConfig, DevicesConfig, Name, Section
from fedfmd.devices import device_of
from fedfmd.devices.profiles import section_of
from fedfmd.errors import RunError


class RefusedOrderError(RunError):
    """An order that a client does not carry out; the text holds nothing of the client's."""


class Assignment(Section):
    """The experiment, as one client has to know it."""

    config: ExperimentConfig
    run: Name
    """What the client keeps its states under."""

    @field_validator("config")
    @classmethod
    def _names_no_files(cls, config: ExperimentConfig) -> ExperimentConfig:
        if named := ", ".join(named_paths(config)):
            raise ValueError(f"{named}: a client opens no file that a server names")
        if config.privacy.masks == "counted":
            raise ValueError("privacy.masks = 'counted': a client masks what it sends")
        return config


def assignment(config: ExperimentConfig, run: str, client: int) -> str:
    """Describe an experiment for one client, as JSON.

    What lies in files of the server goes as figures: the client's own device in the place of a trace.
    """
    root = DataConfig().root
    data, model = (
        config.data.model_copy(update={"root": root}),
        config.model.model_copy(update={"init": None}),
    )
    document = config.model_copy(update={"data": data, "model": model})
    if list(named_paths(config.devices)):
        device = device_of(config, client)
        assert device is not None  # files of devices need a kind of devices
        own = DevicesConfig(kind="tiers", tiers=[section_of(device)])
        document = document.model_copy(update={"devices": own})
    return json.dumps({"config": applied(document), "run": run}, sort_keys=True)


def _refuse_modules(text: str) -> None:
    """Refuse modules by name before one is imported: a client has the parts that are installed, no others."""
    try:
        document = json.loads(text)
    except ValueError:
        return  # said by the reader proper
    given = flat_keys(document) if isinstance(document, dict) else {}
    for key in part_keys(ExperimentConfig):
        tables = [name for name in given if name.startswith(f"config.{key}.")]  # whose keys name parts
        if ":" in "".join([str(given.get(f"config.{key}", "")), *tables]):
            raise RefusedOrderError(f"{key}: a client imports no module that a server names")


def read_assignment(text: str) -> Assignment:
    """Read the server's description; raises ``RefusedOrderError`` for anything that is not exactly one."""
    try:
        _refuse_modules(text)
        return Assignment.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RefusedOrderError(f"the server's description of the run: {where}: {problem['msg']}") from None
