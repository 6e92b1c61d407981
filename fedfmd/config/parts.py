"""Keys whose values are names of the registry, and where the parts that a document names come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator, BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from fedfmd import contracts, registry
from fedfmd.errors import UserError
from fedfmd.registry import Origin

WITH_OPTIONS = frozenset(
    {
        "data",
        "partition",
        "policy",
        "selection",
        "aggregation",
        "strategy",
        "optimizer",
        "compression",
        "logger",
    }
)
"""Kinds whose parts are given further arguments, by ``[options.KIND]``; an algorithm has its own table."""


@dataclass(frozen=True)
class Named:
    """Marks a key that names a part of a kind."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return AfterValidator(self._checked).__get_pydantic_core_schema__(source, handler)

    def names(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        """Yield the dotted key and the name of every part in the value of a key."""
        yield key, value

    def _checked(self, value: Any) -> Any:
        for _, name in self.names("", value):
            self._check(name)
        return value

    def _check(self, name: str) -> None:
        try:
            registry.check_name(self.kind, name)
        except UserError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class NamedList(Named):
    """Marks a list of names of parts of a kind."""

    def names(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        """Yield the dotted key and the name of every part in the value of a key."""
        for name in value:
            yield key, name


@dataclass(frozen=True)
class NamedKeys(Named):
    """Marks a table whose keys name parts of a kind."""

    def names(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        """Yield the dotted key and the name of every part in the value of a key."""
        for name in value or {}:
            yield f"{key}.{name}", name

    def _check(self, name: str) -> None:
        try:
            super()._check(name)
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from None


def named_parts(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, kind and name of every part that a document names."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        for mark in field.metadata:
            if isinstance(mark, Named):
                for key, part in mark.names(prefix + name, value):
                    yield key, mark.kind, part
        if isinstance(value, BaseModel):
            yield from named_parts(value, f"{prefix}{name}.")


def check_shared(section: BaseModel) -> None:
    """Raise ``UserError`` for a part that other processes cannot find: one made in the script that runs."""
    for key, kind, name in named_parts(section):
        part = registry.origin(kind, name)
        if part is not None and part.module == "__main__":
            raise UserError(
                f"{key} = {name!r}: is registered in the script that runs, which other processes do not run; "
                "put it into a module of its own and import that, or set backend.kind = 'inline' and "
                "backend.workers = 1"
            )


def part_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a document that name parts."""
    for name, field in model.model_fields.items():
        if any(isinstance(mark, Named) for mark in field.metadata):
            yield prefix + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from part_keys(field.annotation, f"{prefix}{name}.")


def origins(section: BaseModel) -> list[Origin]:
    """Return where the parts come from that a document names and that are not built in."""
    found = (registry.origin(kind, name) for _, kind, name in named_parts(section))
    return [origin for origin in found if origin is not None]


def check_parts(document: BaseModel, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``ValueError`` for a part that cannot be called as its kind is with its options, and for an
    option that no part of its kind in the document has an argument for.

    A key of the section that names the part is no option: it would be set in two places.
    """
    named: dict[str, list[tuple[str, str]]] = {}
    for key, kind, name in named_parts(document):
        if kind in WITH_OPTIONS:
            named.setdefault(kind, []).append((key.rpartition(".")[0], name))
    for kind, given in options.items():
        if kind not in named:
            raise ValueError(
                f"options.{kind}: is no kind of part that has options; allowed: {', '.join(sorted(named))}"
            )
        for option in given:
            for section, _ in named[kind]:
                if option in type(getattr(document, section)).model_fields:
                    raise ValueError(f"options.{kind}.{option}: is the key {section}.{option}; set that")
            if not any(registry.takes(kind, name, option) for _, name in named[kind]):
                parts = ", ".join(repr(name) for _, name in named[kind])
                raise ValueError(f"options.{kind}.{option}: the {kind} {parts} has no such argument")
    for key, kind, name in named_parts(document):
        try:
            contracts.check_part(kind, name, options.get(kind, ()))
        except UserError as error:
            what = key if key.endswith(f".{name}") else f"{key} = {name!r}"
            cure = f"; give it what it needs in [options.{kind}]" if kind in WITH_OPTIONS else ""
            raise ValueError(f"{what}: {error}{cure}") from None
