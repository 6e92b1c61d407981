"""How a record is declared, once, and read wherever it comes from.

A record is a dataclass whose fields say their range, by a type of this module, and what they are, by a
``Column``. The ledgers' writer and reader, the tables, the pages and the reference follow the declaration;
what another party sends is held against it before anything is done with it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedfmd.config.values import printable

Json = dict[str, Any]

SCHEMA_VERSION = 1
"""Counts changes of the records that make older readers wrong; new columns are no such change.

Every run directory says in ``environment.json`` which one it has.
"""
LONGEST_LINE = 200
"""Characters of a reason, as people read it."""


def one_line(text: object, longest: int = LONGEST_LINE) -> str:
    """Return what somebody else wrote as one printable line of at most ``longest`` characters."""
    start = str(text)[: 4 * longest]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def told_loss(loss: float | None) -> float | None:
    """Return a loss as the ledgers hold it: one of a network that diverged is absent, and so is NaN."""
    return loss if loss is not None and abs(loss) <= LARGEST_LOSS else None


Count = Annotated[int, Field(ge=0, le=10**24)]
"""A whole number from 0; the limit is far beyond any run, and within what float64 and JavaScript hold."""
TotalCount = Annotated[int, Field(ge=0, le=10**40)]
TotalAmount = Annotated[float, Field(ge=0, le=1e46)]
"""Sums hold 10**16 of the largest rows: more than the most clients in the most rounds, so that no row which
was let in makes a sum that cannot be read. Scores, sums over an accuracy, have the same limits."""
Measured = Annotated[float, Field(ge=0, le=1e12)]
"""Seconds or joules that somebody else measured and nobody can check: 30,000 years, or a day of a power
plant."""
Memory = Annotated[int, Field(ge=0, le=1 << 60)]
LARGEST_LOSS = 1e12
Loss = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS)]
Positive = Annotated[int, Field(ge=1, le=10**24)]
Weight = Annotated[int, Field(ge=0, le=1 << 128)]
"""Of clients in a sum; FedBuff multiplies the examples by a power of two."""
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LONGEST_TEXT = 500
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT), AfterValidator(printable)]
Number = float | None
"""A figure as the ledgers hold it: absent is ``None``, never NaN."""
Figures = Mapping[Text, TotalCount | TotalAmount | None]
"""Figures by name."""
if TYPE_CHECKING:
    Entries = Json
else:
    Entries = dict[Text, Count | Figure | Text | list[Count] | list[Text]]
"""Settings by name, as flat as a table."""


@dataclass(frozen=True)
class Column:
    """What the reference, the tables and the pages say of a field."""

    meaning: str
    """One sentence."""
    unit: str = ""
    """As ``fedfmd.units`` has it: empty for counts, ``%`` for a fraction of one."""
    label: str = ""
    """Heading in the table of a page; empty for what is not in it."""
    measured: bool = False
    """Whether a repetition of the same run measures it anew: two runs of a config agree in all the rest."""


class SchemaError(ValueError):
    """A document that is not the record it should be; its text is one short line that names the field."""


class Record:
    """Base of the records: nothing is converted, nothing unknown is accepted, and no number is NaN."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    key: ClassVar[tuple[str, ...]] = ()
    """Fields that tell the records of one ledger apart."""

    @classmethod
    @cache
    def columns(cls) -> dict[str, Column]:
        """Return the fields by name, the key first."""
        hints = get_type_hints(cls, include_extras=True)
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        order = [*cls.key, *(name for name in names if name not in cls.key)]
        return {name: _column(hints[name]) for name in order}

    @classmethod
    @cache
    def _reader(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Read JSON from another party; raises ``SchemaError`` for anything but this record."""
        try:
            record: Self = cls._reader().validate_json(text)
            return record
        except ValidationError as error:
            raise SchemaError(_first(error)) from None

    @classmethod
    def exactly(cls, document: Mapping[str, Any]) -> Self:
        """Take a record from plain data of another party; raises ``SchemaError`` as ``read`` does."""
        return cls.read(json.dumps(document))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Take a record from plain data of our own ledgers; fields that it does not know are left out.

        Raises ``SchemaError`` for values that are not what the field says.
        """
        known = {name: document[name] for name in cls.columns() if name in document}
        try:
            return cls.read(dump(known))
        except RecursionError:
            raise SchemaError("is nested too deeply") from None

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Take a record from a line of our own ledgers, as ``from_json`` takes one.

        Raises ``SchemaError`` for what is no such record.
        """
        try:
            return cls.read(line)  # at once, if nothing in it is unknown or not finite
        except SchemaError:
            document = parse(line)
        if not isinstance(document, dict):
            raise SchemaError("must be a JSON object")
        return cls.from_json(document)

    @classmethod
    def partly(cls, document: Mapping[str, Any]) -> tuple[Self, tuple[str, ...]]:
        """Take what is sound of a document whose fields may all be absent; returns what is wrong, too."""
        sound: Json = {}
        faults: list[str] = []
        for name in cls.columns() & document.keys():
            try:
                cls.from_json({name: document[name]})
                sound[name] = document[name]
            except SchemaError as error:
                faults.append(str(error))
        return cls.from_json(sound), tuple(sorted(faults))

    def to_json(self) -> Json:
        """Return the record as plain data, with what tells it from others first."""
        values = {name: getattr(self, name) for name in self.columns()}
        return {name: asdict(v) if is_dataclass(v) else v for name, v in values.items()}  # type: ignore[arg-type]


def headings(record: type[Record]) -> list[tuple[str, str, str]]:
    """Return name, heading and unit of the fields that tables and pages show: figures, one a row."""
    return [(name, column.label, column.unit) for name, column in record.columns().items() if column.label]


def _column(hint: Any) -> Column:
    found = [entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Column)]
    return found[-1] if found else Column("")


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"] if not str(part).startswith("function-"))
    message = found["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return one_line(f"{where}: {message}" if where else message)


def strict_json(text: str) -> Any:
    """Return JSON from another party; raises ``SchemaError`` also where a number is not finite."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_refused_unless_finite)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"is not valid JSON ({_why(error)})") from None


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _refused_unless_finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refused(one_line(text, 20))


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error, 100)


def parse(text: str) -> Any:
    """Return the JSON of a file that a person or a crash may have changed; what is not finite is absent.

    Raises ``SchemaError`` for what is no JSON, or nested without measure.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"is not valid JSON ({_why(error)})") from None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def dump(document: Any, **style: Any) -> str:
    """Return a document as JSON; figures that are not finite are null."""
    try:
        return json.dumps(document, allow_nan=False, **style)
    except ValueError:
        return json.dumps(_without_nan(document), allow_nan=False, **style)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
