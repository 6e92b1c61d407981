"""Parts by name: what a config calls ``fmdconv`` or ``my_module:MyConv``, found wherever it is needed.

A part has a kind and a name. Its name comes from ``register``, from an entry point of the group
``fedfmd.KIND`` of an installed package, or is ``MODULE:ATTRIBUTE`` itself. The built-in parts use
``register`` like all others; their home is imported when a part of their kind is first needed.

A module is looked for where Python looks, which is what is installed, and then in the folders of
``look_in``: that of the config file, and where a run has found its modules before.

What an experiment has to know of a part, it asks the part: which arguments it ``takes``, and what it
``states`` as an attribute. What the check of a config asks of the built-in ones is written down, so that it
waits for no PyTorch, which they import.
"""

import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from importlib.metadata import EntryPoint, distributions, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from fedfmd.approvals import doubted, doubting
from fedfmd.errors import FAULTS, UserError, did_you_mean, told
from fedfmd.files import regular_file
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
_folders: list[str] = []
_REFERENCE = re.compile(r"[\w.]+:[\w.]+")
_trusted: set[str] = set()
"""Modules and references that this process was given by its user, whatever a run names later."""


class _AsRead(SourceFileLoader):
    """Compiles what the file says: bytecode that lies beside it may say something else."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _finder(path: str) -> FileFinder:
    """Return what finds modules in a folder of ``look_in`` or below it; raises ``ImportError`` for others."""
    if not any(f"{path}/".startswith(f"{folder}/") for folder in _folders):
        raise ImportError
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_AsRead, SOURCE_SUFFIXES))


sys.path_hooks.insert(0, _finder)


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
    source = getattr(sys.modules.get(module), "__file__", None)
    folder = _root(module, Path(source).resolve()) if source else None
    if folder is None or _installed(folder, module):
        return Origin(kind, name, module, None, _version(module))
    return Origin(kind, name, module, str(folder), source_sha256(module, Path(source or ""), folder))


def look_in(folder: str | Path) -> None:
    """Let modules that are nowhere else be found in ``folder``, in this process, from now on.

    What a config names is meant to be there, of all folders, until another one is looked in.
    """
    text = str(Path(folder).resolve())
    if text in _folders:
        _folders.remove(text)
    _folders.append(text)


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
            _module(wanted.module, wanted.name if ":" in wanted.name else wanted.module)
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
    value: Any = _module(module_name, reference)
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, dir(value))
            raise UserError(f"names {attribute}, which module {module_name} does not have{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise UserError("names neither a class nor a function")
    return Registered(value, module_name)


def trust(text: str) -> None:
    """Let runs name each ``MODULE:NAME`` that stands in a text of the user of this process."""
    for reference in _REFERENCE.findall(text):
        _trusted.update((reference, reference.partition(":")[0]))


def _module(name: str, reference: str) -> ModuleType:
    """Import a module from where Python looks, else from the folders of ``look_in``, which come last.

    ``reference`` is what is needed of it. Raises ``UserError`` for a doubtful run's module, see
    ``fedfmd.approvals``.
    """
    _check_trusted(name, reference)
    _check_meant(name)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"names module {name}, which cannot be imported: {told(error)}") from error
        if new := [
            folder for folder in _folders if folder not in sys.path and module_file(name, Path(folder))
        ]:
            sys.path.extend(new)
            return _module(name, reference)
        places = (
            f", nor in {', '.join(_folders)}; put it there, or install it" if _folders else "; install it"
        )
        raise UserError(f"names module {name}, which is not installed{places}") from None
    except FAULTS as error:  # whatever a user's module does while it is imported
        raise UserError(f"names module {name}, which cannot be imported: {told(error)}") from error


def _check_trusted(name: str, reference: str) -> None:
    """Raise ``UserError`` for what a doubtful run names and its reader has neither named nor approved."""
    doubt = doubted()
    if doubt is None:
        trust(reference)
        _trusted.add(name)
        return
    place = next((Path(folder) for folder in (*sys.path, *_folders) if module_file(name, Path(folder))), None)
    if place is None and find_spec(name.partition(".")[0]) is None:
        return  # to be missed by the import
    own = place is not None and (str(place) in _folders or not _installed(place.resolve(), name))
    if (name if own else reference) in _trusted:
        return
    file = module_file(name, place.resolve()) if own and place else None
    doubt.check(reference, (file, place.resolve()) if file and place else None)


def _check_meant(name: str) -> None:
    """Raise ``UserError`` where Python would import another module than that in the folder looked in last.

    That is one of its own library, of an experiment elsewhere, or of the folder that it was started in; it is
    not run to find that out.
    """
    meant = module_file(name, Path(_folders[-1])) if _folders else None
    if meant is None:
        return
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    elif (spec := find_spec(name)) is not None:
        found = spec.origin
    else:
        return
    if found and Path(found).is_file() and meant.read_bytes() == Path(found).read_bytes():
        return
    raise UserError(
        f"names module {name}, which is {found or 'built into Python'} in this process, and not "
        f"{meant}: rename that file, or run the experiment in another process"
    )


def _root(module: str, source: Path) -> Path:
    """Return the folder on Python's path that a module was found in."""
    levels = module.count(".") + (source.name == "__init__.py")
    return source.parents[levels] if module != "__main__" else source.parent


def _installed(folder: Path, module: str) -> bool:
    """Return whether a module in ``folder`` belongs to Python, or to a package that was installed there."""
    if folder in {Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib", "stdlib")}:
        return True
    there = {package.name for package in distributions(path=[str(folder)])}
    return not there.isdisjoint(_owners().get(module.partition(".")[0], ()))


@cache
def _owners() -> Mapping[str, list[str]]:
    """Return the packages that hold each top-level module; it takes a second to look through them all."""
    return packages_distributions()


def _version(module: str) -> str | None:
    owners = _owners().get(module.partition(".")[0])
    return version(owners[0]) if owners else None
