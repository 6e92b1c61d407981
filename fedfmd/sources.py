"""Modules of one's own: where their files are, and a hash of all that a module says.

That is its file, and those of the modules beside it that it imports, and theirs.
"""

import ast
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path


def source_sha256(module: str, source: Path, folder: Path) -> str | None:
    """Return the SHA-256 of what a module in ``folder`` says, whose own file is ``source``.

    It does not depend on what has been imported so far. Null where there is no such file.
    """
    if not source.is_file():
        return None
    digests = {module: hashlib.sha256(source.read_bytes()).hexdigest()}
    waiting = list(_imported(module, source))
    while waiting:
        name = waiting.pop()
        file = module_file(name, folder)
        if name in digests or file is None:
            continue
        digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        waiting += _imported(name, file)
    if len(digests) == 1:
        return digests[module]
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def module_file(module: str, folder: Path) -> Path | None:
    """Return the file of a module, if one lies in ``folder`` and it is none of this package."""
    if module.partition(".")[0] == __package__:
        return None
    place = folder.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
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
