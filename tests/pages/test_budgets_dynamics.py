"""Plans, limits and diagnostics as a report counts them, from rows written by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Made, write_run

from fedfmd.pages.report import load_run, write_report
from fedfmd.pages.run.budgets import budget_panels, limit_uses, plan_counts, violations
from fedfmd.pages.run.dynamics import dynamics_picture, story
from fedfmd.pages.run.page import render_page
from fedfmd.results.runs import Run


def run_of(folder: Path, clients: list[dict], rounds: list[dict] | None = None) -> Run:
    folder.mkdir()
    (folder / "config.toml").write_text(
        '[[devices.tiers]]\nname = "fast"\n[[devices.tiers]]\nname = "a-slow"\n'
    )
    written = rounds or [{"round": 1}]
    for name, rows in (("rounds.jsonl", written), ("clients.jsonl", clients)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_run(folder)


def client(number: int, device: str, **fields: Any) -> dict:
    plan = {"device": device, "width": 1.0, "epochs": 2, "why": "the full plan fits"}
    row = {"round": 1, "client": number, "status": "completed", "downlink_bytes": 100, "uplink_bytes": 50}
    return row | {"macs": 80, "plan": plan | fields.pop("plan", {})} | fields


def test_plans_are_counted_by_device_and_named_by_what_differs(tmp_path: Path) -> None:
    half, fewer = {"width": 0.5}, {"width": 0.5, "steps": 3}
    rows = [
        client(0, "fast"),
        client(1, "fast"),
        client(2, "a-slow", plan=half),
        client(3, "a-slow", plan=fewer),
    ]
    rows.append(client(4, "a-slow", plan=half, status="dropped", downlink_bytes=0))

    found = plan_counts(run_of(tmp_path / "run", rows))

    assert found is not None
    assert found.groups == ("fast", "a-slow")
    counts = {
        (group, plan): times
        for group, row in zip(found.groups, found.counts, strict=True)
        for plan, times in zip(found.plans, row, strict=True)
        if times
    }
    assert counts == {
        ("fast", "width 1.0"): 2,
        ("a-slow", "width 0.5"): 1,
        ("a-slow", "width 0.5, fewer steps"): 1,
        ("a-slow", "left out"): 1,
    }


def test_rare_plans_and_devices_are_drawn_together(tmp_path: Path) -> None:
    rows = [client(i, f"device-{i}", plan={"batch_size": i + 1}) for i in range(30)]
    found = plan_counts(run_of(tmp_path / "run", rows))
    assert found is not None
    assert len(found.plans) == 7
    assert len(found.groups) == 11
    assert found.plans[-1] == found.groups[-1] == "others"
    assert sum(map(sum, found.counts)) == 30


def test_one_plan_for_all_is_no_figure(run_folder: Path) -> None:
    assert plan_counts(load_run(run_folder)) is None
    assert limit_uses(load_run(run_folder)) == []
    page = render_page([load_run(run_folder)])
    assert "Plans and limits" not in page
    assert "Inside the dynamic convolutions" not in page


def test_use_is_held_against_each_clients_own_limit(tmp_path: Path) -> None:
    rows = [
        client(0, "fast", budget={"macs": 160, "uplink_bytes": 50}),
        client(1, "fast", budget={"macs": 100}),
        client(2, "fast", budget={"macs": 40, "violations": ["macs"]}),
        client(3, "fast", budget={"macs": 10}, status="dropped", downlink_bytes=0, uplink_bytes=0, macs=0),
        client(4, "fast", budget={}),
    ]
    run = run_of(tmp_path / "run", rows)

    macs, sent = limit_uses(run)

    assert (macs.key, macs.times, macs.broken, macs.least, macs.most) == ("macs", 3, 1, 10, 160)
    assert (macs.median_share, macs.largest_share) == (0.8, 2.0)
    assert (sent.key, sent.times, sent.broken, sent.largest_share) == ("uplink_bytes", 1, 0, 1.0)
    assert violations(run) == 1
    assert "One limit was broken." in budget_panels([run])


def test_diagnostics_become_tables_of_layers_and_rounds(tmp_path: Path) -> None:
    def row(number: int, entropy: dict, usage: dict) -> dict:
        diagnostics = {
            "relative_entropy": entropy,
            "kernel_usage": usage,
            "kernel_update_cosine": {"b": None},
        }
        return {"round": number, "temperature_kernel": 34 - number, "diagnostics": diagnostics}

    rounds = [
        {"round": 0},
        row(1, {"a": 1.0}, {"a": [0.5, 0.5]}),
        row(2, {"a": 0.5, "b": 0.25}, {"a": [0.9, 0.1], "b": "broken"}),
    ]
    run = run_of(tmp_path / "run", [], rounds)

    picture = dynamics_picture(run)

    assert picture == {
        "rounds": [1, 2],
        "layers": ["a", "b"],
        "entropy": [[1.0, 0.5], [None, 0.25]],
        "cosine": [[None, None], [None, None]],
        "usage": [[0.9, 0.1], []],
        "last": 2,
    }
    assert "1 in round 1, 0.375 in round 2, while the kernel temperature went from 33 to 32" in story(run)


def test_long_runs_are_thinned_and_end_with_the_last_round(tmp_path: Path) -> None:
    rounds = [{"round": r, "diagnostics": {"relative_entropy": {"a": 0.5}}} for r in range(1, 1001)]
    picture = dynamics_picture(run_of(tmp_path / "run", [], rounds))
    assert picture is not None
    assert len(picture["rounds"]) <= 150
    assert picture["rounds"][-1] == 1000


@pytest.mark.parametrize(
    "content", ["null", "[]", '{"relative_entropy": [1]}', '{"kernel_usage": {"a": [1]}}']
)
def test_diagnostics_of_another_form_are_left_out(tmp_path: Path, content: str) -> None:
    run = run_of(tmp_path / "run", [], [{"round": 1, "diagnostics": json.loads(content)}])
    assert dynamics_picture(run) is None
    render_page([run])


def test_tables_are_written_where_there_is_something(tmp_path: Path) -> None:
    full = write_run(tmp_path / "full", Made(rounds=3, limited=True, dynamic=True))
    plain = write_run(tmp_path / "plain", Made(rounds=2))
    write_report([full])
    write_report([plain])

    names = {path.name for path in (full / "tables").iterdir()}
    assert names - {path.name for path in (plain / "tables").iterdir()} == {
        "plans.csv",
        "limits.csv",
        "diagnostics.csv",
    }
    drawn = {p.stem for p in (full / "figures").iterdir()} - {p.stem for p in (plain / "figures").iterdir()}
    assert {"plans", "diagnostics"} <= drawn
    with (full / "tables" / "diagnostics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ledger = [json.loads(line) for line in (full / "rounds.jsonl").read_text().splitlines()]
    shown = {(int(r["round"]), r["layer"]): float(r["kernel_update_cosine"]) for r in rows}
    assert shown == {
        (row["round"], layer): value
        for row in ledger
        for layer, value in row.get("diagnostics", {}).get("kernel_update_cosine", {}).items()
    }
