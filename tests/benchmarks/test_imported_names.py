"""What a benchmark imports is there, within its functions too: most of them are run once in a release."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


def imported_from_fedfmd(script: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import from the package, wherever in the script it stands."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fedfmd":
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda script: script.stem)
def test_a_benchmark_imports_names_that_are_there(script: Path) -> None:
    for module, name in imported_from_fedfmd(script):
        if not hasattr(import_module(module), name):
            import_module(f"{module}.{name}")


def test_a_client_of_the_secure_benchmark_goes_through_every_stage() -> None:
    from secure import Cohort

    words = torch.zeros(20, dtype=torch.int64)
    found = {name: stage() for name, stage in Cohort(4, 20).stages(words).items()}
    assert list(found) == ["keys", "shares", "masks", "recovery"]
    assert words.count_nonzero() == 20
