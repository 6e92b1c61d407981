"""Run directories as they are found: finished, torn by a kill, damaged, or none at all."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from synthetic_run import Made, write_run

from fedfmd.costs.scores import inverse_efficiency
from fedfmd.errors import UserError
from fedfmd.pages.report import load_run
from fedfmd.records.cost import Cost
from fedfmd.records.rows import EvaluationRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.results.clients import outcome
from fedfmd.results.costs import AXES, used_axes
from fedfmd.results.summary import best_round, client_totals, compare, final_round, lookup, share

MACS = next(axis for axis in AXES if axis.key == "macs")


def test_a_finished_run_reads_back_as_written(run_folder):
    run = load_run(run_folder)
    summary = json.loads((run_folder / "summary.json").read_text())
    assert (run.finished, run.notes, run.name) == (True, (), "made-up")
    assert [row.round for row in run.rounds] == list(range(7))
    assert len(run.clients) == 30
    assert final_round(run).top1 == summary["final_top1"]
    assert best_round(run).round == summary["best_round"]
    assert run.rounds[-1].cumulative == summary["cumulative"]


def test_client_totals_add_up_to_the_rounds(run_folder):
    run = load_run(run_folder)
    totals = client_totals(run)
    assert [total.client for total in totals] == list(range(20))
    assert sum(total.macs for total in totals) == run.rounds[-1].cumulative["macs"]
    assert sum(total.bytes for total in totals) == run.rounds[-1].cumulative["bytes"]
    assert sum(total.participations for total in totals) == 30
    assert sum(t.wasted_macs for t in totals) == sum(row.wasted_macs for row in run.rounds)
    assert sum(t.wasted_bytes for t in totals) == sum(row.wasted_bytes for row in run.rounds)
    assert sum(sum(t.reasons.values()) for t in totals) == sum(t.unused for t in totals)


def test_a_killed_run_is_read_up_to_its_torn_line(run_folder):
    (run_folder / "summary.json").unlink()
    ledger = run_folder / "rounds.jsonl"
    ledger.write_text(ledger.read_text()[:-40])
    run = load_run(run_folder)
    assert not run.finished
    assert run.rounds[-1].round == 5
    assert max(row.round for row in run.clients) == 5
    assert run.notes[0] == "This run is unfinished: the last recorded round is 5."
    assert any("rounds.jsonl was torn" in note for note in run.notes)


@pytest.mark.parametrize(
    "name", ["summary.json", "environment.json", "partition.json", "clients.jsonl", "rounds.jsonl"]
)
def test_any_file_but_the_config_may_be_missing(run_folder, name):
    (run_folder / name).unlink()
    run = load_run(run_folder)
    assert run.finished == (name != "summary.json")
    client_totals(run), compare([run, run], MACS)


def test_nan_counts_as_absent(run_folder):
    ledger = run_folder / "rounds.jsonl"
    lines = ledger.read_text().splitlines()
    row = json.loads(lines[3]) | {"test_loss": float("nan"), "top1": None}
    lines[3] = json.dumps(row)
    ledger.write_text("\n".join(lines) + "\n")
    run = load_run(run_folder)
    assert (run.rounds[3].test_loss, run.rounds[3].top1) == (None, None)


def test_a_repeated_attempt_keeps_all_its_costs(run_folder):
    ledger = run_folder / "clients.jsonl"
    first = json.loads(ledger.read_text().splitlines()[0])
    with ledger.open("a") as file:
        file.write(json.dumps(first | {"attempt": 1}) + "\n")
    assert len(load_run(run_folder).clients) == 31
    with ledger.open("a") as file:
        file.write(json.dumps(first | {"attempt": 1}) + "\n")
    run = load_run(run_folder)
    assert len(run.clients) == 31
    assert any("repeated rows" in note for note in run.notes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("name = ", "config.toml: is not valid TOML"), (b"\xff\xfe", "config.toml: cannot be read as UTF-8")],
)
def test_a_damaged_config_is_refused(run_folder, content, problem):
    (run_folder / "config.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load_run(run_folder)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("partition.json", "{", "partition.json is not valid JSON"),
        ("environment.json", "[1]", "environment.json must hold a JSON object"),
        ("environment.json", "[" * 100_000, "environment.json is not valid JSON (it is nested too deeply)"),
        ("summary.json", b"\xff\xfe", "summary.json cannot be read as UTF-8 text"),
        (
            "rounds.jsonl",
            '{"round": 0\n{"round": 1}\n',
            "jsonl are damaged and left out: line 1: is not",
        ),
        ("rounds.jsonl", '{"top1": 0.5}\n{"round": 1}\n', "line 1: round: Field required"),
        ("rounds.jsonl", '[]\n{"round": 1}\n', "line 1: must be a JSON object"),
        ("rounds.jsonl", '{"round": 1, "cumulative": {"macs": -1}}\n', "line 1: cumulative.macs"),
        (
            "clients.jsonl",
            '{"round": 1, "client": 2, "macs": "many"}\n',
            "line 1: macs: must be a valid",
        ),
        ("clients.jsonl", '{"round": 1, "client": 1e999}\n', "line 1: client"),
        ("partition.json", '{"sizes": [null, 3]}', "sizes.0: must be a valid integer"),
        ("partition.json", '{"label_counts": [[1, 2], [3]]}', "label_counts: must have rows of one length"),
        ("partition.json", '{"clients": "many"}', "clients: must be a valid integer"),
        ("summary.json", '{"status": "finished", "num_classes": 0}', "num_classes: must be greater"),
        (
            "summary.json",
            '{"status": 1, "rounds": -1}',
            "rounds: must be greater than or equal to 0, and 1 more",
        ),
        ("environment.json", '{"packages": ["torch"]}', "packages: must be"),
    ],
)
def test_what_is_damaged_is_left_out_and_named(run_folder, name, content, problem):
    (run_folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    run = load_run(run_folder)
    note, *lost = [note for note in run.notes if name in note]
    assert ["lacks" in more for more in lost] == [True] * (name == "rounds.jsonl")
    assert problem in note
    assert "\n" not in note
    client_totals(run), compare([run, run], MACS)


def test_the_sound_part_of_a_damaged_document_is_read(run_folder):
    document = json.loads((run_folder / "summary.json").read_text()) | {"parameters": "many", "name": None}
    (run_folder / "summary.json").write_text(json.dumps(document))
    run = load_run(run_folder)
    assert (run.finished, run.summary.parameters) == (True, None)
    assert run.summary.final_top1 == document["final_top1"]


def test_what_befell_a_run_and_a_newer_version_are_said(run_folder):
    (run_folder / "notes.jsonl").write_text('{"round": 2, "kind": "config", "note": "changed"}\n')
    (run_folder / "environment.json").write_text('{"schema": 99}')
    notes = load_run(run_folder).notes
    assert "After round 2: changed." in notes
    assert any("A newer fedfmd wrote this run (schema 99" in note for note in notes)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no config\.toml"):
        load_run(tmp_path)


def test_a_study_s_folder_is_told_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "s"\n')
    with pytest.raises(UserError, match=f"it is a study's, name runs in {tmp_path}/runs$"):
        load_run(tmp_path)
    with pytest.raises(UserError, match=f"it is a study's, name runs in {tmp_path}/runs$"):
        RunDirectory.open(tmp_path)


def test_axes_without_a_device_model_are_not_offered(tmp_path):
    run = load_run(write_run(tmp_path / "plain", Made(rounds=2, simulated=False)))
    assert [axis.key for axis in used_axes([run])] == [
        "round",
        "macs",
        "bytes",
        "client_train_seconds",
        "host_seconds",
    ]


def test_comparison_at_equal_cost(tmp_path):
    cheap = write_run(tmp_path / "cheap", Made(rounds=5, forward_macs=1_000_000, ceiling=0.6))
    dear = write_run(tmp_path / "dear", Made(rounds=25, forward_macs=9_000_000, ceiling=0.9))
    runs = [load_run(cheap), load_run(dear)]
    found = compare(runs, MACS)
    assert found.budget == runs[0].rounds[-1].cumulative["macs"]
    assert found.target == best_round(runs[0]).validation_top1
    assert found.rows[0].top1_at_budget == final_round(runs[0]).top1
    assert found.rows[1].cost_to_target > found.budget
    assert [row.on_front for row in found.rows] == [True, True]
    assert [row.bis for row in found.rows] == [None, None]
    for row in found.rows:
        assert row.ies == pytest.approx(inverse_efficiency(row.cost, row.final_top1))


def test_without_validation_nothing_is_chosen(tmp_path):
    folder = write_run(tmp_path / "run", Made(rounds=5))
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    blind = [row | {"validation_top1": None, "validation_loss": None} for row in rows]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in blind))
    found = compare([run := load_run(folder)], MACS)
    assert best_round(run) is None
    assert (found.target, found.no_target) == (None, "needs partition.validation above 0")
    assert (found.rows[0].best_top1, found.rows[0].cost_to_target) == (None, None)
    assert found.rows[0].top1_at_budget == rows[-1]["top1"]


def test_wasted_share(run_folder):
    run = load_run(run_folder)
    wasted = sum(row.macs for row in run.clients if row.status in ("dropped", "failed"))
    assert share("wasted_macs", "macs", run) == pytest.approx(wasted / sum(row.macs for row in run.clients))
    (run_folder / "rounds.jsonl").write_text("")
    assert share("wasted_macs", "macs", load_run(run_folder)) is None


def test_bytes_of_secure_sums_are_in_both_sides_of_a_share(run_folder):
    """A round in which all was in vain has wasted all of its bytes, and no more."""
    run = load_run(run_folder)
    spent = Cost(downlink_bytes=40, uplink_bytes=30, secure_downlink_bytes=20, secure_uplink_bytes=10)
    lost = RoundRow(round=1, **(asdict(spent) | {"wasted_bytes": spent.bytes}))
    assert share("wasted_bytes", "bytes", replace(run, rounds=(lost,))) == 1.0


def test_a_client_pays_for_secure_sums(run_folder):
    run = load_run(run_folder)
    bare = replace(run.clients[0], secure_uplink_bytes=0)
    masked = replace(bare, secure_uplink_bytes=5)
    measured = EvaluationRow(
        round=run.rounds[-1].round, client=bare.client, model="global", examples=3, top1=0.5
    )
    paid = [
        outcome(replace(run, clients=(row,), evaluations=(measured,))).clients[0].bytes
        for row in (bare, masked)
    ]
    assert paid[1] == paid[0] + 5 == masked.bytes


def test_nested_documents():
    document = {"a": {"b": {"c": 1}}, "d": 2}
    assert [lookup(document, key) for key in ("a.b.c", "d", "a.x.c", "d.e")] == [1, 2, None, None]
