"""The page in a real browser: drawn, quiet, operable by keyboard, true to the files, and narrow enough."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Made, write_run

from fedfmd.report import load_run
from fedfmd.report.page import render_page
from fedfmd.report.summary import client_totals

selenium = pytest.importorskip("selenium", reason="needs selenium, an extra of the development set-up")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and chromedriver, and does not find them on the PATH"
)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FIGURES = {"accuracy", "loss", "ies", "rcs", "clients", "partition", "duration", "outcomes"}
FIGURES |= {"plans", "entropy", "usage", "cosine"}
LIGHT, DARK = "light", "dark"

# Contrast of each element's own text against the first opaque background behind it (WCAG 2, 1.4.3).
LOW_CONTRAST = """
const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function channels(colour) {
  paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
}
function luminance([r, g, b]) {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function background(node) {
  for (let n = node; n; n = n.parentElement) {
    const colour = channels(getComputedStyle(n).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return channels(getComputedStyle(document.body).backgroundColor);
}
return [...document.querySelectorAll("body *")].filter((node) =>
  node.checkVisibility({ visibilityProperty: true }) &&
  !["SCRIPT", "STYLE", "OPTION"].includes(node.tagName) &&
  [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())
).map((node) => {
  const style = getComputedStyle(node);
  const ink = luminance(channels(node.namespaceURI.endsWith("svg") ? style.fill : style.color));
  const paper = luminance(background(node));
  const [light, dim] = [Math.max(ink, paper), Math.min(ink, paper)];
  return [(light + 0.05) / (dim + 0.05), node.textContent.trim().slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A driver given by path, and no proxy between it and this process: nothing is downloaded or sent out.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


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
    return {"one": base / "one.html", "both": base / "both.html"}


def visit(browser: Any, page: Path, *, width: int = 1280, height: int = 800, scheme: str = LIGHT) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"


def messages(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def open_table(browser: Any, selector: str) -> list[list[str]]:
    """Open a table with the keyboard and read it, head first."""
    holder = browser.find_element(By.CSS_SELECTOR, selector)
    holder.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    script = (
        "return [...arguments[0].querySelectorAll('tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    return eventually(lambda: browser.execute_script(script, holder))


def eventually(read: Any) -> Any:
    """Wait for the page's own events: what ``read`` gives once it is not empty."""
    return WebDriverWait(None, 10, poll_frequency=0.05).until(lambda _: read())


def number(text: str) -> float | None:
    if text == "–":  # noqa: RUF001 (the dash that stands for absent)
        return None
    value = float(text.rstrip("%").replace(",", ""))
    return value / 100 if text.endswith("%") else value


def ledger(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["one", "both"])
def test_every_figure_is_drawn_with_no_error_and_no_request(browser, pages, name):
    visit(browser, pages[name])
    drawn = {
        figure.get_attribute("data-figure"): figure.find_elements(
            By.CSS_SELECTOR, "path.line, path.bar, path.heat, path.mark"
        )
        for figure in browser.find_elements(By.CSS_SELECTOR, "figure")
    }
    assert set(drawn) == FIGURES | ({"pareto"} if name == "both" else set())
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
    assert "Accuracy by macs" in plot.get_attribute("aria-label")
    assert plot.find_elements(By.XPATH, ".//*[text()='Cumulative MACs']")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "Accuracy by bytes" in plot.get_attribute("aria-label")
    assert messages(browser) == []


def test_points_are_read_by_keyboard(browser, pages, folders):
    visit(browser, pages["one"])
    plot = browser.find_element(By.CSS_SELECTOR, "#figure-accuracy .plot")
    rows = [row for row in ledger(folders[0], "rounds.jsonl") if row["top1"] is not None]
    readout = browser.find_element(By.CSS_SELECTOR, "#figure-accuracy .readout")
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert readout.get_attribute("textContent") == f"Top-1: {100 * rows[1]['top1']:.1f}% after round 2"
    plot.send_keys(Keys.ARROW_DOWN)
    assert readout.get_attribute("textContent") == f"Top-5: {100 * rows[1]['top5']:.1f}% after round 2"
    plot.send_keys(Keys.ESCAPE)
    assert not plot.find_element(By.CSS_SELECTOR, ".tip").is_displayed()


def test_shown_accuracies_and_costs_equal_the_files(browser, pages, folders):
    visit(browser, pages["one"])
    browser.find_element(By.CSS_SELECTOR, "input[name=axis][value=macs]").send_keys(Keys.SPACE)
    rows = ledger(folders[0], "rounds.jsonl")
    head, *shown = open_table(browser, "#figure-accuracy details")
    assert head[:3] == ["Round", "Cumulative MACs [MAC]", "Top-1"]
    assert [number(line[0]) for line in shown] == [row["round"] for row in rows]
    assert [number(line[1]) for line in shown] == [row["cumulative"]["macs"] for row in rows]
    assert [number(line[2]) for line in shown] == [
        row["top1"] if row["top1"] is None else pytest.approx(row["top1"], abs=1e-4) for row in rows
    ]
    summary = json.loads((folders[0] / "summary.json").read_text())
    cards = browser.find_element(By.CSS_SELECTOR, ".cards").text
    assert f"{100 * summary['final_top1']:.2f}%" in cards
    assert f"{100 * summary['best_top1']:.2f}%\nin round {summary['best_round']}" in cards
    assert f"{summary['cumulative']['macs'] / 1e12:.3g} TMAC" in cards


def test_shown_scores_and_clients_equal_the_files(browser, pages, folders):
    visit(browser, pages["one"])
    rows = ledger(folders[0], "rounds.jsonl")
    for kind in ("ies", "rcs"):
        shown = [number(line[1]) for line in open_table(browser, f"#figure-{kind} details")[1:]]
        assert shown == [
            None if r[kind]["macs"] is None else pytest.approx(r[kind]["macs"], rel=1e-5) for r in rows
        ]
    totals = client_totals(load_run(folders[0]))
    shown = open_table(browser, "#figure-clients details")[1:]
    assert [[number(cell) for cell in line[:3]] for line in shown] == [
        [total.client, total.examples, total.participations] for total in totals
    ]
    assert [number(line[4]) for line in shown] == [total.macs for total in totals]


def test_the_table_of_rounds_holds_every_round(browser, pages, folders):
    visit(browser, pages["one"])
    heads, *shown = open_table(browser, "details[data-table=rounds]")
    rows = ledger(folders[0], "rounds.jsonl")
    assert [number(line[0]) for line in shown] == [row["round"] for row in rows]
    assert [number(line[heads.index("Bytes up")]) for line in shown] == [row["uplink_bytes"] for row in rows]


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


@pytest.mark.parametrize("name", ["one", "both"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_sideways(browser, pages, name, width):
    visit(browser, pages[name], width=width, height=844)
    for details in browser.find_elements(By.CSS_SELECTOR, "details"):
        browser.execute_script("arguments[0].open = true", details)
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = browser.execute_script(script)
    assert content <= window <= width


@pytest.mark.parametrize("name", ["one", "both"])
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_text_stands_out_from_its_ground(browser, pages, name, scheme):
    visit(browser, pages[name], scheme=scheme)
    assert browser.execute_script(LOW_CONTRAST) == []


@pytest.mark.parametrize("name", ["one", "both"])
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


def test_it_prints(browser, pages):
    visit(browser, pages["one"], scheme=DARK)
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]
    assert len(pdf) > 20_000
    assert messages(browser) == []
