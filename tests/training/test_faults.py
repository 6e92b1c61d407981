"""Faulty clients, in the plain loop: what the ledger says, what the model is spared, what a run survives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.config.sections.faults import FaultKind
from fedfmd.costs.macs import Macs
from fedfmd.devices import device_of, use
from fedfmd.errors import RunError, UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.training.faults import fault_of


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def config(**changes: dict[str, Any]) -> ExperimentConfig:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "sampled", "clients": 6, "samples_per_client": 20},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
        "client": {"batch_size": 10},
        "server": {"rounds": 2, "cohort": 6},
        "backend": {"kind": "inline", "threads": 1},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return parse_config(document)


def run(out: Path, **changes: dict[str, Any]) -> tuple[RunDirectory, list[dict[str, Any]]]:

    directory = start_run(config(**changes), out)
    execute(directory, InlineExecutor)
    return directory, [
        json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()
    ]


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(directory.path / "model.safetensors")


REASONS = {
    "raise": "InjectedFaultError: injected fault",
    "nan": "the update holds NaN or infinity",
    "shape": "the model float32",
    "zero": "the weight 0",
    "absurd": "the weight 1000000000000000",
    "duplicate": "one answer from each client",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_faulty_client_is_recorded_paid_for_and_left_out(tmp_path: Path, kind: FaultKind) -> None:
    fault = {"at": [{"round": 1, "client": 4, "kind": kind}]}
    directory, rows = run(tmp_path / "run", faults=fault)
    first = [row for row in rows if row["round"] == 1]
    assert [row["client"] for row in first] == [0, 1, 2, 3, 4, 5]
    assert [row["status"] for row in first] == ["completed"] * 4 + ["failed", "completed"]
    assert REASONS[kind] in first[4]["reason"]
    bill = directory.rounds()[1]
    assert (bill["completed"], bill["failed"]) == (5, 1)
    assert bill["wasted_bytes"] == first[4]["downlink_bytes"] + first[4]["uplink_bytes"] > 0
    assert bill["wasted_macs"] == first[4]["macs"]
    assert all(tensor.isfinite().all() for tensor in weights(directory).values())


def test_all_ways_to_fail_leave_the_same_model(tmp_path: Path) -> None:
    """Nothing of a faulty update gets in: whatever the fault, the other five alone decide."""
    models = []
    for kind in REASONS:
        fault = {"at": [{"round": r, "client": 4, "kind": kind} for r in (1, 2)]}
        models.append(weights(run(tmp_path / kind, faults=fault)[0]))
    for model in models[1:]:
        assert all(torch.equal(model[name], tensor) for name, tensor in models[0].items())


def test_a_client_that_hangs_is_dropped_at_its_deadline(tmp_path: Path) -> None:
    fault = {"at": [{"round": 1, "client": 2, "kind": "hang"}], "hang_seconds": 1.2}
    _, rows = run(tmp_path / "run", faults=fault, client={"batch_size": 10, "deadline_seconds": 1.0})
    assert [(r["client"], r["reason"]) for r in rows if r["status"] == "dropped"] == [
        (2, "deadline of 1 s passed")
    ]


def test_a_fault_that_never_comes_up_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a client that its round does not ask, with those it asks."""
    server = {"cohort": 3}
    asked = sorted(row["client"] for row in run(tmp_path / "seen", server=server)[1] if row["round"] == 1)
    absent = min(set(range(6)) - set(asked))
    faults = {"at": [{"round": 1, "client": c, "kind": "nan"} for c in (asked[0], absent)]}
    run(tmp_path / "run", faults=faults, server=server)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    there = ", ".join(map(str, asked))
    assert said == [
        f"faults.at: client {absent} is not among those of round 1: nothing went wrong; there are {there}"
    ]


def test_faults_follow_from_the_seed_and_come_at_their_rate() -> None:
    settings = config(faults={"probability": 0.25, "kinds": ["nan", "raise"]})
    drawn = [fault_of(settings, r, c) for r in range(1, 41) for c in range(50)]
    assert drawn == [fault_of(settings, r, c) for r in range(1, 41) for c in range(50)]
    counts = Counter(drawn)
    assert 430 < counts["nan"] + counts["raise"] < 570  # 2000 draws: 500 +- 3.6 standard deviations
    assert abs(counts["nan"] - counts["raise"]) < 80


def test_a_round_with_too_few_is_repeated_and_then_given_up(tmp_path: Path) -> None:
    everyone = [{"round": 2, "client": c, "kind": "nan"} for c in range(6)]
    directory = start_run(config(faults={"at": everyone}, server={"min_completed": 3}), tmp_path / "run")
    with pytest.raises(RunError, match=r"round 2.*min_completed = 3.*3 attempts.*NaN"):
        execute(directory, InlineExecutor)
    assert [row["round"] for row in directory.rounds()] == [0, 1]
    assert (directory.summary() or {})["status"] == "stopped"
    checkpoint = directory.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.round == 1


def ledger(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]


def test_a_run_that_gives_up_keeps_what_was_done_and_goes_on_with_new_cohorts(tmp_path: Path) -> None:
    """Five of six fail in round 2; cohorts of one are drawn, one an attempt, until the sixth is asked."""
    most = [{"round": 2, "client": c, "kind": "nan"} for c in range(5)]
    server = {"rounds": 2, "cohort": 1, "max_retries": 0}
    patient = start_run(
        config(faults={"at": most}, server=server | {"max_retries": 60}), tmp_path / "patient"
    )
    execute(patient, InlineExecutor)
    stopping = start_run(config(faults={"at": most}, server=server), tmp_path / "stopping")
    stops = 0
    while not stopping.finished():
        try:
            execute(stopping, InlineExecutor)
        except RunError:
            stops += 1
            rows, summary = ledger(stopping), stopping.summary() or {}
            assert [row["attempt"] for row in rows] == [0, *range(stops)]
            assert summary["status"] == "stopped"
            for cost in ("macs", "uplink_bytes", "downlink_bytes"):
                assert summary["cumulative"][cost] == sum(row[cost] for row in rows) > 0
    assert stops == len(ledger(patient)) - 2 > 0
    found, expected = weights(stopping), weights(patient)
    assert {n: t.numpy().tobytes() for n, t in found.items()} == {
        n: t.numpy().tobytes() for n, t in expected.items()
    }
    for one, other in zip(stopping.rounds(), patient.rounds(), strict=True):
        for cost in ("cohort", "failed", "macs", "uplink_bytes", "wasted_macs", "wasted_bytes"):
            assert one[cost] == other[cost]


def test_bytes_seconds_and_joules_of_a_failed_client_tell_one_story(tmp_path: Path) -> None:
    """What was sent and is of no use costs what any answer costs; what was never sent costs no upload."""
    faults = [{"round": 1, "client": 2, "kind": "nan"}, {"round": 1, "client": 4, "kind": "raise"}]
    faults += [{"round": 1, "client": 5, "kind": "duplicate"}]
    phones = {"kind": "tiers", "tiers": [{"name": "a", "like": "phone-low"}]}
    directory = start_run(
        config(faults={"at": faults}, devices=phones, server={"rounds": 1}), tmp_path / "run"
    )
    execute(directory, InlineExecutor)
    rows = {row["client"]: row for row in ledger(directory)}
    good, rejected, silent, doubled = rows[0], rows[2], rows[4], rows[5]
    device = device_of(directory.config, 0)
    assert device is not None
    for name in ("uplink_bytes", "device_seconds", "energy_joules", "macs"):
        assert rejected[name] == good[name]
    received = use(device, Macs(), good["downlink_bytes"], 0)
    answered = use(device, Macs(), good["downlink_bytes"], good["uplink_bytes"])
    for row, used in ((silent, received), (doubled, answered)):
        assert row["device_seconds"] == pytest.approx(used.seconds)
        assert row["energy_joules"] == pytest.approx(used.joules)
    assert (silent["uplink_bytes"], silent["uplink_wire_bytes"]) == (0, 0)
    assert doubled["uplink_bytes"] == good["uplink_bytes"]


def test_a_repeated_round_pays_for_the_first_attempt(tmp_path: Path) -> None:
    """Half of the population fails; cohorts of two are drawn until one has a client that works."""
    half = [{"round": r, "client": c, "kind": "raise"} for r in (1, 2, 3, 4) for c in (0, 1, 2)]
    server = {"rounds": 4, "cohort": 2, "min_completed": 2, "max_retries": 50}
    directory, rows = run(tmp_path / "run", faults={"at": half}, server=server)
    for bill in directory.rounds()[1:]:
        mine = [row for row in rows if row["round"] == bill["round"]]
        assert bill["completed"] == 2
        assert bill["cohort"] == len(mine) == 2 * (1 + max(row["attempt"] for row in mine))
        assert bill["macs"] == sum(row["macs"] for row in mine)
        assert bill["wasted_macs"] == sum(row["macs"] for row in mine if row["status"] != "completed")
    assert any(row["attempt"] for row in rows)


def test_kill_needs_a_process_to_kill() -> None:
    with pytest.raises(UserError, match=r"kill.*backend\.kind"):
        config(faults={"at": [{"round": 1, "client": 0, "kind": "kill"}]})
