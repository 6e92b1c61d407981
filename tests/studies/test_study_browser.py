"""A study's page in a real browser: drawn, quiet, filtered and switched by keyboard, readable, printable."""

import re
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
from made_up import made_up, two_arms

from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.page import render_study
from fedfmd.results.findings import find
from fedfmd.studies.plan import load_study
from fedfmd.studies.runner import RunOutcome
from fedfmd.units import ABSENT

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
pytestmark = needs_browser

STUDY = """name = "made-up"
arms = [
  { name = "cheap" },
  { name = "dear", set = { "client.epochs" = 2 } },
  { name = "<lost>", set = { "client.epochs" = 3 } },
]
[experiment]
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("study")
    (base / "study.toml").write_text(STUDY)
    study, trials = load_study(base / "study.toml"), two_arms()
    failed: dict[str, tuple[Any, str]] = {"<lost>": ("failed", "<b>diverged</b>")}
    outcomes = [
        RunOutcome(run.arm, run.seed, run.folder, *failed.get(run.arm, ("finished", "")))
        for run in study.runs
    ]
    findings = find(study.design, study.config, study.baseline, trials)
    looks = Looks(study.design, findings.answer.roles, {})
    (base / "report.html").write_text(render_study(study, findings, looks, trials, outcomes))
    return base / "report.html"


BUDGET = "devices.tiers.weak.budget.macs_fraction"
MANY = f"""name = "many"
seeds = [0, 1]
[experiment.devices]
kind = "tiers"
tiers = [{{ name = "strong" }}, {{ name = "weak" }}]
[axes]
"model.conv" = ["static", "odconv", "fmdconv"]
"policy.kind" = ["drop", "width"]
"{BUDGET}" = [0.1, 1.0]
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of twelve arms whose means lie close to each other."""
    base = tmp_path_factory.mktemp("many")
    (base / "study.toml").write_text(MANY)
    study = load_study(base / "study.toml")
    trials = [
        made_up(arm.name, seed, [0.1, 0.3 + 0.004 * i, 0.5 + 0.007 * i + 0.03 * seed], 1e9 * (1 + 0.01 * i))
        for i, arm in enumerate(study.arms)
        for seed in study.config.seeds
    ]
    outcomes = [RunOutcome(run.arm, run.seed, run.folder, "finished") for run in study.runs]
    findings = find(study.design, study.config, study.baseline, trials)
    looks = Looks(study.design, findings.answer.roles, {})
    (base / "report.html").write_text(render_study(study, findings, looks, trials, outcomes))
    return base / "report.html"


# Names beside points that are cut off, or that lie on another name or on a point.
MISPLACED = """
const box = (node) => node.getBoundingClientRect();
const over = (a, b) =>
  a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
const middle = (b) => new DOMRect((b.left + b.right) / 2 - 2, (b.top + b.bottom) / 2 - 3, 4, 6);
return [...document.querySelectorAll("#figure-pareto .plot svg")].flatMap((svg) => {
  const names = [...svg.querySelectorAll("text.label")];
  const points = [...svg.querySelectorAll("path.mark:not(.faint)")].map((node) => middle(box(node)));
  return names.filter((name) => {
    const own = box(name);
    const others = names.filter((other) => other !== name).map(box);
    const whole = own.left >= box(svg).left && own.right <= box(svg).right + 1;
    return !whole || [...others, ...points].some((other) => over(own, other));
  }).map((name) => name.textContent);
});
"""


def lines(browser: Any, figure: str) -> int:
    return len(browser.find_elements(By.CSS_SELECTOR, f"#figure-{figure} .plot path.line"))


def visible(browser: Any, selector: str) -> list[Any]:
    return [node for node in browser.find_elements(By.CSS_SELECTOR, selector) if node.is_displayed()]


def readout(browser: Any, figure: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, f"#figure-{figure} .readout").get_attribute("textContent")


def test_every_figure_is_drawn_with_no_error_and_no_request(browser, page):
    visit(browser, page)
    figures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert {f.get_attribute("data-figure") for f in figures} == {
        "answer",
        "budget",
        "differences",
        "pareto",
        "curves",
    }
    assert all(f.find_elements(By.CSS_SELECTOR, "path.mark") for f in figures)
    assert (lines(browser, "budget"), lines(browser, "curves")) == (2, 6)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#figure-budget path.band")) == 2
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => p.outerHTML).join()"
    )
    assert not re.search("NaN|undefined|Infinity", drawn)
    assert [url for url in requests(browser) if url not in (page.as_uri(), "data:,")] == []
    assert messages(browser) == []


def test_the_cost_axis_is_switched_by_keyboard(browser, page):
    visit(browser, page)
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-budget .plot")
    assert "within a budget of MACs" in plot.get_attribute("aria-label")
    before = [node.get_attribute("aria-label") for node in visible(browser, ".scroll[data-axis]")]
    assert before == ["At equal cost, by MACs", "Against cheap, by MACs", "Scores, by MACs"]
    browser.find_element(By.CSS_SELECTOR, "input[name=axis]:checked").send_keys(Keys.ARROW_RIGHT)
    assert "within a budget of rounds" in plot.get_attribute("aria-label")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "within a budget of bytes" in plot.get_attribute("aria-label")
    after = [node.get_attribute("aria-label") for node in visible(browser, ".scroll[data-axis]")]
    assert after == ["At equal cost, by bytes", "Against cheap, by bytes", "Scores, by bytes"]
    assert messages(browser) == []


def test_arms_are_filtered_in_figures_and_tables(browser, page):
    visit(browser, page)
    browser.find_element(By.CSS_SELECTOR, "input[data-level='0:0']").send_keys(Keys.SPACE)
    assert (lines(browser, "budget"), lines(browser, "curves")) == (1, 3)
    assert {row.find_element(By.TAG_NAME, "th").text for row in visible(browser, "tr[data-row]")} == {"dear"}
    browser.find_element(By.CSS_SELECTOR, "input[data-level='0:1']").send_keys(Keys.SPACE)
    assert "No arm is shown" in browser.find_element(By.CSS_SELECTOR, "#figure-budget .plot").text
    assert messages(browser) == []


def test_points_say_their_run(browser, page):
    visit(browser, page)
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-curves .plot")
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert readout(browser, "curves") == "cheap, seed 1: 30.00% after round 1, 1 MAC"
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-differences .plot")
    plot.send_keys(Keys.ARROW_RIGHT)
    assert readout(browser, "differences") == "dear: mean +10.00 points"
    plot.send_keys(Keys.ARROW_RIGHT)
    assert readout(browser, "differences") == "dear, seed 0: +10.00 points"


def test_a_point_is_read_with_the_pointer(browser, page):
    visit(browser, page)
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-pareto .plot")
    browser.execute_script("arguments[0].scrollIntoView()", plot)
    mark = plot.find_elements(By.CSS_SELECTOR, "path.mark:not(.faint)")[-1]
    webdriver = pytest.importorskip("selenium.webdriver")
    webdriver.ActionChains(browser).move_to_element(mark).perform()
    assert "dear" in plot.find_element(By.CSS_SELECTOR, ".tip").text
    assert "70.00% for 4 MAC" in plot.find_element(By.CSS_SELECTOR, ".tip").text


def test_shown_figures_are_those_of_the_analysis(browser, page):
    visit(browser, page)
    head, *rows = open_table(browser, "#figure-budget details")
    assert head == ["Arm", "Budget", "Mean", "Low", "High"]
    assert rows[0] == ["cheap", "0 MAC", "10.00%", ABSENT, ABSENT]
    assert rows[-1] == ["dear", "4 MAC", "70.00%", "45.16%", "94.84%"]
    cells = [cell.text.split("\n") for cell in visible(browser, "tr[data-row='1'] td")]
    assert cells[0] == ["70.00", "\N{PLUS-MINUS SIGN} 10.00 (70.00)", "[45.16, 94.84]"]


def test_a_table_is_sorted_by_its_heads_and_saved(browser, page):
    visit(browser, page)
    holder = "section[aria-labelledby=h-answer] .scroll"
    head = browser.find_elements(By.CSS_SELECTOR, f"{holder} th button")[1]

    def arms() -> list[str]:
        return [node.text for node in browser.find_elements(By.CSS_SELECTOR, f"{holder} tbody th")]

    head.send_keys(Keys.ENTER)
    assert arms() == ["dear", "cheap"]
    head.send_keys(Keys.ENTER)
    assert arms() == ["cheap", "dear"]
    table = browser.execute_script(f"return tableCsv(document.querySelector('{holder} table'))")
    assert table.splitlines()[1].startswith('cheap,"40.00')
    assert browser.find_element(By.CSS_SELECTOR, f"{holder} .save").text == "Save as CSV"
    assert messages(browser) == []


def test_figures_with_prefixes_are_sorted_by_what_they_are(browser, page):
    visit(browser, page)
    holder = "section[aria-labelledby=h-runs] .scroll"
    heads = browser.find_elements(By.CSS_SELECTOR, f"{holder} th button")
    macs = next(head for head in heads if head.text.startswith("MACs"))
    orders = []
    for _ in range(2):
        macs.send_keys(Keys.ENTER)
        arms = [node.text for node in browser.find_elements(By.CSS_SELECTOR, f"{holder} tbody th")]
        orders.append(list(dict.fromkeys(arms)))
    assert orders == [["dear", "cheap", "<lost>"], ["cheap", "dear", "<lost>"]]


def test_the_measure_of_the_differences_is_switched(browser, page):
    visit(browser, page)
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-differences .plot")
    assert plot.get_attribute("aria-label").startswith("Top-1 within 2 MAC, minus that of cheap")
    browser.find_element(By.CSS_SELECTOR, "input[name=measure][value=final]").send_keys(Keys.SPACE)
    assert "dear +30.00 points" in plot.get_attribute("aria-label")


def test_a_cost_with_fewer_budgets_than_the_study_s_own_draws_what_it_has(browser, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY + "[compare]\nbudgets = [0.5, 1.0, 2.0, 3.0]\n")
    study, trials = load_study(tmp_path / "study.toml"), two_arms()
    outcomes = [RunOutcome(run.arm, run.seed, run.folder, "finished") for run in study.runs]
    findings = find(study.design, study.config, study.baseline, trials)
    looks = Looks(study.design, findings.answer.roles, {})
    (tmp_path / "report.html").write_text(render_study(study, findings, looks, trials, outcomes))
    visit(browser, tmp_path / "report.html")
    browser.find_element(By.CSS_SELECTOR, "input[name=measure][value=within_4]").send_keys(Keys.SPACE)
    browser.find_element(By.CSS_SELECTOR, "input[name=axis][value=bytes]").send_keys(Keys.SPACE)
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-differences .plot")
    assert plot.text == "This cost has fewer budgets."
    browser.find_element(By.CSS_SELECTOR, "input[name=measure][value=within_1]").send_keys(Keys.SPACE)
    assert plot.get_attribute("aria-label").startswith("Top-1 within 20 B, minus that of cheap")
    assert messages(browser) == []


def test_failures_are_told_and_hostile_names_stay_text(browser, page):
    visit(browser, page)
    assert browser.find_element(By.CSS_SELECTOR, ".status").text == "3 of 9 runs failed"
    notes = browser.find_element(By.CSS_SELECTOR, ".notes").text
    assert "<lost>, seed 0, failed: <b>diverged</b>" in notes
    assert "<lost>: no run finished, the arm is in no figure." in notes


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_sideways(browser, page, width):
    visit(browser, page, width=width, height=844)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    content, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert content <= window <= width


def test_a_printed_page_holds_its_tables(browser, page):
    visit(browser, page, width=690)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    content, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    sheets = printed(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert content <= window
    assert min(sheets) > 100
    assert messages(browser) == []


# How much larger than drawn each chart is shown, and the names of axes that reach beyond their chart.
ON_PAPER = """
const charts = [...document.querySelectorAll(".plot svg")];
const beyond = (svg) => [...svg.querySelectorAll("text.axis")].filter((text) => {
  const [own, whole] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
  return own.left < whole.left - 1 || own.right > whole.right + 1;
});
return [charts.map((svg) => svg.clientWidth / svg.viewBox.baseVal.width),
        charts.flatMap(beyond).map((text) => text.textContent)];
"""


def test_many_arms_are_printed_in_type_of_one_size_with_heads_on_every_sheet(browser, many):
    visit(browser, many, width=690)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    larger, beyond = browser.execute_script(ON_PAPER)
    kept = browser.execute_script("return document.querySelectorAll('thead button').length")
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    sorters = browser.execute_script("return document.querySelectorAll('thead button').length")
    sheets = printed(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(larger) > 12
    assert all(0.9 < times < 1.15 for times in larger)
    assert beyond == []
    assert kept == 0  # what a button holds is not repeated
    assert sorters > 0
    assert min(sheets) > 100


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_text_stands_out_from_its_ground(browser, page, scheme):
    visit(browser, page, scheme=scheme)
    assert browser.execute_script(LOW_CONTRAST) == []


@pytest.mark.parametrize("width", [420, 1440])
def test_names_beside_points_are_whole_and_lie_on_nothing(browser, many, width):
    visit(browser, many, width=width)
    panels = browser.find_elements(By.CSS_SELECTOR, "#figure-pareto .panel")
    assert len(panels) == 4
    assert len(browser.find_elements(By.CSS_SELECTOR, "#figure-pareto text.label")) == 12
    assert browser.execute_script(MISPLACED) == []


@pytest.mark.parametrize("figure", ["budget", "curves", "pareto"])
def test_panels_are_of_one_size_and_scale(browser, many, figure):
    visit(browser, many, width=1440)
    panels = browser.find_elements(By.CSS_SELECTOR, f"#figure-{figure} .panel svg")
    assert len(panels) == 4
    for panel in panels:
        drawn = float(panel.get_dom_attribute("viewBox").split()[2])
        assert drawn == pytest.approx(panel.rect["width"], abs=2)
        assert panel.rect["width"] == pytest.approx(panels[0].rect["width"], abs=1)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [(LIGHT, 1280), (DARK, 420)])
def test_axe_finds_nothing_that_keeps_anybody_out(browser, many, scheme, width):
    visit(browser, many, width=width, scheme=scheme)
    assert violations(browser) == []


def test_figures_and_controls_have_names(browser, page):
    visit(browser, page)
    for plot in browser.find_elements(By.CSS_SELECTOR, ".plot"):
        assert len(plot.get_attribute("aria-label")) > 30
        assert plot.get_attribute("tabindex") == "0"
    for control in browser.find_elements(By.CSS_SELECTOR, "input, select, summary"):
        assert control.accessible_name or not control.is_displayed()
    for holder in browser.find_elements(By.CSS_SELECTOR, ".scroll"):
        assert holder.get_attribute("tabindex") == "0"
        assert holder.get_attribute("aria-label")
