"""Documents that people write: read from TOML, changed key by key, and what is wrong with them, in one voice.

Every problem is one line that names the file, the key, the value, what is allowed and, where it is known,
the cure. A value is shown in a few words, however long it is.
"""

import copy
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedfmd.config.values import NAME_IN_WORDS, NAME_PATTERN
from fedfmd.errors import UserError, did_you_mean, first_few

Keys = dict[str, Any]
"""A document, or dotted keys and their values."""
SHOWN_CHARACTERS = 60
LARGEST_BYTES = 1 << 30
"""Of a text that people name: a trace of many devices is one, what never ends (``/dev/zero``) is none."""
LARGEST_TOML_BYTES = 1 << 24
_SUBJECT = re.compile("^(Input|String|List|Tuple|Set|Dictionary) should ")
ALGORITHMS = "algorithms"
_REFERENCE = re.compile(r"[\w.]+:\w+")
_LONG_NUMBER = re.compile(r"\b\d{16,}\b")
_FIRST_SENTENCE = re.compile(r"(?<=[.:;]) ")
_LENGTH_FOUND = re.compile(r" after validation, not \d+$")
_IN_WORDS = dict.fromkeys(("model_type", "dict_type"), "must be a section of keys") | {
    "bool_type": "must be true or false",
    "list_type": "must be a list, as in [1, 2]",
}
"""What TOML calls a type, by pydantic's kind of error."""


def read_text(path: Path, what: str = "file", most_bytes: int = LARGEST_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark, which may be a pipe.

    Raises ``UserError`` that names it, also for one of more than ``most_bytes``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise UserError(f"{path}: has more than {most_bytes >> 20} MiB, which is no {what}")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}{_meant_for_set(str(path))}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except IsADirectoryError:
        files = sorted(str(file) for file in path.glob("*.toml"))
        hint = f"; did you mean {first_few(files, 3)}?" if files else ""
        raise UserError(f"{shown(str(path))}: is a folder, not a {what}{hint}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shown(str(path))}: cannot be read: {reason}") from None


def read_toml(path: Path, what: str = "file") -> Keys:
    """Read a TOML file; raises ``UserError`` if it is missing, unreadable or broken."""
    text = read_text(path, what, LARGEST_TOML_BYTES)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML: {_reason(error)}") from None


def read_json(path: Path, what: str = "file") -> Any:
    """Read a JSON file; raises ``UserError`` if it is missing, unreadable, broken, or has a key twice."""
    text = read_text(path, what)
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {_reason(error)}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> Keys:
    """Return an object of JSON; raises ``ValueError`` for a key that stands twice: one would not count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{shown_key(key)} stands {times} times in one object")
    return found


def shown(value: Any) -> str:
    """Return a value as messages show it: on one line, and not longer than that."""
    text = str(value).lower() if isinstance(value, bool) else _repr(_written(value))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def split_override(override: str) -> tuple[str, Any]:
    """Read ``SECTION.KEY=VALUE``: the dotted key, and the value, which is TOML or else a plain string."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in _unquoted(key).split(".")]
    if not equals or not all(names):
        raise UserError(
            f"--set {shown(override)}: must look like SECTION.KEY=VALUE, for example server.rounds=5"
        )
    return ".".join(names), _toml_value(text.strip())


def _unquoted(key: str) -> str:
    """Return a dotted key without quotation marks, which TOML wants around MODULE:NAME."""
    return key.replace('"', "")


def set_key(document: Keys, key: str, value: Any, source: str) -> None:
    """Set one dotted key of a document; ``source`` is what asks for it, in messages.

    An empty table makes a section where there is none, and changes nothing of one that is there. In a list of
    named tables the key goes on with a name, as in ``devices.tiers.weak.share``.
    """
    target: Any = document
    rest = key
    while True:
        if isinstance(target, list):
            target, rest = _entered(target, key, rest, source)
        name, dot, rest = _first_name(rest, of_algorithms=target is document.get(ALGORITHMS))
        if not dot:
            break
        target = target.setdefault(name, {})
        if not isinstance(target, dict | list):
            raise UserError(f"{source}: {key}: {name} is a value, not a section")
    if value != {} or not isinstance(target.get(name), dict):
        target[name] = copy.deepcopy(value)


def _first_name(key: str, *, of_algorithms: bool) -> tuple[str, str, str]:
    """Part a dotted key at its first name, which is MODULE:NAME for an algorithm of one's own."""
    end = _REFERENCE.match(key) if of_algorithms else None
    return (end[0], key[end.end() : end.end() + 1], key[end.end() + 1 :]) if end else key.partition(".")


def _entered(tables: list[Any], key: str, rest: str, source: str) -> tuple[Keys, str]:
    """Return the table that ``rest`` begins with the name of, and what follows the name."""
    there = {name: table for table in tables if isinstance(name := _name(table), str)}
    name = max((n for n in there if f"{rest}.".startswith(f"{n}.")), key=len, default=None)
    if name is None:
        section = key.removesuffix(rest).rstrip(".")
        known = f"there: {', '.join(there)}" if there else "none of its entries has a name"
        raise UserError(f"{source}: {key}: {section} has no entry of that name ({known})")
    if rest == name:
        raise UserError(f"{source}: {key}: is a whole table; name a key of it, as {key}.KEY")
    return there[name], rest[len(name) + 1 :]


def _name(table: Any) -> Any:
    return table.get("name") if isinstance(table, dict) else None


def drop_key(document: Keys, path: Sequence[str | int]) -> None:
    """Remove the key at a place of a document."""
    target: Any = document
    for part in path[:-1]:
        target = _member(target, part)
    del target[path[-1]]


def has_key(document: Keys, path: Sequence[str | int]) -> bool:
    """Return whether a document has a value at a place."""
    target: Any = document
    try:
        for part in path:
            target = _member(target, part)
    except (KeyError, IndexError, TypeError, StopIteration):
        return False
    return True


def _member(target: Any, part: str | int) -> Any:
    """Return a value of a section, or the table of a list that has this name or place."""
    if isinstance(target, list) and isinstance(part, str):
        return next(table for table in target if _name(table) == part)
    return target[part]


def shown_error(error: Exception) -> str:
    """Return what an exception says, on one short line."""
    text = f"{error} is missing" if isinstance(error, KeyError) else _reason(error) or type(error).__name__
    return text if len(text) <= 2 * SHOWN_CHARACTERS else f"{text[: 2 * SHOWN_CHARACTERS]}..."


def flat_keys(table: Mapping[str, Any], prefix: str = "") -> Keys:
    """Turn tables in tables into dotted keys, which may be quoted as on the command line."""
    flat: Keys = {}
    for key, value in table.items():
        inner, name = isinstance(value, Mapping) and value, f"{prefix}{_unquoted(key)}"
        flat |= flat_keys(value, f"{name}.") if inner else {name: value}
    return flat


def leaves(value: Any, place: str = "") -> Keys:
    """Return all values of a document by their dotted keys, entries of a list by name, as they are set.

    For example ``devices.tiers.weak.share``. A list whose entries have no names of their own is a value.
    """
    if isinstance(value, list):
        named = {
            one["name"]: one for one in value if isinstance(one, Mapping) and isinstance(one.get("name"), str)
        }
        value = named if named and len(named) == len(value) else value
    if not isinstance(value, Mapping) or not value:
        return {place: value}
    inner = {f"{place}.{key}" if place else key: one for key, one in value.items()}
    return {key: leaf for at, one in inner.items() for key, leaf in leaves(one, at).items()}


def explained(error: ValidationError, model: type[BaseModel], source: str) -> UserError:
    """Return what pydantic found wrong, a line for each problem."""
    problems = [(_location(e, model), e) for e in error.errors()]
    # Where a value may be of several types, what is wrong inside it says which type was meant.
    outer = {at[:end] for at, _ in problems for end in range(len(at))}
    lines = [line for at, e in problems if at not in outer for line in _explain(e, at, model).splitlines()]
    return UserError("\n".join(f"{source}: {line}" for line in dict.fromkeys(lines)))


def _location(error: ErrorDetails, model: type[BaseModel]) -> tuple[int | str, ...]:
    """Return where in a document something is wrong, without pydantic's words for the types that it tried."""
    place: list[int | str] = []
    section: type[BaseModel] | None = model
    several = False
    for part in error["loc"]:
        if str(part).startswith(("function-", "constrained-")) or (several and isinstance(part, str)):
            continue
        place.append(part)
        field = section.model_fields.get(part) if section is not None and isinstance(part, str) else None
        several = field is not None and _may_be_several(field.annotation)
        section = (
            _section(field.annotation) if field is not None else section if isinstance(part, int) else None
        )
    return tuple(place)


def _may_be_several(annotation: Any) -> bool:
    """Return whether an annotation is a union of more than a type and its absence."""
    return isinstance(annotation, UnionType) and len({*get_args(annotation)} - {type(None)}) > 1


def _explain(error: ErrorDetails, location: Sequence[int | str], model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {shown_key(key)}{_suggestion(location, model)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and not location:
        return message
    if error["type"] == "missing":
        return f"{key}: is missing"
    message = _LENGTH_FOUND.sub("", _SUBJECT.sub("must ", message))
    message = _LONG_NUMBER.sub(lambda digits: f"{int(digits[0]):g}", message)
    message = _IN_WORDS.get(error["type"], message)
    if error.get("ctx", {}).get("pattern") == NAME_PATTERN:
        message = f"must be {NAME_IN_WORDS}"
    if error["type"] == "list_type" and isinstance(error["input"], dict) and _holds_tables(location, model):
        message = f"must be a list of tables, each with a name; then {key}.NAME.KEY changes one"
    if error["input"] == "None" and error["type"].endswith(("_type", "_parsing")):
        message += "; leave the key out for its default"
    return f"{shown_key(key)} = {shown(error['input'])}: {message}" if key else message


def _holds_tables(location: Sequence[int | str], model: type[BaseModel]) -> bool:
    """Return whether the key at ``location`` is a list of tables, and not of numbers or names."""
    found: type[BaseModel] | None = model
    for part in (p for p in location if isinstance(p, str)):
        if found is None or part not in found.model_fields:
            return False
        found = _section(found.model_fields[part].annotation)
    return found is not None


def shown_key(key: str) -> str:
    """Return a key as messages show it: as it is, unless it is long or not printable."""
    return key if 0 < len(key) <= SHOWN_CHARACTERS and key.isprintable() else shown(key)


def _suggestion(location: Sequence[int | str], model: type[BaseModel]) -> str:
    section, last = model, str(location[-1])
    for part in (p for p in location[:-1] if isinstance(p, str)):
        section = _section(section.model_fields[part].annotation) or section
    allowed = list(section.model_fields)
    first, dot, rest = last.partition(".")
    if dot and first in allowed:
        return f"; dotted keys are for overrides (--set): here {rest} belongs into the table [{first}]"
    elsewhere = (key for key, _ in described_keys(model) if key.rpartition(".")[2] == last)
    hint = did_you_mean(last, allowed) or "".join(f"; did you mean {key}?" for key in islice(elsewhere, 1))
    return f"{hint} (allowed: {', '.join(allowed)})"


def described_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield all dotted keys of a document but those inside lists, each with the first sentence on it."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation) if get_origin(field.annotation) is not list else None
        if section is not None:
            yield from described_keys(section, f"{prefix}{name}.")
        else:
            words = " ".join((field.description or "").split())
            yield f"{prefix}{name}", _FIRST_SENTENCE.split(words)[0]


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation is, or may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section(inner))), None)


def _toml_value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())


def _written(value: Any) -> Any:
    """Return what a section was given as, and what a list of sections was."""
    if isinstance(value, BaseModel):
        return {
            key: _written(getattr(value, key))
            for key in type(value).model_fields
            if key in value.model_fields_set
        }
    return [_written(one) for one in value] if isinstance(value, list) else value


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a nest of thousands of lists
        return f"a very large {type(value).__name__}"


def _meant_for_set(name: str) -> str:
    return f"; did you mean --set {name}?" if "=" in name else ""
