"""The page in a real browser: drawn, quiet, operable by keyboard, true to the files, and narrow enough."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import (
    DARK,
    LIGHT,
    LOW_CONTRAST,
    messages,
    needs_browser,
    open_table,
    printed,
    requests,
    started_browser,
    violations,
    visit,
)
from synthetic_run import Made, write_run
from synthetic_training import write_training

from fedfmd.pages.report import load_run
from fedfmd.pages.run.page import render_page
from fedfmd.pages.training import load_training, render_training
from fedfmd.results.summary import client_totals
from fedfmd.units import percent, quantity, rate

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
pytestmark = needs_browser
FIGURES = {"accuracy", "loss", "ies", "rcs", "clients", "partition", "duration", "outcomes"}
FIGURES |= {"plans", "entropy", "usage", "cosine"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("runs")
    first = write_run(
        base / "first", Made(name="first </script> run", rounds=12, every=2, limited=True, dynamic=True)
    )
    return [
        first,
        write_run(base / "second", Made(name="second", conv="static", rounds=8, ceiling=0.7, seed=2)),
    ]


@pytest.fixture(scope="module")
def pages(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pages")
    runs = [load_run(folder) for folder in folders]
    (base / "one.html").write_text(render_page(runs[:1]))
    (base / "both.html").write_text(render_page(runs))
    trained = [write_training(base / name, epochs) for name, epochs in (("a", 6), ("b", 4))]
    (base / "trained.html").write_text(render_training([load_training(folder) for folder in trained]))
    return {name: base / f"{name}.html" for name in ("one", "both", "trained")}


def test_a_run_that_was_killed_in_its_first_round_has_a_page_without_error(browser, tmp_path):
    page = tmp_path / "begun.html"
    page.write_text(render_page([load_run(write_run(tmp_path / "begun", Made(rounds=0)))]))
    visit(browser, page)
    assert messages(browser) == []
    figures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert {one.get_attribute("data-figure") for one in figures} == {"accuracy", "loss", "partition"}
    assert all(one.find_elements(By.CSS_SELECTOR, "path.heat, path.mark") for one in figures)


EACH = [pytest.param("one", marks=pytest.mark.slow), "both", "trained"]
"""The page of one run has nothing that the comparison's has not."""


def number(text: str) -> float | None:
    if text == "–":  # noqa: RUF001 (the dash that stands for absent)
        return None
    value = float(text.rstrip("%").replace(",", ""))
    return value / 100 if text.endswith("%") else value


def ledger(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["one", "both", "trained"])
def test_every_figure_is_drawn_with_no_error_and_no_request(browser, pages, name):
    visit(browser, pages[name])
    drawn = {
        figure.get_attribute("data-figure"): figure.find_elements(
            By.CSS_SELECTOR, "path.line, path.bar, path.heat, path.mark"
        )
        for figure in browser.find_elements(By.CSS_SELECTOR, "figure")
    }
    expected = {"one": FIGURES, "both": FIGURES | {"pareto"}, "trained": {"accuracy", "loss", "seconds"}}
    assert set(drawn) == expected[name]
    assert all(drawn.values())
    plots = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => p.outerHTML).join()"
    )
    assert not re.search("NaN|undefined|Infinity", plots)
    assert [url for url in requests(browser) if url not in (pages[name].as_uri(), "data:,")] == []
    assert messages(browser) == []


def test_the_cost_axis_is_switched_by_keyboard(browser, pages):
    visit(browser, pages["one"])
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-accuracy .plot")
    assert "Accuracy by rounds" in plot.get_attribute("aria-label")
    browser.find_element(By.CSS_SELECTOR, "input[name=axis]:checked").send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.get_attribute("value") == "macs"
    assert "Accuracy by MACs" in plot.get_attribute("aria-label")
    assert plot.find_elements(By.XPATH, ".//*[starts-with(text(), 'Cumulative MACs (')]")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "Accuracy by bytes" in plot.get_attribute("aria-label")
    assert messages(browser) == []


def test_points_are_read_by_keyboard(browser, pages, folders):
    visit(browser, pages["one"])
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-accuracy .plot")
    rows = [row for row in ledger(folders[0], "rounds.jsonl") if row["top1"] is not None]
    readout = browser.find_element(By.CSS_SELECTOR, "#figure-accuracy .readout")
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert readout.get_attribute("textContent") == f"Top-1: {100 * rows[1]['top1']:.2f}% after round 2"
    plot.send_keys(Keys.ARROW_DOWN)
    assert readout.get_attribute("textContent") == f"Top-5: {100 * rows[1]['top5']:.2f}% after round 2"
    plot.send_keys(Keys.ESCAPE)
    assert not plot.find_element(By.CSS_SELECTOR, ".tip").is_displayed()


def test_shown_accuracies_and_costs_equal_the_files(browser, pages, folders):
    visit(browser, pages["one"])
    browser.find_element(By.CSS_SELECTOR, "input[name=axis][value=macs]").send_keys(Keys.SPACE)
    rows = ledger(folders[0], "rounds.jsonl")
    head, *shown = open_table(browser, "#figure-accuracy details")
    assert head[:3] == ["Round", "Cumulative MACs", "Top-1"]
    assert [number(line[0]) for line in shown] == [row["round"] for row in rows]
    assert [line[1] for line in shown] == [quantity(row["cumulative"]["macs"], "MAC") for row in rows]
    assert [line[2] for line in shown] == [percent(row["top1"]) for row in rows]
    summary = json.loads((folders[0] / "summary.json").read_text())
    cards = browser.find_element(By.CSS_SELECTOR, ".cards").text
    assert f"{100 * summary['final_top1']:.2f}%" in cards
    assert (
        f"{100 * summary['best_top1']:.2f}%\nof round {summary['best_round']}, chosen by validation" in cards
    )
    assert f"{summary['cumulative']['macs'] / 1e12:.3g} TMAC" in cards


def test_shown_scores_and_clients_equal_the_files(browser, pages, folders):
    visit(browser, pages["one"])
    rows = ledger(folders[0], "rounds.jsonl")
    for kind, written in (("ies", quantity), ("rcs", rate)):
        shown = [line[1] for line in open_table(browser, f"#figure-{kind} details")[1:]]
        assert shown == [written(row[kind]["macs"], "MAC") for row in rows]
    totals = client_totals(load_run(folders[0]))
    shown = open_table(browser, "#figure-clients details")[1:]
    assert [[number(cell) for cell in line[:3]] for line in shown] == [
        [total.client, total.examples, total.participations] for total in totals
    ]
    assert [line[4] for line in shown] == [quantity(total.macs, "MAC") for total in totals]


def test_the_table_of_rounds_holds_every_round(browser, pages, folders):
    visit(browser, pages["one"])
    heads, *shown = open_table(browser, "details[data-table=rounds]")
    rows = ledger(folders[0], "rounds.jsonl")
    assert [number(line[0]) for line in shown] == [row["round"] for row in rows]
    assert [line[heads.index("Bytes up")] for line in shown] == [
        quantity(row["uplink_bytes"], "B") for row in rows
    ]


def test_the_figures_of_a_budget_and_of_the_attention_equal_the_files(browser, pages, folders):
    visit(browser, pages["one"])
    rows = [row for row in ledger(folders[0], "rounds.jsonl") if "diagnostics" in row]
    for figure, key in (("entropy", "relative_entropy"), ("cosine", "kernel_update_cosine")):
        shown = {
            line[0]: [number(v) for v in line[1:]]
            for line in open_table(browser, f"#figure-{figure} details")[1:]
        }
        layers = rows[0]["diagnostics"][key]
        assert shown == {n: [pytest.approx(r["diagnostics"][key][n], rel=5e-3) for r in rows] for n in layers}
    shown = open_table(browser, "#figure-plans details")[1:]
    asked = Counter(row["plan"]["device"] for row in ledger(folders[0], "clients.jsonl"))
    assert {line[0]: sum(map(int, line[1:])) for line in shown} == asked
    assert [line[0] for line in shown] == ["server", "phone", "sensor <i>"]


def test_the_table_of_epochs_holds_every_epoch(browser, pages):
    visit(browser, pages["trained"])
    heads, *shown = open_table(browser, "details[data-table=epochs]")
    assert heads[:3] == ["Run", "Epoch", "Training loss"]
    assert "Top-1" in heads
    assert [(line[0], int(line[1])) for line in shown] == [("made-up (a)", e) for e in range(1, 7)] + [
        ("made-up (b)", e) for e in range(1, 5)
    ]


def test_runs_are_filtered_and_chosen(browser, pages):
    visit(browser, pages["both"])
    lines = "#figure-accuracy path.line"
    assert len(browser.find_elements(By.CSS_SELECTOR, lines)) == 2
    browser.find_element(By.CSS_SELECTOR, "input[data-show='1']").send_keys(Keys.SPACE)
    assert len(browser.find_elements(By.CSS_SELECTOR, lines)) == 1
    visible = [row for row in browser.find_elements(By.CSS_SELECTOR, "tr[data-row]") if row.is_displayed()]
    assert [row.find_element(By.TAG_NAME, "th").text for row in visible] == ["first </script> run"]
    browser.find_element(By.ID, "run-choice").send_keys("second")
    assert "of second" in browser.find_element(By.CSS_SELECTOR, "#figure-partition .plot").get_attribute(
        "aria-label"
    )
    assert messages(browser) == []


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_sideways(browser, pages, name, width):
    visit(browser, pages[name], width=width, height=844)
    for details in browser.find_elements(By.CSS_SELECTOR, "details"):
        browser.execute_script("arguments[0].open = true", details)
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = browser.execute_script(script)
    assert content <= window <= width


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_text_stands_out_from_its_ground(browser, pages, name, scheme):
    visit(browser, pages[name], scheme=scheme)
    assert browser.execute_script(LOW_CONTRAST) == []


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("trained", LIGHT, 1280)]
    + [
        pytest.param(n, s, w, marks=pytest.mark.slow)
        for n in ("one", "both")
        for s, w in ((LIGHT, 1280), (DARK, 420))
    ],
)
def test_axe_finds_nothing_that_keeps_anybody_out(browser, pages, name, scheme, width):
    visit(browser, pages[name], width=width, scheme=scheme)
    assert violations(browser) == []


def test_runs_that_are_compared_have_their_marks_beside_their_names(browser, pages):
    visit(browser, pages["both"])
    lines = "#figure-accuracy path.line"
    drawn = [line.get_attribute("class") for line in browser.find_elements(By.CSS_SELECTOR, lines)]
    named = browser.find_elements(By.CSS_SELECTOR, ".filter label:has(path.mark) path.line")
    assert [line.get_attribute("class") for line in named] == drawn


@pytest.mark.parametrize("name", EACH)
def test_figures_and_controls_have_names(browser, pages, name):
    visit(browser, pages[name])
    for plot in browser.find_elements(By.CSS_SELECTOR, ".plot"):
        assert len(plot.get_attribute("aria-label")) > 30
        assert plot.get_attribute("tabindex") == "0"
    for control in browser.find_elements(By.CSS_SELECTOR, "input, select, summary"):
        assert control.accessible_name or not control.is_displayed()
    for holder in browser.find_elements(By.CSS_SELECTOR, ".scroll"):
        assert holder.get_attribute("tabindex") == "0"
        assert holder.get_attribute("aria-label")


@pytest.mark.parametrize("name", EACH)
def test_it_prints_without_an_empty_sheet(browser, pages, name):
    visit(browser, pages[name], scheme=DARK)
    sheets = printed(browser)
    assert min(sheets) > 100
    assert messages(browser) == []
