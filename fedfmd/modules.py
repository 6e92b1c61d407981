"""Modules of one's own: imported from where Python looks, or from the folders of what names them.

A module is looked for where Python looks, which is what is installed, and then in the folders of
``look_in``: that of the config file, and where a run has found its modules before. What the user of this
process names is imported; what a run names that a stranger may have made, only when it is approved, see
``fedfmd.approvals``.
"""

import re
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.metadata import distributions, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

from fedfmd.approvals import doubted
from fedfmd.errors import FAULTS, UserError, told
from fedfmd.sources import module_file

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


def look_in(folder: str | Path) -> None:
    """Let modules that are nowhere else be found in ``folder``, in this process, from now on.

    What a config names is meant to be there, of all folders, until another one is looked in.
    """
    text = str(Path(folder).resolve())
    if text in _folders:
        _folders.remove(text)
    _folders.append(text)


def trust(text: str) -> None:
    """Let runs name each ``MODULE:NAME`` that stands in a text of the user of this process."""
    for reference in _REFERENCE.findall(text):
        _trusted.update((reference, reference.partition(":")[0]))


def load_module(name: str, reference: str) -> ModuleType:
    """Import a module from where Python looks, else from the folders of ``look_in``, which come last.

    ``reference`` is what is needed of it. Raises ``UserError``, to be read after the name of a part, for a
    module that is missing or fails, and for one that a doubtful run names.
    """
    _check_spelling(name, reference)
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
            return load_module(name, reference)
        places = (
            f", nor in {', '.join(_folders)}; put it there, or install it" if _folders else "; install it"
        )
        raise UserError(f"names module {name}, which is not installed{places}") from None
    except FAULTS as error:  # whatever a user's module does while it is imported
        raise UserError(f"names module {name}, which cannot be imported: {told(error)}") from error


def own_place(module: str) -> tuple[Path, Path] | None:
    """Return folder and file of a module that is imported; null where it is installed, or has no file."""
    source = getattr(sys.modules.get(module), "__file__", None)
    if not source:
        return None
    folder = _root(module, Path(source).resolve())
    return None if _installed(folder, module) else (folder, Path(source))


def installed_version(module: str) -> str | None:
    """Return the version of the installed package that a module belongs to; null for none."""
    owners = _owners().get(module.partition(".")[0])
    return version(owners[0]) if owners else None


def _check_spelling(name: str, reference: str) -> None:
    """Raise ``UserError`` for what is no module's name, as a path, with the name that its file has."""
    if "/" in name or name.endswith(".py") or not all(name.split(".")):
        own = Path(name).stem.strip(".") or "mine"
        attribute = reference.partition(":")[2] or "NAME"
        raise UserError(
            f"names {name!r}, which is no module's name; for a file {own}.py beside the config it is "
            f"{own}:{attribute}"
        )


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
    top = name.partition(".")[0]
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    elif (spec := _spec(name)) is not None:
        found = spec.origin
    elif (spec := _spec(top)) is not None and spec.origin:  # no folder alone, which the import would widen
        name, meant, found = top, Path(_folders[-1], top), spec.origin
    else:
        return
    if found and Path(found).is_file() and meant.is_file() and meant.read_bytes() == Path(found).read_bytes():
        return
    raise UserError(
        f"names module {name}, which is {found or 'built into Python'} in this process, and not "
        f"{meant}: rename that, or run the experiment in another process"
    )


def _spec(name: str) -> ModuleSpec | None:
    """Return what Python would import; null for nothing, as below what is no package."""
    with suppress(ImportError, ValueError):
        return find_spec(name)
    return None


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
def _owners() -> dict[str, list[str]]:
    """Return the packages that hold each top-level module; it takes a second to look through them all."""
    return dict(packages_distributions())
