"""A field of a ledger reads the same wherever it stands: terminal, page, table and its caption, LaTeX."""

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from fedfmd import units
from fedfmd.pages.run.page import asset
from fedfmd.pages.study.latex import latex_text
from fedfmd.records.rows import ClientRow, EpochRow, EvaluationRow, RoundRow
from fedfmd.records.schema import Column
from fedfmd.results.differences import Difference, Differences
from fedfmd.terminal.listing import comparison_tables

NODE = shutil.which("node")
UNITS = {"", "%", "nat", "MAC", "B", "s", "J", "W", "1/s"}
VALUES = {"%": [0.0, 0.8421, -0.0123], "": [3, 0.25, 12_345.0], "nat": [2.3026, 1e-5]}
LARGE = [0.0, 0.0456, 7.0, 1_234.5, 999_700_000.0, 12.4e12]


def fields() -> Iterator[tuple[str, Column]]:
    for row in (RoundRow, ClientRow, EvaluationRow, EpochRow):
        for name, column in row.columns().items():
            yield f"{row.__name__}.{name}", column


FIELDS = dict(fields())


def test_a_name_carries_its_unit() -> None:
    for name, column in FIELDS.items():
        assert column.unit in UNITS, name
        assert units.unit_of(name) in ("", column.unit), name
        if column.unit in ("MAC", "B", "s", "J", "W"):
            assert units.unit_of(name) == column.unit or name.endswith("_planned"), name


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_terminal_column_and_latex_say_what_the_one_table_says(unit: str) -> None:
    for value in VALUES.get(unit, LARGE):
        text = units.quantity(value, unit)
        assert text in terminal(value, unit)
        column = units.metric_scale([value], unit)
        number, of = column.number(value), column.unit
        if of not in units.TWO_DECIMALS and "." in number:  # a column keeps its zeros
            number = number.rstrip("0").rstrip(".")
        assert (number + of if of in units.GLUED else f"{number} {of}") == text
        assert latex_text(text).replace("\\%", "%").replace("$\\mu$", "\N{MICRO SIGN}") == text


@pytest.mark.skipif(NODE is None, reason="needs Node.js, which runs the script of a page")
def test_the_page_says_what_the_one_table_says() -> None:
    cases: list[tuple[Any, str]] = [
        (v, unit) for unit in sorted({c.unit for c in FIELDS.values()}) for v in VALUES.get(unit, LARGE)
    ]
    code = f"""{units.script()}{asset("chart.js").split("// Scales ---")[0]}
console.log(JSON.stringify({json.dumps(cases)}.map(([v, u]) => quantity(v, u))));"""
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True, timeout=180)
    assert json.loads(done.stdout) == [units.quantity(value, unit) for value, unit in cases]


def terminal(value: float, unit: str) -> str:
    """Return what ``fedfmd compare`` prints of a figure."""
    row = Difference(key="x", label="x", unit=unit, values=(value, value))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*comparison_tables(Differences(runs=(), keys={}, grounds={}, figures=(row,)), ["a", "b"]))
    return console.export_text()
