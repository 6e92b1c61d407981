"""Pages in a real browser: start it, visit a page, print it, read its messages and tables, ask axe-core."""

import base64
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium", reason="needs selenium, an extra of the development set-up")
import axe_playwright_python  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
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

# All rules of WCAG 2 up to AA, in a page with everything open. What a plot draws is hidden from assistive
# technology and has its contrast measured by LOW_CONTRAST, which axe-core cannot do in an SVG.
AXE = """
const done = arguments[0];
document.querySelectorAll("details").forEach((d) => { d.open = true; });
const wanted = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const options = { runOnly: wanted, resultTypes: ["violations"], preload: false };
const told = (rule) => [rule.id, rule.help, rule.nodes.map((node) => node.html.slice(0, 200))];
axe.run({ exclude: [".plot svg"] }, options).then((found) =>
  done([found.passes.length, found.violations.map(told)]));
"""


@contextmanager
def started_browser(profile: Path) -> Iterator[Any]:
    """Start Chromium without a window; it ends with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A driver given by path, and no proxy between it and this process: nothing is downloaded or sent out.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def visit(browser: Any, page: Path, *, width: int = 1280, height: int = 800, scheme: str = LIGHT) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"


def violations(browser: Any) -> list[Any]:
    """Return what axe-core finds wrong with the page that is shown: rule, meaning, elements."""
    browser.execute_script((files(axe_playwright_python) / "axe.min.js").read_text(encoding="utf-8"))
    browser.set_script_timeout(300)
    passed, found = browser.execute_async_script(AXE)
    assert passed > 20  # it did look
    return list(found)


def printed(browser: Any) -> list[int]:
    """Print the page that is shown; returns how many pieces of text each sheet of paper has."""
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    streams = {
        found[1]: found[2]
        for found in re.finditer(rb"\n(\d+) 0 obj\n<<[^>]*/FlateDecode.*?stream\n(.*?)\nendstream", pdf, re.S)
    }
    sheets = re.findall(rb"/Type /Page\b(?!s).*?/Contents (\d+) 0 R", pdf, re.S)
    assert sheets
    return [zlib.decompress(streams[sheet]).count(b"Tj") for sheet in sheets]


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
