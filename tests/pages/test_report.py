"""The files of a report: one page that needs nothing else, figures that open, tables that hold the data."""

import csv
import json
import os
import resource
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_run import Made, write_run

from fedfmd.errors import UserError
from fedfmd.pages.report import write_report
from fedfmd.pages.run.figures import MOST_STEPS, Layer, _figures, _means, _stack, write_figures
from fedfmd.pages.run.page import render_page, safe_json
from fedfmd.pages.run.payload import partition_picture
from fedfmd.pages.run.sections import _burden
from fedfmd.pages.run.tables import write_tables
from fedfmd.records.documents import Manifest
from fedfmd.results.runs import Run, load_run
from fedfmd.results.summary import ClientTotal

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Reader(HTMLParser):
    """Collects the tags with their attributes, and the data block."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][1].get("id") == "report-data" and not self.data:
            self.data = data


def read_page(html):
    reader = Reader()
    reader.feed(html)
    return reader


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_deletes_what_a_killed_one_left_and_nothing_of_others(run_folder, tmp_path):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    dead = ended.stdout.strip()
    left = [
        tmp_path / f"{name}.{dead}.tmp" for name in (".report.html", "tables/.runs.csv", "figures/.loss.png")
    ]
    kept = [tmp_path / f".notes.{dead}.tmp", tmp_path / "tables" / f".runs.csv.{os.getpid()}.tmp"]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    write_report([run_folder], tmp_path)
    assert sorted(tmp_path.rglob("*.tmp")) == sorted(kept)


def test_one_run_gets_a_page_figures_and_tables(run_folder):
    page = write_report([run_folder])
    assert page == run_folder / "report.html"
    assert page.stat().st_size < 300_000
    names = {path.stem for path in (run_folder / "figures").iterdir()}
    assert {
        "accuracy_by_round",
        "accuracy_by_macs",
        "loss",
        "efficiency_bytes",
        "clients",
        "partition",
        "rounds",
    } <= names
    for path in (run_folder / "figures").iterdir():
        if path.suffix == ".svg":
            root = ET.parse(path).getroot()
            assert list(root.iter("{http://www.w3.org/2000/svg}text")), "letters stay letters"
        else:
            assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix])
    rows = [json.loads(line) for line in (run_folder / "rounds.jsonl").read_text().splitlines()]
    table = read_csv(run_folder / "tables" / "rounds.csv")
    assert [float(line["top1"]) for line in table] == [row["top1"] for row in rows]
    assert [int(line["cumulative_macs"]) for line in table] == [row["cumulative"]["macs"] for row in rows]
    assert table[0]["ies_macs"] == "0.0"
    assert table[0]["rcs_macs"] == ""
    assert len(read_csv(run_folder / "tables" / "clients.csv")) == 20
    assert len(read_csv(run_folder / "tables" / "partition.csv")) == 20


def test_a_repeated_report_is_the_same(run_folder, tmp_path):
    runs = [load_run(run_folder)]
    assert render_page(runs) == render_page(runs)
    first, second = (write_figures(runs, tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_several_runs_are_compared_beside_them(tmp_path):
    folders = [
        write_run(tmp_path / n, Made(name="same-name", simulated=False, rounds=3, seed=s))
        for n, s in (("a", 1), ("b", 2))
    ]
    page = write_report(folders)
    assert page == tmp_path / "report" / "report.html"
    rows = read_csv(tmp_path / "report" / "tables" / "comparison.csv")
    assert {row["run"] for row in rows} == {"same-name (a)", "same-name (b)"}
    assert {row["cost_axis"] for row in rows} >= {"macs", "bytes", "client_train_seconds"}


@pytest.mark.parametrize(("out", "expected"), [("x/page.html", "x/page.html"), ("x", "x/report.html")])
def test_out_is_a_page_or_a_folder(run_folder, tmp_path, out, expected):
    assert write_report([run_folder], tmp_path / out) == tmp_path / expected
    assert (tmp_path / "x" / "tables" / "rounds.csv").is_file()


def test_the_page_refers_to_nothing_outside_itself(run_folder):
    page = render_page([load_run(run_folder)])
    for tag, attributes in read_page(page).tags:
        for name in ("src", "href", "action", "data", "poster"):
            address = attributes.get(name) or ""
            assert address in ("", "data:,") or address.startswith("#"), (tag, address)
    assert "@import" not in page
    assert "url(" not in page


def test_hostile_text_stays_text(tmp_path):
    folder = write_run(tmp_path / "run", Made(rounds=2, name=HOSTILE, conv=HOSTILE))
    ledger = folder / "clients.jsonl"
    rows = [
        json.loads(line) | {"status": "failed", "reason": HOSTILE} for line in ledger.read_text().splitlines()
    ]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for folders in ([folder], [folder, folder]):
        page = read_page(render_page([load_run(folder) for folder in folders]))
        assert sum(tag == "script" for tag, _ in page.tags) == 4  # the data and our three
        assert not any(
            tag == "img" or any(name.startswith("on") for name in given) for tag, given in page.tags
        )
        assert HOSTILE in json.loads(page.data)["runs"][0]["label"]


def test_data_cannot_leave_its_element():
    text = safe_json({"a": "</script><!--", "b": "\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--", "b": "\u2028&"}
    with pytest.raises(ValueError, match="JSON"):
        safe_json(float("nan"))


def test_a_spreadsheet_does_not_run_a_name(tmp_path):
    folder = write_run(tmp_path / "run", Made(rounds=1, name="=cmd|calc"))
    write_tables([load_run(folder)], tmp_path / "tables")
    assert read_csv(tmp_path / "tables" / "rounds.csv")[0]["run"] == "'=cmd|calc"


@pytest.mark.parametrize(
    "kept", [["config.toml"], ["config.toml", "rounds.jsonl"], ["config.toml", "partition.json"]]
)
def test_a_run_killed_early_still_gets_a_report(run_folder, kept):
    for path in run_folder.iterdir():
        if path.name not in kept:
            path.unlink()
    page = write_report([run_folder]).read_text()
    assert "Unfinished" in page
    assert ("Top-1 so far" in page, "Final top-1" in page.split("</dl>")[0]) == (True, False)


def test_populations_too_large_to_draw_are_thinned(tmp_path):
    folder = write_run(tmp_path / "large", Made(clients=1000, rounds=1, classes=10))
    run = load_run(folder)
    page = render_page([run])
    picture = json.loads(read_page(page).data)["runs"][0]["picture"]
    assert len(picture["clients"]) <= 300
    assert "the table file has all" in page
    write_tables([run], tmp_path)
    assert len(read_csv(tmp_path / "partition.csv")) == 1000


def test_what_cannot_be_written_is_the_users_to_mend(run_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report([run_folder], tmp_path / "file" / "report.html")
    with pytest.raises(UserError, match="at least one run"):
        write_report([])
    before, full = resource.getrlimit(resource.RLIMIT_FSIZE), r": File too large; make room or .* --out$"
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # stands for a full disk
    try:
        with pytest.raises(UserError, match=r"report.html: the report cannot be written" + full):
            write_report([run_folder], tmp_path / "report.html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_partition_is_drawn_with_the_names_of_the_classes() -> None:
    names = ["cat", "dog", "a very long name of a class"]
    run = SimpleNamespace(partition=Manifest(label_counts=[[1, 2, 3], [4, 5, 6]], class_names=names))
    picture = partition_picture(cast(Run, run))
    assert picture is not None
    assert picture["classes"] == names
    older = SimpleNamespace(partition=Manifest(label_counts=[[1, 2, 3]]))
    assert (partition_picture(cast(Run, older)) or {})["classes"] == ["0", "1", "2"]


def test_a_legend_names_every_run(tmp_path):
    """Matplotlib keeps what begins with an underscore to itself, and takes dollars for mathematics."""
    runs = [load_run(write_run(tmp_path / name, Made(rounds=2))) for name in ("one", "other")]
    figure = dict(_figures(runs, ["_a", "$b$ $c$"]))["accuracy_by_round"]
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()][:2] == ["_a", "$b$ $c$"]


@pytest.mark.parametrize(("places", "objects"), [(5, 10), (1000, 2)])
def test_many_bars_are_drawn_as_one_outline_of_the_same_heights(places: int, objects: int) -> None:
    layers = [Layer("used", np.arange(1.0, places + 1), "#111111"), Layer("lost", np.ones(places), "#222222")]
    plot = Figure().subplots()
    _stack(plot, range(1, places + 1), layers)
    assert len(plot.patches) == objects
    upper: list[Any] = list(plot.patches[objects // 2 :])
    tops = [bar.get_y() + bar.get_height() for bar in upper] if places == 5 else upper[0].get_data().values
    assert list(tops) == list(np.arange(2.0, places + 2))


def test_more_bars_than_dots_are_means_of_neighbours_that_keep_the_area() -> None:
    places, values = 100_003, np.arange(100_003, 0.0, -1)
    plot = Figure().subplots()
    _stack(
        plot, range(1, places + 1), [Layer("used", values, "#111111"), Layer("lost", values, "#222222", "//")]
    )
    for times, steps in enumerate(plot.patches, 1):
        heights, edges, _ = cast(Any, steps).get_data()
        assert len(heights) <= MOST_STEPS
        assert (edges[0], edges[-1]) == (0.5, places + 0.5)
        assert heights @ np.diff(edges) == pytest.approx(times * values.sum())
    assert _means(places) == " (means of 51)"
    assert _means(MOST_STEPS) == ""


def test_a_run_that_stopped_says_why_and_what_it_spent_in_vain(tmp_path):
    folder = write_run(tmp_path / "run", Made(rounds=0, finished=False))
    spent = {"macs": 705_000_000, "wasted_macs": 705_000_000, "downlink_bytes": 1000, "uplink_bytes": 500}
    ending = {"status": "stopped", "reason": "round 1: the update holds NaN", "cumulative": spent}
    (folder / "summary.json").write_text(json.dumps(ending))
    page = render_page([load_run(folder)])
    assert ">Stopped</span>" in page
    assert "This run stopped, the last recorded round is 0. Reason: round 1: the update holds NaN" in page
    assert '<dd class="value">705 MMAC</dd>' in page
    assert '<dd class="value">1.5 kB</dd>' in page
    assert '<dd class="value">100.00%</dd>' in page


def test_the_tenth_that_computed_most_says_how_many_clients_it_is() -> None:
    totals = [ClientTotal(client=i, participations=1, macs=10 if i < 2 else 1) for i in range(12)]
    assert _burden(totals) == (
        "All clients took part; the tenth that computed most (2 clients) did 66.67% of the work."
    )


def test_a_budget_of_rounds_is_called_one(tmp_path) -> None:
    folders = [write_run(tmp_path / name, Made(name=name, rounds=3)) for name in ("a", "b")]
    html = render_page([load_run(folder) for folder in folders])
    assert "Top-1 within 3 rounds" in html
