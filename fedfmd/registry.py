"""Parts by name: what a config calls ``fmdconv`` or ``my_module:MyConv``, found wherever it is needed.

A part has a kind and a name. Its name comes from ``register``, from an entry point of the group
``fedfmd.KIND`` of an installed package, or is ``MODULE:ATTRIBUTE`` itself. The built-in parts use
``register`` like all others; their home is imported when a part of their kind is first needed.

What an experiment has to know of a part, it asks the part: which arguments it ``takes``, and what it
``states`` as an attribute. What the check of a config asks of the built-in ones is written down, so that it
waits for no PyTorch, which they import.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from fedfmd.approvals import doubting
from fedfmd.errors import FAULTS, UserError, did_you_mean, told
from fedfmd.files import regular_file
from fedfmd.modules import installed_version, load_module, look_in, own_place
from fedfmd.sources import file_sha256, module_file, own_files, source_sha256

Value = TypeVar("Value")
HOMES = {
    "conv": "fedfmd.nn",
    "norm": "fedfmd.nn",
    "network": "fedfmd.nn",
    "data": "fedfmd.data.datasets",
    "aggregation": "fedfmd.aggregation.robust",
    "strategy": "fedfmd.aggregation.server_optimizers",
    "partition": "fedfmd.data.schemes",
    "policy": "fedfmd.planning.policy",
    "selection": "fedfmd.selection.cohort",
    "optimizer": "fedfmd.training.optimizers",
    "compression": "fedfmd.wire.compression",
    "logger": "fedfmd.records.logbook",
    "algorithm": "fedfmd.algorithms.table",
}
"""The kinds of parts, and the module that registers the built-in ones of a kind."""

OUTLINES = Path(__file__).with_name("built_in.json")
"""What is known of the built-in parts without importing them; ``fedfmd.config.outlines`` writes it."""
PARTS_FILE = "parts.json"
"""Names what a run rests on beside its config: what is not built in, files, images, what Python gave."""
REGISTERED = "registered"
"""Entry of that file: the parts that the config names and that are not built in."""


@dataclass(frozen=True)
class Registered:
    """A part, and how it came to its name."""

    value: Any
    module: str
    """Whose import registers it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is said of it beside its name."""


@dataclass(frozen=True)
class Outline:
    """What is known of a built-in part without importing it."""

    takes: list[str]
    """Names of its arguments."""
    states: dict[str, Any]
    """What it states by what it is asked, null where it states nothing."""
    fits: bool
    """Whether it can be called as its kind is, without options."""


_parts: dict[str, dict[str, Registered]] = {kind: {} for kind in HOMES}


@dataclass(frozen=True)
class Origin:
    """Where a part that is not built in comes from."""

    kind: str
    name: str
    module: str
    """What to import for it."""
    folder: str | None
    """Where the module was found; null for what is installed."""
    version: str | None
    """Version of the installed package, and otherwise the SHA-256 of the module's source, or null; see
    ``fedfmd.sources``."""

    def to_json(self) -> dict[str, str | None]:
        """Return the fields as plain data."""
        return asdict(self)

    @property
    def words(self) -> str:
        """The part as messages call it."""
        return f"{self.kind} {self.name!r}"

    @property
    def entries(self) -> list[str]:
        """What approves it, see ``fedfmd.approvals``."""
        file = module_file(self.module, Path(self.folder)) if self.folder else None
        if file is None:
            return [self.name if ":" in self.name else self.module]
        files = own_files(self.module, file, Path(self.folder or ""))
        return [str(file), *(file_sha256(one) for one in files.values())]


def register(kind: str, name: str, **facts: Any) -> Callable[[Value], Value]:
    """Return a decorator that makes a class or function the part ``name`` of a kind.

    ``kind`` is a key of ``HOMES``; ``facts`` are what the part would state as attributes, if it had any.
    Raises ``UserError`` for another kind, an unusable name, and one that another part has.

    Examples:
        >>> @register("norm", "mine")
        ... def no_norm(channels: int) -> torch.nn.Module:
        ...     return torch.nn.Identity()
    """
    _check_kind(kind)
    if not name or ":" in name:
        raise UserError(f"register({kind!r}, {name!r}): a name must not be empty, nor hold a colon")
    module = sys._getframe(1).f_globals.get("__name__", "__main__")

    def keep(value: Value) -> Value:
        before = _parts[kind].get(name)
        owner = before.module if before is not None else module
        if not is_ours(module) and name in built_in(kind):
            owner = "fedfmd"
        if owner != module:
            raise UserError(f"register({kind!r}, {name!r}): {owner} has registered that name")
        _parts[kind][name] = Registered(value, module, facts)
        return value

    return keep


def names(kind: str) -> tuple[str, ...]:
    """Return the names of a kind: built in, registered, and of installed packages."""
    _check_kind(kind)
    return tuple(dict.fromkeys([*built_in(kind), *_parts[kind], *_entry_points(kind)]))


def registered(kind: str) -> Mapping[str, Registered]:
    """Return the registered parts of a kind by name, all built-in ones among them."""
    _check_kind(kind)
    import_module(HOMES[kind])
    return _parts[kind]


def is_ours(module: str) -> bool:
    """Return whether a module belongs to this package."""
    return module.partition(".")[0] == __package__


def built_in(kind: str) -> Mapping[str, Outline]:
    """Return what is known of the built-in parts of a kind, by name, without importing them."""
    return _outlines().get(kind, {})


def check_name(kind: str, name: str) -> None:
    """Raise ``UserError`` as ``find`` does."""
    if name not in built_in(kind):
        _lookup(kind, name)


def find(kind: str, name: str) -> Any:
    """Return the part with a name, or at ``MODULE:ATTRIBUTE``.

    Raises ``UserError``, to be read after the name, for a name of no part, with near matches and what is
    allowed, and for a module that is missing or fails.
    """
    return _lookup(kind, name).value


def origin(kind: str, name: str) -> Origin | None:
    """Return where a part comes from; null for a built-in one. Raises ``UserError`` as ``find`` does."""
    if name in built_in(kind):
        return None
    module = _lookup(kind, name).module
    if is_ours(module):
        return None
    place = own_place(module)
    if place is None:
        return Origin(kind, name, module, None, installed_version(module))
    folder, file = place
    return Origin(kind, name, module, str(folder), source_sha256(module, file, folder))


@contextmanager
def beside(file: Path, *, run: Path | None = None) -> Iterator[None]:
    """Inside the ``with``, what a file of an experiment names is found beside it, and where its run found it.

    A run's directory says in ``parts.json`` where that was; what of it cannot be read, or is gone, is missed
    by those who need it. A file of a ``run``, which may be a stranger's, brings approved modules alone.
    """
    kept = file.parent / PARTS_FILE
    if run is None and kept.is_file():
        run = file.parent
    with doubting(run) if run is not None else nullcontext():
        look_in(file.parent)
        with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
            for part in json.loads(regular_file(kept).read_text(encoding="utf-8"))[REGISTERED]:
                look_for(Origin(**part))
        yield


def look_for(wanted: Origin) -> None:
    """Import the module that another process has found a part in, if it is still there."""
    with suppress(UserError):
        bring(wanted)


def bring(wanted: Origin) -> Origin | None:
    """Make a part known here that another process has found, and return where it comes from now.

    Raises ``UserError`` when it is missing.
    """
    if wanted.folder is not None:
        look_in(wanted.folder)
    try:
        if wanted.module != "__main__":
            load_module(wanted.module, wanted.name if ":" in wanted.name else wanted.module)
        return origin(wanted.kind, wanted.name)
    except UserError as error:
        raise UserError(f"{wanted.words} {error}") from None


def takes(kind: str, name: str, option: str) -> bool:
    """Return whether a part has an argument of that name."""
    outline = built_in(kind).get(name)
    return option in (outline.takes if outline else parameters(find(kind, name)))


def fact(kind: str, name: str, key: str, default: Any = None) -> Any:
    """Return what a part states of itself: said beside its name, or an attribute."""
    outline = built_in(kind).get(name)
    said = outline.states[key] if outline and key in outline.states else stated(kind, name, key)
    return default if said is None else said


def stated(kind: str, name: str, key: str) -> Any:
    """Return what a part itself states; null for nothing."""
    part = _lookup(kind, name)
    return part.facts.get(key, getattr(part.value, key, None))


def said(kind: str, name: str) -> Mapping[str, Any]:
    """Return what is said of a part beside its name."""
    return _lookup(kind, name).facts


def parameters(part: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a part's arguments; those behind ``**options`` are not known."""
    return _parameters(part)


@cache
def _parameters(part: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        return frozenset()


def chosen(part: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``options`` that a part has arguments for."""
    return {key: value for key, value in options.items() if key in parameters(part)}


def _lookup(kind: str, name: str) -> Registered:
    known = registered(kind)
    if name in known:
        return known[name]
    if ":" in name:
        return _referenced(name)
    if entry := _entry_points(kind).get(name):
        return Registered(_from_entry_point(entry), entry.module)
    allowed = names(kind)
    listed = ", ".join(map(repr, allowed))
    hint = did_you_mean(name, allowed)
    if kind != "algorithm" and (algorithm := name.lower()) in built_in("algorithm"):
        switch = fact("algorithm", algorithm, "switch") or f"[algorithms.{algorithm}]"
        hint = f"; this algorithm is switched on by {switch}"
    raise UserError(f"is not known; allowed: {listed}, or MODULE:NAME of your own{hint}")


def _check_kind(kind: str) -> None:
    if kind not in HOMES:
        raise UserError(f"{kind!r} is no kind of part; allowed: {', '.join(HOMES)}")


@cache
def _outlines() -> Mapping[str, Mapping[str, Outline]]:
    kinds = json.loads(OUTLINES.read_text(encoding="utf-8"))
    return {kind: {name: Outline(**known) for name, known in parts.items()} for kind, parts in kinds.items()}


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"fedfmd.{kind}")}


def _from_entry_point(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except FAULTS as error:  # whatever another's module does while it is imported
        raise UserError(f"names {entry.value}, which cannot be imported: {told(error)}") from error


def _referenced(reference: str) -> Registered:
    module_name, _, attribute = reference.partition(":")
    value: Any = load_module(module_name, reference)
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, dir(value))
            raise UserError(f"names {attribute}, which module {module_name} does not have{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise UserError("names neither a class nor a function")
    return Registered(value, module_name)
