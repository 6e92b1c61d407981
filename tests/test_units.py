"""One rule from (value, unit) to text: closed forms, and the same text from the script of a page."""

import json
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedfmd import units
from fedfmd.errors import UserError
from fedfmd.pages.run.page import asset

NODE = shutil.which("node")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 << 30),
        ("768m", 768 << 20),
        ("1000000000", 10**9),
        ("204800k", 200 << 20),
        ("100m", 100 << 20),
    ],
)
def test_a_size_of_memory_is_read_as_docker_reads_it(text: str, size: int) -> None:
    assert units.memory_size(text, "--memory-limit", 100 << 20) == size


@pytest.mark.parametrize("text", ["", "4000", "99m", "2t", "-2g", "1.5g", "2g ", "0g", "9999999g", "g"])
def test_another_size_of_memory_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UserError, match=rf"^--memory-limit {text}: must be .* at least 100m: .*768m or 2g$"):
        units.memory_size(text, "--memory-limit", 100 << 20)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "\N{EN DASH}"),
        (0, "s", "0 s"),
        (0.0, "MAC", "0 MAC"),
        (1234.5, "s", "1,235 s"),
        (412.3, "s", "412 s"),
        (0.4567, "s", "0.457 s"),
        (0.01234, "s", "12.3 ms"),
        (12.4e12, "MAC", "12.4 TMAC"),
        (999.7e6, "B", "1 GB"),
        (999.4e6, "B", "999 MB"),
        (999_950, "B", "1 MB"),
        (184_000_000, "B", "184 MB"),
        (2.5e21, "MAC", "2,500 EMAC"),
        (0.05, "J", "50 mJ"),
        (1234567, "", "1,234,567"),
        (0.00123, "", "0.00123"),
        (0.8421, "%", "84.21%"),
        (1.23456, "x", "1.23x"),
        (-1500.0, "J", "-1.5 kJ"),
    ],
)
def test_a_value_with_its_unit(value, unit, text):
    assert units.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.2e-12, "MAC", "3.2 / TMAC"),
        (25.0, "s", "25 / s"),
        (0.0, "B", "0 / B"),
        (1e-24, "B", "0.000001 / EB"),
    ],
)
def test_a_rate(value, unit, text):
    assert units.rate(value, unit) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rounds"), (1, "1 round"), (2, "2 rounds"), (1000, "1,000 rounds")]
)
def test_one_of_a_thing_is_singular(count, text):
    assert units.counted(count, "round") == text


@given(st.floats(1e-8, 1e20), st.sampled_from(["MAC", "B", "s", "J", ""]))
def test_what_is_written_is_the_value_to_three_digits(value, unit):
    text, _, written = units.quantity(value, unit).partition(" ")
    prefix = written.removesuffix(unit)
    factor = {p: f for f, p in (*units.LARGE, *units.SMALL)}.get(prefix, 1.0)
    assert float(text.replace(",", "")) * factor == pytest.approx(value, rel=5.1e-3)
    assert "e" not in text


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=st.sampled_from(["MAC", "B", "s", "J", "%", "x", "z", "nat", ""]),
)
@example(value=1e24, unit="B")
@example(value=1.7e308, unit="%")
def test_any_finite_number_is_written(value, unit):
    for text in (units.quantity(value, unit), units.number(value), units.decimals(value, 2)):
        assert text.isprintable()
        assert text


@pytest.mark.skipif(NODE is None, reason="needs Node.js, which runs the script of a page")
def test_the_script_of_a_page_writes_the_same():
    values = [
        None,
        0,
        0.5,
        2.5,
        0.125,
        1234.5,
        999.7e6,
        999_950,
        0.00012345,
        1e-7,
        12.345e12,
        2.5e20,
        -1500.0,
    ]
    values += [10.0**k * m for k in range(-9, 21) for m in (1, 1.005, 9.995, 9.9949, 4.445)]
    values = [value for value in values if value is None or abs(value) < 1e19]  # JavaScript's decimals end
    cases = [(value, unit) for value in values for unit in ("", "s", "B", "MAC", "J", "%", "x", "z", "nat")]
    code = f"""{units.script()}{asset("chart.js").split("// Scales ---")[0]}
const cases = {json.dumps(cases)};
const rated = (v, u) => (v !== null && v >= 0 && u ? rate(v, u) : null);
console.log(JSON.stringify(cases.map(([v, u]) => [quantity(v, u), rated(v, u)])));"""
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True, timeout=180)
    for (value, unit), (quantity, rate) in zip(cases, json.loads(done.stdout), strict=True):
        assert quantity == units.quantity(value, unit), (value, unit)
        if rate is not None:
            assert rate == units.rate(value, unit), (value, unit)


@pytest.mark.parametrize(
    ("values", "factor", "texts"),
    [
        ([45.02, 45.31, 4530.0], 1.0, ["45.0", "45.3", "4,530.0"]),
        ([4.5, 45.0, None], 1.0, ["4.50", "45.00", "\N{EN DASH}"]),
        ([1, 2, 30], 1.0, ["1", "2", "30"]),
        ([78_340, 11_173_962], 1e-6, ["0.0783", "11.1740"]),
        ([12_345_678_901.0], 1e-6, ["12,346"]),
        ([0.0, 0.0], 1.0, ["0", "0"]),
        ([0.0, -2.5], 1.0, ["0.00", "-2.50"]),
        ([], 1.0, []),
    ],
)
def test_figures_below_each_other_have_the_same_decimals(values, factor, texts):
    assert units.column(values, factor) == texts


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=6))
def test_the_least_figure_of_a_column_keeps_three_digits(values):
    scale = units.metric_scale(values, "s")
    least = min(values)
    assert float(scale.number(least).replace(",", "")) / scale.factor == pytest.approx(least, rel=5.1e-3)
    assert len({len(scale.number(value).partition(".")[2]) for value in values}) == 1
