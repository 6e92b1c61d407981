"""What each client got: figures from the ledgers, the words, a table that sorts, filters and is saved."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import messages, needs_browser, started_browser, visit
from synthetic_run import Made, page_and_tables, write_run

from fedfmd.pages.report import load_run
from fedfmd.pages.run.clients import got_section
from fedfmd.pages.run.parts import switch
from fedfmd.results.clients import outcome

TOP1 = {"global": 0.6, "affordable": 0.5, "local": 0.45}
CLIENTS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clients 0 to 19; number c has c/100 more accuracy, the first half is weak, the last was never asked."""
    folder = write_run(
        tmp_path_factory.mktemp("got") / "run", Made(rounds=4, clients=CLIENTS, cohort=5, limited=True)
    )
    lines = []
    for client in range(CLIENTS):
        for model, top1 in TOP1.items():
            if model == "local" and client == CLIENTS - 1:
                continue
            extra = client / 100 if model != "local" else 0.0
            lines.append(
                {"round": 4, "client": client, "tier": "weak" if client < 10 else "strong", "examples": 10,
                 "label_count": 3 + client % 2, "model": model, "top1": top1 + extra, "uplink_bytes": 32}
            )  # fmt: skip
    lines.append(lines[0] | {"round": 2, "top1": 0.0})
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for row in rounds:
        if row["round"] in (2, 4):
            row["client_top1_global_mean"] = 0.6
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rounds))
    return folder


def test_clients_of_one_size_are_a_group_that_is_called_by_it(folder: Path) -> None:
    run = load_run(folder)
    sizes = {client: (48, 64, 96)[client % 3] for client in range(CLIENTS)}
    rows = tuple(replace(row, examples=sizes[row.client]) for row in run.clients)
    manifest = replace(run.partition, sizes=list(sizes.values()))
    found = outcome(replace(run, clients=rows, partition=manifest))
    assert found is not None
    assert [group.name for group in found.groups["examples"]] == ["48", "49 to 64", "65 to 96"]


def test_a_choice_of_one_is_made_and_not_offered() -> None:
    one, two = switch("group", "By", [("a", "A")]), switch("group", "By", [("a", "A"), ("b", "B")])
    assert ("hidden" in one, "hidden" in two) == (True, False)
    assert 'value="a" checked' in one


def test_clients_without_a_model_are_said_to_have_none(folder: Path) -> None:
    run = load_run(folder)
    kept = tuple(row for row in run.evaluations if row.model == "global" or row.tier == "strong")
    page = got_section([replace(run, evaluations=kept)])
    assert "10 clients measured the affordable model" in page
    assert "10 more can afford no model" in page


def test_the_gain_after_training_of_their_own_is_said(folder: Path) -> None:
    run = load_run(folder)
    alone = [row for row in run.evaluations if row.model == "local"]
    tuned = tuple(
        replace(row, model="finetuned", top1=row.top1 + (0.1 if row.client else -0.1)) for row in alone
    )
    page = got_section([replace(run, evaluations=run.evaluations + tuned)])
    gained = (0.1 * (len(alone) - 1) - 0.1) / len(alone)
    assert (
        f"they gain {100 * gained:+.2f} points over training alone; {len(alone) - 1} of {len(alone)}" in page
    )


def test_the_last_evaluation_is_summed_up_by_tier_size_and_labels(folder: Path) -> None:
    run = load_run(folder)
    found = outcome(run)
    assert found is not None
    assert (found.round, found.model, len(found.clients)) == (4, "affordable", CLIENTS)
    assert [c.client for c in found.clients if c.worst] == [0, 1]
    assert [c.gain for c in found.clients[:3]] == [pytest.approx(0.05 + c / 100) for c in range(3)]
    assert found.clients[-1].gain is None
    strong, weak = found.groups["tier"]
    assert (strong.name, strong.clients, strong.gained) == ("strong", 10, 9)
    assert weak.top1.mean == pytest.approx(0.5 + 0.045)
    assert weak.top1.worst10 == pytest.approx(0.5)
    assert [group.name for group in found.groups["labels"]] == ["3", "4"]
    assert sum(group.clients for group in found.groups["examples"]) == CLIENTS
    paid = {c.client: c.macs for c in found.clients}
    assert paid == {c: sum(row.macs for row in run.clients if row.client == c) for c in range(CLIENTS)}
    assert found.asked == len({row.client for row in run.clients if row.downlink_bytes})
    for row in found.evenness:
        assert 0 <= (row.gini or 0) <= (row.clients - 1) / row.clients
        assert 1 / row.clients <= (row.jain or 1) <= 1


def test_the_tables_hold_what_each_client_got(folder: Path) -> None:
    page = page_and_tables(folder)
    assert "20 clients measured the affordable model on 10 images of their own" in page
    assert "50.50% for the worst tenth (2)" in page
    assert "19 of 19 gain anything" in page
    got = list(csv.DictReader((folder / "tables" / "got.csv").open()))
    assert [row["client"] for row in got] == [str(c) for c in range(CLIENTS)]
    assert float(got[7]["gain"]) == pytest.approx(0.12)
    measured = list(csv.DictReader((folder / "tables" / "evaluations.csv").open()))
    assert len(measured) == 3 * CLIENTS - 1 + 1
    assert {row["round"] for row in measured} == {"2", "4"}


def test_a_run_that_measured_nothing_has_no_such_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Made(rounds=3, clients=20, cohort=5))
    page = page_and_tables(run)
    assert "h-got" not in page
    assert not (run / "tables" / "got.csv").exists()
    assert "evaluations.jsonl" not in page  # of an older version, or not asked for


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@needs_browser
def test_the_table_sorts_filters_and_is_saved(browser: Any, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_and_tables(folder), encoding="utf-8")
    visit(browser, page)
    browser.execute_script("document.querySelector('details[data-grid] summary').click()")
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )

    def clients() -> list[str]:
        script = "return [...document.querySelectorAll('[data-grid] tbody th')].map((c) => c.textContent)"
        found: list[str] = browser.execute_script(script)
        return found

    def marked() -> list[str]:
        """Return the heads that bear the mark of the order."""
        script = (
            "return [...document.querySelectorAll('[data-grid] th button')]"
            ".filter((b) => getComputedStyle(b, '::after').content !== 'none').map((b) => b.textContent)"
        )
        found: list[str] = browser.execute_script(script)
        return found

    def press(selector: str) -> None:
        browser.execute_script(f"document.querySelector('{selector}').click()")

    assert clients() == [str(c) for c in range(CLIENTS)]
    press('[data-sort="gain"]')
    assert clients()[0] == "0"
    assert marked() == ["Gain"]
    press('[data-sort="gain"]')
    assert clients()[:3] == ["19", "18", "17"]  # who has no gain comes at one end
    browser.find_element("css selector", "[data-filter]").send_keys("worst")
    assert clients() == ["1", "0"]
    press("[data-export]")
    saved = tmp_path / "clients-got.csv"
    for _ in range(100):
        if saved.is_file():
            break
        browser.execute_async_script("setTimeout(arguments[0], 50)")
    rows = list(csv.DictReader(saved.open()))
    assert [row["client"] for row in rows] == ["1", "0"]
    assert float(rows[1]["gain"]) == pytest.approx(0.05)
    assert not messages(browser)
    for figure in ("got", "gotgroups", "gotpaid"):
        assert browser.find_elements("css selector", f"#figure-{figure} svg")


def heights(browser: Any, part: int) -> list[float]:
    """Return how high the bars of one part of the figure by kind are, in the order of the kinds."""
    (path,) = browser.find_elements("css selector", f"#figure-gotgroups .plot path.bar.part{part}")
    return [-float(found) for found in re.findall(r"M[^v]+v(-[0-9.]+)h", path.get_attribute("d"))]


@needs_browser
def test_bars_of_clients_bear_the_names_that_the_operator_gave(browser: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(rounds=2, clients=3, cohort=3))
    names = {"0": "north", "1": "south", "2": "west"}
    manifest = json.loads((folder / "partition.json").read_text())
    (folder / "partition.json").write_text(json.dumps(manifest | {"client_names": list(names.values())}))
    page = tmp_path / "report.html"
    page.write_text(page_and_tables(folder), encoding="utf-8")
    visit(browser, page)
    ticks = browser.find_elements("css selector", "#figure-clients text.tick")
    assert set(names.values()) <= {tick.get_attribute("textContent") for tick in ticks}


@needs_browser
def test_mean_and_worst_tenth_stand_side_by_side_with_their_values(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    """Both begin at 0, so that a mean is as high as it is, and is seen where it equals the worst tenth."""
    page = tmp_path / "report.html"
    page.write_text(page_and_tables(folder), encoding="utf-8")
    visit(browser, page)
    data = json.loads(browser.find_element("id", "report-data").get_attribute("textContent"))
    groups = data["runs"][0]["got"]["groups"]["tier"]
    told = [group["top1"][key] for group in groups for key in ("mean", "worst10")]
    pairs = zip(heights(browser, 0), heights(browser, 1), strict=True)
    drawn = [height for pair in pairs for height in pair]
    assert [height / drawn[0] for height in drawn] == pytest.approx([t / told[0] for t in told], rel=0.01)
    values = browser.find_elements("css selector", "#figure-gotgroups text.value")
    assert [value.text for value in values] == [f"{100 * value:.2f}%" for value in told]
