"""Cohorts, the simulated clock and asynchronous rounds."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.devices import available, device_of
from fedfmd.modules import look_in
from fedfmd.records.rows import ClientRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.clock import BufferedClock, sync_round
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.selection.cohort import Selector
from fedfmd.selection.history import Known, SelectionHistory, TierHistory
from fedfmd.selection.tifl import adapt, changed_chances, tier_chances

TIERS = {
    "kind": "tiers",
    "tiers": [
        {"name": "fast", "like": "laptop"},
        {"name": "slow", "like": "phone-low", "availability": 0.2},
    ],
}


def config_of(**changes: dict[str, Any]) -> ExperimentConfig:
    document: dict[str, Any] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "sampled", "clients": 12, "samples_per_client": 20},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
        "client": {"batch_size": 10},
        "server": {"rounds": 6, "cohort": 4},
        "devices": {"kind": "lognormal"},
        "backend": {"kind": "inline", "threads": 1},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return parse_config(document)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


FINISH = st.dictionaries(st.integers(0, 50), st.floats(0.1, 100), min_size=1, max_size=12)


@given(finish=FINISH, cohort=st.integers(1, 12), deadline=st.none() | st.floats(0.1, 100))
def test_a_round_takes_the_first_to_finish_and_no_longer_than_needed(
    finish: dict[int, float], cohort: int, deadline: float | None
) -> None:
    accepted, late, seconds = sync_round(finish, cohort, deadline)
    assert sorted(accepted + late) == sorted(finish)
    assert len(accepted) <= cohort
    assert all(finish[a] <= finish[b] for a in accepted for b in late)
    assert all(finish[client] <= seconds for client in accepted)
    if deadline is None or len(accepted) == min(cohort, len(finish)):
        assert seconds == max(finish[client] for client in accepted)
    else:
        assert seconds == deadline


def test_a_deadline_without_anybody_in_time() -> None:
    assert sync_round({1: 5.0, 2: 6.0}, 2, 3.0) == ([], [1, 2], 3.0)


@given(seconds=st.lists(st.floats(0.1, 50), min_size=6, max_size=30), room=st.integers(2, 6))
def test_time_never_goes_back_and_everybody_finishes_once(seconds: list[float], room: int) -> None:
    clock, order, times = BufferedClock(), [], []
    waiting = list(enumerate(seconds))
    while waiting or clock.flights:
        while waiting and len(clock.flights) < room:
            client, needed = waiting.pop(0)
            clock.start(client, 0, needed)
        done = clock.next_finished()
        assert done is not None
        order.append(done.client)
        times.append(clock.now)
        clock = BufferedClock.from_json(clock.to_json())
    assert sorted(order) == list(range(len(seconds)))
    assert times == sorted(times)


def test_a_client_cannot_be_in_two_places() -> None:
    clock = BufferedClock()
    clock.start(3, 0, 1.0)
    with pytest.raises(ValueError, match="client 3"):
        clock.start(3, 0, 1.0)


def test_unavailable_devices_are_not_asked() -> None:
    settings = config_of(devices=TIERS, selection={"availability": True}, partition={"clients": 1000})
    counts: Counter[str] = Counter()
    for round in range(1, 60):
        for client in Selector(settings).draw(round).chosen:
            assert available(settings, client, round)
            counts[device_of(settings, client).name] += 1
    assert counts["slow"] / counts.total() == pytest.approx(0.2 / 1.2, abs=0.08)


def test_over_selection_asks_more() -> None:
    assert len(Selector(config_of(selection={"over_selection": 1.5})).draw(1).chosen) == 6


def test_tifl_takes_one_tier_once_all_are_measured() -> None:
    settings = config_of(selection={"kind": "tifl", "tiers": 3})
    known = {c: Known(1, 1.0, float(c), 20) for c in range(12)}
    for round in range(1, 10):
        cohort = Selector(settings, SelectionHistory(known)).draw(round).chosen
        assert len({client // 4 for client in cohort}) == 1


def test_a_tier_is_chosen_as_often_as_it_has_credits() -> None:
    """Three tiers of four clients with two credits each: each twice in six rounds; then all may be again."""
    settings = config_of(selection={"kind": "tifl", "tiers": 3, "tier_credits": 2})
    history = SelectionHistory({c: Known(1, 1.0, float(c), 20) for c in range(12)})
    for round in range(1, 8):
        drawn = Selector(settings, history).draw(round)
        assert drawn.tier is not None
        assert drawn.tier[0] == drawn.chosen[0] // 4
        history.update([], drawn=drawn)
        if round == 6:
            assert history.tiers.uses == [2, 2, 2]
    assert sum(history.tiers.uses) == 7


def test_a_tier_that_stands_still_makes_worse_ones_likelier() -> None:
    """Chai et al. 2020, algorithm 2: (n - i) / D for the i-th worst of those with credits."""
    accuracies = [0.7, 0.2, 0.5, 0.9]
    assert changed_chances(accuracies, [True] * 4) == pytest.approx([1 / 6, 3 / 6, 2 / 6, 0])
    assert changed_chances(accuracies, [True, False, True, True]) == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert changed_chances([0.5, 0.4], [True, False]) == [1.0, 0.0]
    selection = config_of(selection={"kind": "tifl", "tiers": 4, "tier_credits": 9}).selection
    history = TierHistory(last=0)
    adapt(selection, history, [0.6, 0.2, 0.5, 0.9])
    assert tier_chances(selection, history, 4) == [0.25] * 4  # nothing to compare with
    adapt(selection, history, [0.7, 0.2, 0.5, 0.9])
    assert tier_chances(selection, history, 4) == [0.25] * 4  # the last tier has grown
    adapt(selection, history, accuracies)
    assert tier_chances(selection, history, 4) == pytest.approx([1 / 6, 3 / 6, 2 / 6, 0])
    history.uses = [0, 9, 0, 0]
    assert tier_chances(selection, history, 4) == pytest.approx([1 / 3, 0, 2 / 3, 0])


def test_measuring_the_tiers_is_billed_as_evaluation(tmp_path: Path) -> None:
    selection = {"kind": "tifl", "tiers": 2, "adapt_every": 5}
    directory = run(tmp_path / "run", selection=selection)
    costs = {row["round"]: row["evaluation_macs"] for row in directory.rounds()}
    assert [round for round, macs in costs.items() if macs] == [5]
    history = directory.load_checkpoint().memory["history"]  # type: ignore[union-attr]
    assert len(history["tiers"]["accuracies"]) == 2


def test_tifl_measures_everybody_first() -> None:
    settings = config_of(selection={"kind": "tifl"})
    known = {c: Known(1, 1.0, 1.0, 20) for c in range(8)}
    assert Selector(settings, SelectionHistory(known)).draw(2).chosen == [8, 9, 10, 11]


def row(client: int, **changes: Any) -> ClientRow:
    return ClientRow(**{"round": 1, "client": client, "status": "completed", **changes})


def test_tifl_asks_a_client_once_and_leaves_out_who_never_answers() -> None:
    """Eleven answer, one is always late: it was profiled once, with the deadline as the bound."""
    settings = config_of(selection={"kind": "tifl", "tiers": 3, "deadline_seconds": 5.0})
    history = SelectionHistory()
    asked: Counter[int] = Counter()
    for attempt in range(60):
        cohort = Selector(settings, history).draw(1, attempt).chosen
        assert cohort
        asked.update(cohort)
        late = {"status": "dropped", "downlink_bytes": 8}
        history.update([row(c, **(late if c == 7 else {"device_seconds": float(c)})) for c in cohort])
    assert asked[7] == 1
    assert history.silent == {7}
    assert set(asked) == set(range(12))


def test_an_answer_of_no_use_and_one_that_others_outran_are_answers() -> None:
    history = SelectionHistory()
    rows = [
        row(1, status="failed", uplink_bytes=8, device_seconds=2.0),
        row(2, status="failed", device_seconds=2.0),
        row(3, status="dropped", downlink_bytes=8, device_seconds=4.0),
        row(4, status="dropped", reason="over budget: macs"),
    ]
    history.update(rows, outrun={3})
    assert set(history.clients) == {1, 3}
    assert history.silent == {2, 4}
    history.update([row(2, device_seconds=1.0)])
    assert history.silent == {4}


OWN = """
SEEN = []


def blind(draw, wanted, history):
    SEEN.append([known.loss for known in history.clients.values()])


def seeing(draw, wanted, history):
    blind(draw, wanted, history)


seeing.looks_at_losses = True
"""


@pytest.mark.parametrize("name", ["blind", "seeing"])
def test_a_selection_of_one_s_own_is_told_losses_where_it_looks_at_them(name: str, tmp_path: Path) -> None:
    module = f"own_selection_{name}"
    (tmp_path / f"{module}.py").write_text(OWN)
    look_in(tmp_path)
    config = config_of(selection={"kind": f"{module}:{name}"}, server={"rounds": 2})
    execute(start_run(config, tmp_path / "run"), InlineExecutor)
    seen = sys.modules[module].SEEN[-1]
    assert len(seen) == config.server.cohort
    assert all((loss is not None) == (name == "seeing") for loss in seen)


def test_history_comes_back() -> None:
    tiers = TierHistory([1, 0], [0.25, 0.5], [1.0, 0.0], 0)
    history = SelectionHistory({3: Known(2, 0.5, None, 7, 4)}, {5, 1}, {2: 1.5}, tiers)
    assert SelectionHistory.from_json(history.to_json()) == history


def run(out: Path, **changes: Any) -> RunDirectory:
    directory = start_run(config_of(**changes), out)
    execute(directory, InlineExecutor)
    return directory


def bits(directory: RunDirectory) -> bytes:
    return (directory.path / "model.safetensors").read_bytes()


class StoppedEarlyError(Exception):
    """What ends a run early."""


@pytest.mark.parametrize(
    "changes",
    [
        {"server": {"mode": "buffered", "buffer": 2, "strategy": "fedavgm"}},
        {"selection": {"kind": "oort", "over_selection": 1.5}},
        {"selection": {"kind": "tifl", "deadline_seconds": 20.0}},
    ],
    ids=["fedbuff", "oort", "tifl"],
)
def test_an_interrupted_run_remembers_and_ends_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", **changes)

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 3:
            raise StoppedEarlyError

    broken = start_run(config_of(**changes), tmp_path / "broken")
    with pytest.raises(StoppedEarlyError):
        execute(broken, InlineExecutor, stop)
    execute(broken, InlineExecutor)
    assert bits(broken) == bits(whole)


def test_the_simulated_clock_has_a_column_of_its_own(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", selection={"over_selection": 1.5})
    for row in directory.rounds()[1:]:
        assert (row["completed"], row["dropped"]) == (4, 2)
        assert row["device_seconds"] >= row["device_clock_seconds"] > 0
        assert row["wasted_bytes"] > 0


def test_asynchronous_rounds_do_not_wait_for_the_slowest(tmp_path: Path) -> None:
    waiting = run(tmp_path / "sync")
    buffered = run(tmp_path / "buffered", server={"mode": "buffered", "buffer": 2})
    assert all(row["completed"] == 2 for row in buffered.rounds()[1:])
    totals = [d.rounds()[-1]["cumulative"]["device_clock_seconds"] for d in (waiting, buffered)]
    assert totals[1] < totals[0]
