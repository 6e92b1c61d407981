"""What the command line says beside its results."""

import ast
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfmd.cli.voice import print_anything, show_notes
from fedfmd.errors import InputWarning


def test_a_note_is_said_once_however_many_arms_of_a_study_meet_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # and put back at the end
        show_notes()
        for text in ("one", "two", "one", "one"):
            warnings.warn(text, InputWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["note: one", "note: two"]


ROOT = Path(__file__).parents[1]
SAMPLE = re.compile(r"\bsamples?\b", re.IGNORECASE)
STATISTICAL = ("bootstrap samples", "a sample of the **discrete gaussian", "| samples | n = 2")
"""What is rightly called so."""


def said_in_errors(file: Path) -> Iterator[str]:
    """Yield the texts of what a module raises for its users."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "RunError", "blamed"):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_images_are_called_images() -> None:
    """In the pages, what reports show, and errors; keys and columns keep their names."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")]
    texts = [(page, re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)) for page in pages]
    texts += [(page, page.read_text()) for page in (ROOT / "fedfmd").glob("pages/assets/*.js")]
    texts += [(file, text) for file in (ROOT / "fedfmd").rglob("*.py") for text in said_in_errors(file)]
    found = [(file.name, line) for file, text in texts for line in text.splitlines() if SAMPLE.search(line)]
    assert [line for line in found if not any(words in line[1].lower() for words in STATISTICAL)] == []


def test_an_encoding_that_lacks_a_character_gets_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii"))
    print_anything()
    print("3 · 32\u00d732 \u2013 5 µs → 図", flush=True)
    assert printed.getvalue().decode() == "3 . 32x32 - 5 us -> ?\n"
