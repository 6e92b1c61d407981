"""Keys that count only where other keys allow it: declared beside each key, checked and explained here.

``OnlyIf`` marks a detail of a switch: written while the switch is off, it would do nothing in silence, so it
is refused; where an override turned the switch off, it is left out. ``Needs`` marks a value that asks for
something of other keys: without it the experiment would be another one than asked for, so it is always
refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedfmd import registry
from fedfmd.config.documents import shown


@dataclass(frozen=True)
class Condition:
    """What must hold of a whole config."""

    words: str
    """For messages and the reference, as ``policy.kind = 'width' or 'auto'``."""
    keys: tuple[str, ...]
    """The dotted keys that decide it."""
    holds: Callable[[BaseModel], bool]
    parts: tuple["Condition", ...] = ()
    """Conditions that this one joins."""

    def __and__(self, other: "Condition") -> "Condition":
        """Return the condition that both hold."""
        return Condition(
            f"{self.words} and {other.words}",
            self.keys + other.keys,
            lambda config: self.holds(config) and other.holds(config),
            (self.parts or (self,)) + (other.parts or (other,)),
        )

    def because(self, why: str) -> "Condition":
        """Return the condition with its reason in words."""
        return replace(self, words=f"{self.words}, {why}")

    def unless(self, free: Callable[[Any], bool]) -> "Condition":
        """Return a condition that also holds where a config is free of it."""
        return replace(
            self,
            holds=lambda config: free(config) or self.holds(config),
            parts=tuple(part.unless(free) for part in self.parts),
        )

    def failing(self, config: BaseModel) -> list["Condition"]:
        """Return the parts of this condition that do not hold."""
        return [part for part in self.parts or (self,) if not part.holds(config)]


@dataclass(frozen=True)
class OnlyIf:
    """The key may be written only where the condition holds; a default that asks for nothing always may."""

    condition: Condition

    def broken_by(self, value: Any, default: Any, config: BaseModel) -> bool:
        """Return whether ``value``, written in ``config``, would not count."""
        return not (not value and value == default) and not self.condition.holds(config)

    @property
    def words(self) -> str:
        """The rule in words, for the reference."""
        return f"Only with {self.condition.words}."


@dataclass(frozen=True)
class Needs:
    """These values of the key, or all but the default, are possible only where the condition holds."""

    condition: Condition
    values: tuple[Any, ...] = ()

    def broken_by(self, value: Any, default: Any, config: BaseModel) -> bool:
        """Return whether ``value`` lacks in ``config`` what it needs."""
        asks = value in self.values if self.values else value != default
        return asks and not self.condition.holds(config)

    @property
    def words(self) -> str:
        """The rule in words, for the reference."""
        which = f"{_choice(self.values)} needs" if self.values else "Needs"
        return f"{which} {self.condition.words}."


@dataclass(frozen=True)
class Unmet:
    """A key whose rule is broken, in one of the ways in which it is."""

    path: tuple[str | int, ...]
    value: Any
    rule: OnlyIf | Needs
    lacks: str
    """A condition that does not hold, with the values of its other keys."""
    table: tuple[str | int, ...] | None = None
    """The whole table that does not count, of which this is a key; null where the key alone does not."""

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(map(str, self.path))


def one_of(key: str, *values: Any) -> Condition:
    """Return the condition that a key has one of some values."""
    return Condition(f"{key} = {_choice(values)}", (key,), lambda config: value_of(config, key) in values)


def none_of(key: str, *values: Any) -> Condition:
    """Return the condition that a key has none of some values."""
    words = f"{key} other than {_choice(values)}"
    return Condition(words, (key,), lambda config: value_of(config, key) not in values)


def above(key: str, bound: float) -> Condition:
    """Return the condition that a number is larger than a bound."""
    return Condition(f"{key} > {bound:g}", (key,), lambda config: value_of(config, key) > bound)


def at_most(key: str, other: str) -> Condition:
    """Return the condition that a number is no larger than another key's."""
    words = f"{key} at most {other}"
    return Condition(words, (key, other), lambda config: value_of(config, key) <= value_of(config, other))


def given(key: str) -> Condition:
    """Return the condition that a key is there and not empty."""
    return Condition(f"{key} to be given", (key,), lambda config: value_of(config, key) not in (None, []))


def absent(key: str) -> Condition:
    """Return the condition that a key is not given."""
    return Condition(f"no {key}", (key,), lambda config: value_of(config, key) is None)


def takes(key: str, kind: str, option: str) -> Condition:
    """Return the condition that the part which a key names has an argument of that name."""
    words = f"a {key} that takes {option}"
    return Condition(words, (key,), lambda config: registry.takes(kind, value_of(config, key), option))


def holds(key: str, words: str, *deciders: str) -> Condition:
    """Return the condition that a property is true, which follows from the keys ``deciders``."""
    return Condition(words, deciders, lambda config: bool(value_of(config, key)))


def states(key: str, fact: str, prop: str, *built_in: str) -> Condition:
    """Return the condition that a key names a part which states a fact, as these built-in ones do.

    The property ``prop`` tells whether it does.
    """
    return holds(prop, f"{one_of(key, *built_in).words} or one of your own that states {fact}", key)


def fails(key: str, words: str, *deciders: str) -> Condition:
    """Return the condition that a property is false, which follows from the keys ``deciders``."""
    return Condition(words, deciders, lambda config: not value_of(config, key))


def value_of(config: BaseModel, key: str) -> Any:
    """Return the value at a dotted key; null inside a section that is not there."""
    section, _, name = key.rpartition(".")
    holder = attrgetter(section)(config) if section else config
    return None if holder is None else getattr(holder, name)


def rules_of(field: FieldInfo) -> list[OnlyIf | Needs]:
    """Return the rules declared beside a key."""
    return [rule for rule in field.metadata if isinstance(rule, OnlyIf | Needs)]


def unmet(config: BaseModel) -> list[Unmet]:
    """Return every key of a config that was written and does not count, or lacks what it needs."""
    return list(_unmet(config, config, (), (), True))


def applied(config: BaseModel) -> dict[str, Any]:
    """Return the keys of a config that count, with defaults filled in, as plain data; reading it back agrees.

    Absent values are left out.
    """
    return _applied(config, config)


def _unmet(
    config: BaseModel,
    section: BaseModel,
    path: tuple[str | int, ...],
    outer: tuple[OnlyIf, ...],
    written: bool,
) -> Iterator[Unmet]:
    """``outer`` are the rules of the tables that this ``section``, which is at ``path``, lies in."""
    for name, field in type(section).model_fields.items():
        value, place = getattr(section, name), (*path, name)
        rules, own = [*outer, *rules_of(field)], written and name in section.model_fields_set
        if isinstance(value, BaseModel):
            yield from _unmet(config, value, place, tuple(r for r in rules if isinstance(r, OnlyIf)), own)
            continue
        default = field.get_default(call_default_factory=True)
        for rule in sorted(rules, key=lambda rule: isinstance(rule, Needs)):
            if (own or isinstance(rule, Needs)) and rule.broken_by(value, default, config):
                table = path if rule in outer else None
                lacks = _lacking(rule, config, ".".join(map(str, place)))
                yield from (Unmet(place, value, rule, one, table) for one in lacks)
                if isinstance(rule, OnlyIf):
                    break  # what does not count needs nothing
        else:
            for index, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, BaseModel):
                    yield from _unmet(config, item, (*place, _place(value, index)), (), own)


def _place(tables: list[BaseModel], index: int) -> str | int:
    """Return what a key calls one of the tables: its name, where it alone has that, or else its number."""
    names = [getattr(table, "name", None) for table in tables]
    name = names[index]
    return name if name is not None and names.count(name) == 1 else index


def _lacking(rule: OnlyIf | Needs, config: BaseModel, key: str) -> list[str]:
    """Say what a broken rule of a key lacks: each need by itself, and all that make a key count at once."""
    words = [_with_values(part, config, key) for part in rule.condition.failing(config)]
    return words if isinstance(rule, Needs) else [" and ".join(words)]


def _with_values(part: Condition, config: BaseModel, key: str) -> str:
    values = ((other, value_of(config, other)) for other in part.keys if other != key)
    now = [f"{other} = {shown(v)}" for other, v in values if not isinstance(v, BaseModel | list | type(None))]
    return f"{part.words} (now {', '.join(now)})" if now else part.words


def _applied(config: BaseModel, section: BaseModel) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        idle = any(not r.condition.holds(config) for r in rules_of(field) if isinstance(r, OnlyIf))
        if value is None or idle:
            continue
        if isinstance(value, BaseModel):
            document[name] = _applied(config, value)
        elif isinstance(value, list):
            document[name] = [_applied(config, v) if isinstance(v, BaseModel) else v for v in value]
        else:
            document[name] = value
    return document


def _choice(values: tuple[Any, ...]) -> str:
    return " or ".join(str(v).lower() if isinstance(v, bool) else repr(v) for v in values)
