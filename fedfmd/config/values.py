"""What a section is, and the types of its keys, with ranges that rows and sums can hold."""

from collections.abc import Iterator
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Section(BaseModel):
    """What all sections share: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        """Refuse what no path and no name can hold: systems answer it with exceptions of all kinds."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must hold no null character; remove it")
        return value


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_IN_WORDS = "a name: letters, digits, '.', '_' and '-', the first a letter or digit"
LONGEST_NAME = 100
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
"""What a folder may be called after: a name, never a path."""


def printable(text: str) -> str:
    """Return a text that can stand in a table or a figure; raises ``ValueError`` for another."""
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


Title = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(printable)]
"""What tables and figures call something."""
HERE = "a file or folder on the machine that reads the config"
CARD = "such a file if it ends in .toml, and else a name"
"""Marks keys that name what a program opens; a real client refuses any that its server sets."""


def _whole(value: Any) -> Any:
    """Turn a float without a fraction into an integer: TOML writes 20e9 for a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer, which may be written as 1e9."""
Count = Annotated[Whole, Field(ge=1, le=10**18)]
Repeats = Annotated[Whole, Field(ge=1, le=10**6)]
"""How often something is done."""
Population = Annotated[Whole, Field(ge=1, le=10**7)]
"""Clients, or images of a client: memory is proportional to it."""
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
Fraction = Annotated[float, Field(ge=0, lt=1)]
Proportion = Annotated[float, Field(ge=0, le=1)]


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return a table that files, ledgers and messages can all hold; raises ``ValueError`` for another."""
    if wrong := next(_unlike_plain(options), None):
        raise ValueError(wrong)
    return options


def _unlike_plain(value: Any, key: str = "") -> Iterator[str]:
    """Say of everything below a key what cannot be kept."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unlike_plain(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _unlike_plain(inner, key)
    elif not (isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value))):
        allowed = "a finite number, a text, true or false, or a list or table of these"
        yield f"{key}: is {str(value)[:40]!r}, a {type(value).__name__}; must be {allowed}"


Options = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Arguments of parts, which only these know."""
