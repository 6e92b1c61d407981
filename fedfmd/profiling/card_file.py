"""What stands in the file of a device card, read again: checked by one schema before anything is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from fedfmd.config.documents import explained, read_toml
from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.config.values import Count, Physical, Section
from fedfmd.devices.profiles import card_section
from fedfmd.errors import UserError

Card = dict[str, Any]
"""The content, as it is written."""
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class OperatorRate(Section):
    """How fast an operator of one shape is."""

    kind: Literal["conv", "aggregation", "attention", "linear"]
    shape: str
    macs_per_second: Physical
    spread: Annotated[float, Field(ge=0)]


class Memory(Section):
    """What the search for memory stayed below."""

    limit_bytes: Count
    bound: str


class Flow(Section):
    """How fast bytes went one way."""

    bits_per_second: Physical
    spread: Annotated[float, Field(ge=0)]
    payload_bytes: Count


class Link(Section):
    """What was measured between the machine and a server."""

    server: str
    date: str
    clock: str
    round_trip_seconds: Seconds
    jitter_seconds: Seconds
    least_round_trip_seconds: Seconds
    round_trips: Count
    uplink: Flow
    downlink: Flow


class Start(Section):
    """What the start of a process takes."""

    seconds: Seconds


class Power(Section):
    """What measured the power of training, or why nothing did."""

    source: str
    reason: str | None = None
    idle_watts: Seconds | None = None
    compute_watts: Seconds | None = None
    seconds: Seconds | None = None

    @model_validator(mode="after")
    def _has_watts_or_none(self) -> Self:
        if self.source != "none" and (self.idle_watts is None or self.compute_watts is None):
            raise ValueError("needs idle_watts and compute_watts, or source = 'none'")
        return self


class ValidationRow(Section):
    """A network that the rates were not fitted to."""

    model: str
    step_seconds: Seconds
    ratio: Physical


class Validation(Section):
    """Predicted over measured steps of other networks."""

    median_ratio: Physical
    worst_ratio: Physical
    batch_size: Count
    networks: list[ValidationRow]


class CardDocument(Section):
    """The whole file; a section that is not there yet is measured when the card is continued."""

    device: DeviceConfig
    provenance: dict[str, str | int | float] | None = None
    memory: Memory | None = None
    link: Link | None = None
    operators: Annotated[list[OperatorRate], Field(min_length=1)] | None = None
    calibration: dict[str, Any] | None = None
    start: Start | None = None
    power: Power | None = None
    validation: Validation | None = None


def read_card(path: Path) -> Card:
    """Read a card, whole or begun; raises ``UserError`` that names file, key and value for anything else."""
    card_section(path)
    card = dict(read_toml(path, "device card"))
    try:
        CardDocument.model_validate(card)
    except ValidationError as error:
        faults = explained(error, CardDocument, str(path))
        raise UserError(f"{faults}\n{path}: a section that is taken out is measured anew") from None
    return card


def check_same_machine(path: Path, begun: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where a card was begun on another machine, or part of one, than this is."""
    told = ("processor", "vectors", "torch", "processor_share")
    changed = [key for key in told if key in begun and begun[key] != here[key]]
    other = [f"{key} {begun[key]}, here {here[key]}" for key in changed]
    if other:
        raise UserError(f"{path}: was begun on another machine ({'; '.join(other)}); name another file")
