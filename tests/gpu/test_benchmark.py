"""The benchmark of a GPU, tried without one: it has to run at once where a GPU is lent for minutes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def tried(out: Path, sections: str) -> dict[str, Any]:
    options = ["--device", "cpu", "--tiny", "--each", "0.001", "--sections", sections, "--out", str(out)]
    subprocess.run([sys.executable, str(SCRIPT), *options], check=True, capture_output=True, timeout=600)
    document: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return document["sections"]


def test_a_section_has_rows_in_a_file(tmp_path: Path) -> None:
    sections = tried(tmp_path, "ceilings,unknown")
    assert [row["what"] for row in sections["ceilings"]["rows"]] == ["copy", "product tf32", "product bf16"]
    assert "KeyError" in sections["unknown"]["error"]


@pytest.mark.slow
def test_no_section_fails(tmp_path: Path) -> None:
    sections = tried(tmp_path, "layers,small,rounds,clients,central,steps")
    rows = [row for section in sections.values() for row in section["rows"]]
    assert not [section["error"] for section in sections.values() if "error" in section]
    assert not [key for row in rows for key in row if key.endswith("error")]
    assert len(rows) > 30
