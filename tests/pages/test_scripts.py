"""The scripts of the pages: they parse, nothing in them is dead, and what they compute is right."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ASSETS = sorted((Path(__file__).parents[2] / "fedfmd" / "pages" / "assets").glob("*.js"))
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs Node.js, which runs the scripts of a page")


@needs_node
@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_a_script_parses(path: Path) -> None:
    done = subprocess.run([str(NODE), "--check", str(path)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_no_function_is_dead() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in ASSETS)
    text += "\n".join(p.read_text(encoding="utf-8") for p in ASSETS[0].parents[1].rglob("*.py"))
    defined = set(re.findall(r"^(?:function |const )(\w+)(?:\(| = \()", text, re.MULTILINE))
    assert len(defined) > 30
    assert not {name for name in defined if len(re.findall(rf"\b{name}\b", text)) < 2}


@needs_node
def test_what_they_compute() -> None:
    """Node's own runner has the cases: ``scripts.test.mjs``."""
    cases = Path(__file__).with_name("scripts.test.mjs")
    done = subprocess.run([str(NODE), "--test", str(cases)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"# pass (\d+)", done.stdout)[1] != "0"  # type: ignore[index]
