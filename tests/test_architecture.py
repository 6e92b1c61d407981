"""Who may import whom: the core knows neither Flower nor Ray, and runs without them."""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fedfmd.algorithms.table import BUILT_IN
from fedfmd.records import filenames
from fedfmd.registry import names

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "fedfmd").rglob("*.py"))
SHELL = {"flwr", "ray", "server", "clients"}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> list[str]:
    found = nodes(path)
    whole = [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    return whole + [
        node.module or "" for node in found if isinstance(node, ast.ImportFrom) and not node.level
    ]


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def test_one_package_alone_knows_flower_and_ray() -> None:
    allowed = {path: {"flwr", "ray"} if path.parent.name == "flower" else set() for path in CORE}
    found = {str(path.relative_to(ROOT)): (roots(path) & SHELL) - allowed[path] for path in CORE}
    assert {name: names for name, names in found.items() if names} == {}


def test_only_the_launches_of_a_run_and_of_a_client_import_that_package() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in CORE
        if path.parent.name != "flower" and any(m.startswith("fedfmd.flower") for m in imports(path))
    }
    assert users == {"fedfmd/launch.py", "fedfmd/cli/deploy.py"}


def test_the_parts_of_the_core_know_each_other_in_one_direction() -> None:
    """Each part directly in ``fedfmd`` imports what the architecture page has above it, or beside."""
    page = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    graph: dict[str, set[str]] = {}
    row: dict[str, int] = {}
    for path in CORE:
        entry = path.relative_to(ROOT / "fedfmd").parts[0]
        name = f"`{entry}`" if entry.endswith(".py") else f"`{entry}/`"
        part = entry.removesuffix(".py")
        row[part] = next(i for i, line in enumerate(page) if line.startswith("|") and name in line)
        names = {module.split(".")[1] for module in imports(path) if module.startswith("fedfmd.")}
        graph.setdefault(part, set()).update(names - {part})
    upwards = [(a, b) for a, names in graph.items() for b in names if row[b] > row[a]]
    assert not upwards
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_nothing_but_its_own_file_and_its_keys_names_an_algorithm() -> None:
    """The keys, with their words for users, are in ``config/sections/``; FedBuff's clock is a round's."""
    named = re.compile(
        "|".join(sorted({algorithm.name for algorithm in BUILT_IN} - {"compression"})), re.IGNORECASE
    )
    places = [
        *(ROOT / "fedfmd" / "training").glob("*.py"),
        *(ROOT / "fedfmd" / "planning").glob("*.py"),
        *(ROOT / "fedfmd" / "config").glob("*.py"),
        *(
            ROOT / "fedfmd" / "rounds" / name
            for name in ("engine.py", "dispatch.py", "collection.py", "lifecycle.py")
        ),
        ROOT / "fedfmd" / "experiment.py",
    ]
    found = {path.name: named.findall(path.read_text()) for path in places}
    assert {name: words for name, words in found.items() if words} == {}


def test_nothing_but_its_registration_and_its_keys_names_a_selection() -> None:
    """Uniform draws are what a config has without any; the keys' reference and the table have examples."""
    named = re.compile("[\"'](" + "|".join(set(names("selection")) - {"uniform"}) + ")[\"']")
    allowed = ("config/sections/", "config/reference.py", "selection/cohort.py", "algorithms/__main__.py")
    files = {path.relative_to(ROOT / "fedfmd").as_posix(): path for path in (ROOT / "fedfmd").rglob("*.py")}
    found = {n: named.findall(path.read_text()) for n, path in files.items() if not n.startswith(allowed)}
    assert {name: words for name, words in found.items() if words} == {}


def test_only_what_people_look_at_knows_a_terminal() -> None:
    users = {path.relative_to(ROOT / "fedfmd").parts[0] for path in CORE if "rich" in roots(path)}
    assert users == {"cli", "profiling", "terminal"}


def test_every_console_prints_names_as_they_are() -> None:
    """A console of Rich's own would take the brackets of a path or a name for markup."""
    makers = {
        path.name
        for path in CORE
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    }
    assert makers == set()
    users = {path.name for path in CORE if "from rich.console import Console" in path.read_text()}
    assert users == {"consoles.py"}


def test_one_module_knows_what_the_files_of_a_run_are_called() -> None:
    """But for those that a lower part reads, and Flower's own file of one of the names."""
    elsewhere = {"registry.py": filenames.PARTS, "deployment/local.py": filenames.CONFIG}
    elsewhere["config/templates/__init__.py"] = filenames.STUDY
    known = {name for key, name in vars(filenames).items() if key.isupper() and "." in name.lstrip(".")}
    found = {
        (path.relative_to(ROOT / "fedfmd").as_posix(), node.value)
        for path in CORE
        if path.name != "filenames.py"
        for node in nodes(path)
        if isinstance(node, ast.Constant) and node.value in known
    }
    assert found == set(elsewhere.items())


def test_the_apps_of_flwr_run_are_names_for_what_the_package_holds() -> None:
    for name in ("server", "clients"):
        assert {m.split(".")[0] for path in (ROOT / name).rglob("*.py") for m in imports(path)} == {"fedfmd"}


def test_a_run_needs_neither_flower_nor_ray_nor_the_compiler(tmp_path: Path) -> None:
    """A whole run in a process that cannot import them; PyTorch's compiler would cost it 150 MB."""
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"flwr", "ray", "flwr_datasets", "sympy"}} or name == "torch._dynamo":
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from fedfmd.config.experiment import parse_config
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
config = parse_config({{
    "data": {{"train_samples": 100, "test_samples": 20}},
    "partition": {{"scheme": "sampled", "clients": 4, "samples_per_client": 10}},
    "model": {{"width": 0.25}}, "server": {{"rounds": 1, "cohort": 2}}, "backend": {{"kind": "inline"}},
}})
summary = execute(start_run(config, Path({str(tmp_path / "run")!r})), InlineExecutor)
assert summary["rounds"] == 1
assert not {{"flwr", "ray"}} & set(sys.modules)
print("ran")
"""
    environment = {"FEDFMD_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


@pytest.mark.parametrize(
    "modules",
    [
        # It takes as long to import as a report to write, and three times the memory.
        "fedfmd.pages.report, fedfmd.pages.run.figures, fedfmd.results.catalogue, fedfmd.watch.server",
        # Workers import it while this process does, and those that decode images not at all.
        "fedfmd.cli.app, fedfmd.launch, fedfmd.flower.ray_grid, fedfmd.images.decoding",
        # On a small device each holds as much again as training takes; the one that trains is forked.
        "fedfmd.flower.node, fedfmd.flower.resident",
    ],
    ids=["pages", "starts", "nodes"],
)
def test_what_only_waits_or_draws_does_without_pytorch(modules: str) -> None:
    code = f"""
import sys
import {modules}
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


def test_git_ignores_no_source() -> None:
    """A room that bears the name of an ignored folder would be left out of every commit."""
    listing = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "fedfmd/*.py", "tests/*.py"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no checkout of git")
    assert done.stdout == ""


def test_the_picture_names_folders_and_modules_that_exist() -> None:
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture))
    named = re.findall(r"[\w/]+(?:/(?![\w])|\.py\b)", texts)
    assert len(named) > 15
    assert [name for name in named if not list((ROOT / "fedfmd").rglob(name.rstrip("/")))] == []
