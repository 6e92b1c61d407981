"""Modules of one's own: where their files are, and a hash of all that a module says.

That is its file, and those of the modules beside it that it imports, and theirs.
"""

import ast
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.util import resolve_name
from pathlib import Path

_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""Of a module's file, in the order in which Python looks for them."""


def source_sha256(module: str, source: Path, folder: Path) -> str | None:
    """Return the SHA-256 of what a module in ``folder`` says, whose own file is ``source``.

    It does not depend on what has been imported so far. Null where there is no such file.
    """
    if not source.is_file():
        return None
    digests = {name: file_sha256(file) for name, file in own_files(module, source, folder).items()}
    if len(digests) == 1:
        return digests[module]
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def own_files(module: str, source: Path, folder: Path) -> dict[str, Path]:
    """Return the files of a module in ``folder`` and of those there that it imports, and they, by name."""
    files = {module: source}
    waiting = list(_imported(module, source))
    while waiting:
        name = waiting.pop()
        file = module_file(name, folder)
        if name not in files and file is not None:
            files[name] = file
            waiting += _imported(name, file)
    return files


def importable(folder: Path) -> list[Path]:
    """Return the files that an import of any name could run once Python looks for modules in ``folder``."""
    tops = {path.name.partition(".")[0] for path in folder.iterdir()}
    return [file for top in sorted(tops) if top.isidentifier() and (file := module_file(top, folder))]


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes; raises ``OSError``."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def module_file(module: str, folder: Path) -> Path | None:
    """Return the file of a module, if one lies in ``folder`` and it is none of this package."""
    if module.partition(".")[0] == __package__:
        return None
    place = folder.joinpath(*module.split("."))
    stems = (place / "__init__", place)
    files = (stem.with_name(stem.name + suffix) for stem in stems for suffix in _SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _imported(module: str, file: Path) -> Iterator[str]:
    """Yield the names that may be modules of all that a module imports, and of the packages they are in."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    yield from _with_packages(package)
    with suppress(SyntaxError, ValueError):  # of one that is not imported, after all
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from _with_packages(alias.name)
            elif isinstance(node, ast.ImportFrom):
                with suppress(ImportError):
                    base = resolve_name("." * node.level + (node.module or ""), package or None)
                    for alias in node.names:
                        yield from _with_packages(f"{base}.{alias.name}")


def _with_packages(module: str) -> Iterator[str]:
    """Yield a module's name, and those of the packages that it is in."""
    while module:
        yield module
        module = module.rpartition(".")[0]
