"""Reports of centralised runs: read back, beside the published figures, finished or not."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import Made, write_run
from synthetic_training import write_training

from fedfmd.errors import InputWarning
from fedfmd.pages.report import write_report
from fedfmd.pages.training import load_training, render_training
from fedfmd.records.filenames import holds_central_run
from fedfmd.results.published import PUBLISHED
from fedfmd.units import ABSENT


class Cells(HTMLParser):
    """Collects the rows of all tables."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def rows_of(page: str) -> list[list[str]]:
    reader = Cells()
    reader.feed(page)
    return reader.rows


def test_a_run_of_train_gets_a_page_figures_and_tables(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run", 5)

    page = write_report([folder])

    assert page == folder / "report.html"
    assert page.stat().st_size < 100_000
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"{n}_by_epoch.{s}" for n in ("accuracy", "loss") for s in ("png", "svg", "pdf")}
    with (folder / "tables" / "epochs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert [row["top1"] for row in table] == ["" if r["top1"] is None else str(r["top1"]) for r in rows]


def test_it_stands_beside_every_published_result(tmp_path: Path) -> None:
    run = load_training(write_training(tmp_path / "run", 5))

    rows = rows_of(render_training([run]))

    own = next(row for row in rows if row[-1] == "this run")
    assert own == ["cifar10", "R18 fmdconv K=4", "78.00", "89.00", "13.00", "this run"]
    published = rows[rows.index(own) + 1 :]
    assert len(published) == len(PUBLISHED)
    differs = "norm, attention norm, temperature, stem, outputs, pixels, augmentation"
    assert published[0] == ["cifar10", "R fmdconv K=4", "94.21", "99.85", ABSENT, differs]
    results = next(row for row in rows if row[0] == "made-up")
    assert results[1:4] == ["44,690,000", "78.00%", "89.00%"]


def test_an_unfinished_run_is_reported_as_far_as_it_got(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run", 3, finished=False)
    ledger = folder / "epochs.jsonl"
    ledger.write_text(ledger.read_text()[:-30])

    run = load_training(folder)
    page = write_report([folder]).read_text()

    assert [row.epoch for row in run.epochs] == [1, 2]
    assert "This run is unfinished: 2 epochs recorded." in page
    assert "beside published results" not in page


def test_a_run_killed_before_its_first_epoch(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run", 0, finished=False)
    assert "0 epochs recorded" in write_report([folder]).read_text()


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    page = render_training([load_training(write_training(tmp_path / "run", 1, finished=False))])
    assert "<b>P</b>" not in page
    assert "&lt;b&gt;P&lt;/b&gt;" in page


def test_the_two_kinds_of_runs_are_not_mixed(tmp_path: Path) -> None:
    federated = write_run(tmp_path / "federated", Made(rounds=1))
    central = write_training(tmp_path / "central", 1)
    assert not holds_central_run(federated)
    with pytest.warns(InputWarning, match=r"federated: left out, it is a run of fedfmd simulate"):
        page = write_report([central, federated], tmp_path / "report")
    assert page.read_text() == write_report([central], tmp_path / "alone").read_text()


def test_runs_of_one_name_are_told_apart_and_called_as_asked_for(tmp_path: Path) -> None:
    """In results and figures' data: by what the command line calls them, else by folder and number."""
    folders = [write_training(tmp_path / place / "run", 3) for place in ("a", "b", "c")]
    page = write_report(folders, tmp_path / "report", labels={folders[2]: "<i>Mine</i>"}).read_text()
    heads = [row[0] for row in rows_of(page)]
    for label in ("made-up (run) 1", "made-up (run) 2", "<i>Mine</i>"):
        assert label in heads
    assert "<i>Mine</i>" not in page
    with (tmp_path / "report" / "tables" / "summary.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == heads[1:4]
