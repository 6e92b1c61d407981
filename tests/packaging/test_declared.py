"""What is imported is declared, what is declared is imported, and the files that repeat it agree."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fedfmd.config.templates import QUICKSTART

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
}
DISTRIBUTIONS = {
    **packages_distributions(),
    "wandb": ["wandb"],
    "mlflow": ["mlflow"],
    "pynvml": ["nvidia-ml-py"],
}
"""By name of the module; three that are optional need not be installed."""
TOOLS = {"coverage", "hatchling", "mypy", "ruff", "pytest-xdist", "zensical", "mkdocstrings"}
"""Programs, which nothing imports."""


def imported(folders: Iterable[str]) -> set[str]:
    """Give the distributions whose modules are imported below ``folders``, in their canonical names."""
    own = {"fedfmd", "server", "clients"}
    local = {path.stem for folder in folders for path in (ROOT / folder).rglob("*.py")}
    modules = {
        module
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for module in modules_of(ast.parse(path.read_text()))
    }
    unknown = modules - sys.stdlib_module_names - own - (local - NEEDED.keys())
    return {canonicalize_name(DISTRIBUTIONS[module][0]) for module in unknown}


def modules_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found = [node.module]
        else:
            continue
        for name in found:  # torch's writer for TensorBoard is a door to that package
            yield "tensorboard" if name == "torch.utils.tensorboard" else name.partition(".")[0]


def names(extras: Iterable[str]) -> set[str]:
    found = {canonicalize_name(r.name): r for extra in extras for r in EXTRAS[extra]}
    inner = {extra for requirement in found.values() for extra in requirement.extras if extra in EXTRAS}
    return (found.keys() - {"fedfmd"}) | (names(inner) if inner else set())


def test_the_package_imports_what_it_declares() -> None:
    optional = names(EXTRAS.keys() - {"dev", "docs"})
    assert imported(["fedfmd", "server", "clients"]) == NEEDED.keys() | optional


def test_tests_and_examples_import_what_is_declared_for_development() -> None:
    used = imported(["tests", "examples", "benchmarks"])
    declared = names(["dev"])
    assert used - NEEDED.keys() - {"wandb", "mlflow"} <= declared
    assert declared - TOOLS - used - names(["export", "tensorboard"]) == set()


def test_the_extras_are_those_that_something_stands_behind() -> None:
    optional = {"energy", "export", "gpu", "mlflow", "privacy", "tensorboard", "wandb"}
    assert EXTRAS.keys() == optional | {"docs", "dev"}
    assert all(EXTRAS.values())


@pytest.mark.parametrize("line", (ROOT / "fedfmd/deployment/image/requirements.txt").read_text().splitlines())
def test_the_image_has_the_bounds_of_the_project(line: str) -> None:
    if not line.startswith("#"):
        requirement = Requirement(line)
        assert requirement.specifier == NEEDED[canonicalize_name(requirement.name)].specifier


def test_the_constraints_pin_every_dependency_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    tested = (EXTRAS[name] for name in ("dev", "docs", "export", "tensorboard", "privacy", "gpu"))
    for requirement in [*NEEDED.values(), *chain(*tested)]:
        name = canonicalize_name(requirement.name)
        if name != "fedfmd":
            assert requirement.specifier.contains(Version(pins[name])), name
    assert not [line for line in lines if re.search(r"://|@|file:", line)]


def test_the_quickstart_of_the_checkout_is_that_of_the_package() -> None:
    assert (ROOT / "configs" / "quickstart.toml").read_bytes() == QUICKSTART.read_bytes()


def test_every_module_can_be_imported_where_there_are_no_locks_of_unix() -> None:
    """As on Windows: no ``fcntl``, no ``SIGHUP``. What needs a lock says so when it is used."""
    code = """
import sys, signal
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
del signal.SIGHUP
import torch  # which brings what it needs of these itself
import importlib, pkgutil, fedfmd
for module in pkgutil.walk_packages(fedfmd.__path__, "fedfmd."):
    if not module.name.startswith("fedfmd.flower") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from pathlib import Path
from fedfmd.files import take_lock
try:
    take_lock(Path(sys.argv[1]))
except OSError as error:
    print(error.strerror)
"""
    command = [sys.executable, "-c", code, "/dev/null"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Linux and macOS" in done.stdout
