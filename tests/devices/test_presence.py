"""When devices are there: laws of the trace, the published shapes, and what rounds make of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.devices import Presence, presence_of
from fedfmd.devices.states import read_states
from fedfmd.errors import UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.selection.cohort import LONGEST_WAIT_SECONDS, Selector

PERIOD = 24
HOURS = st.lists(st.booleans(), min_size=PERIOD, max_size=PERIOD).filter(any)
"""Of a day, which a device is there."""


def presence(hours: list[bool], start: int = 0) -> Presence:
    intervals = [(start + hour, start + hour + 1) for hour, there in enumerate(hours) if there]
    return Presence.of(reversed(intervals), start, start + PERIOD)


@given(hours=HOURS, start=st.integers(-40, 40), now=st.integers(0, 100))
def test_it_is_there_in_its_hours_of_every_day(hours: list[bool], start: int, now: int) -> None:
    trace = presence(hours, start)
    assert trace.share == pytest.approx(sum(hours) / PERIOD)
    there = [hours[(now + hour - start) % PERIOD] for hour in range(PERIOD)]
    assert trace.there(now) == trace.there(now + 0.5) == there[0]
    assert trace.returns(now) == now + there.index(True)


@given(hours=HOURS, start=st.integers(-40, 40), now=st.integers(0, 100), work=st.integers(0, 80))
def test_work_takes_the_hours_that_it_is_there(hours: list[bool], start: int, now: int, work: int) -> None:
    trace = presence(hours, start)
    hour = done = 0
    while done < work:
        done += hours[(now + hour - start) % PERIOD]
        hour += 1
    assert trace.takes(now, work) == hour
    assert trace.worked(now, hour) == work
    if work:
        assert trace.worked(now, hour - 1) == work - 1


@given(hours=HOURS, now=st.floats(0, 1e6), work=st.floats(0, 1e4), more=st.floats(0, 100))
def test_more_work_takes_longer_and_all_of_it_gets_done(
    hours: list[bool], now: float, work: float, more: float
) -> None:
    trace = presence(hours)
    assert work <= trace.takes(now, work) <= trace.takes(now, work + more) + 1e-6
    assert trace.worked(now, trace.takes(now, work)) == pytest.approx(work, abs=1e-5)


def test_overlapping_intervals_count_once_and_those_outside_of_the_trace_do_not() -> None:
    trace = Presence.of([(5, 8), (-3, 2), (7, 9), (9, 9), (40, 50)], 0, 10)
    assert (trace.begins, trace.ends) == ((0, 5), (2, 9))
    with pytest.raises(ValueError, match="never there"):
        Presence.of([(3, 3)], 0, 10)


def write(folder: Path, document: object) -> Path:
    path = folder / f"states-{len(list(folder.glob('states-*')))}.json"
    path.write_text(json.dumps(document))
    return path


def test_flashs_intervals(tmp_path: Path) -> None:
    timers = {
        "681": {"isSuccess": True, "trace_start": 100.0, "trace_end": 200.0, "ready_time": [[110.0, 120.0]]},
        "451": {"isSuccess": False, "trace_start": None, "trace_end": None, "ready_time": []},
    }
    with pytest.warns(UserWarning, match=r"1 of 2 devices left out; device 451: never there"):
        (trace,) = read_states(write(tmp_path, timers))
    assert not trace.there(109)
    assert trace.there(110)
    assert trace.there(315)
    assert not trace.there(320)


def test_fedscales_intervals(tmp_path: Path) -> None:
    behaviour = {
        "duration": 50,
        "active": [10, 90],
        "inactive": [40, 110],
        "finish_time": 200,
        "model": "CPH1801",
    }
    (trace,) = read_states(write(tmp_path, {"3834": behaviour}))
    assert trace.share == 0.25
    assert [trace.there(t) for t in (9, 10, 41, 95, 110, 295)] == [False, True, False, True, False, True]


def test_flashs_messages(tmp_path: Path) -> None:
    """Locked, on Wi-Fi and charged from 02:00:30 to 03:00:00 of the second day, and again the day after."""
    messages = (
        "2020-01-02 22:00:00\tscreen_lock\n2020-01-02 23:00:00\tWifi\n2020-01-03 02:00:00\t87.0%\n\n"
        "2020-01-03 02:00:30\tbattery_charged_on\n2020-01-03 03:00:00\tscreen_unlock\n"
        "2020-01-03 03:00:01\tscreen_on\n2020-01-03 04:00:00\t4G\n2020-01-03 22:00:00\tscreen_off\n"
    )
    (trace,) = read_states(write(tmp_path, {"a": {"guid": "a", "model": "Nexus 6", "messages": messages}}))
    begin, day = 26 * 3600 + 30, 86_400
    assert trace.period_seconds == day
    for shift in (0, day):
        assert [trace.there(shift + t) for t in (begin - 1, begin, 27 * 3600 - 1, 27 * 3600)] == [
            False,
            True,
            True,
            False,
        ]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1], "must be a mapping of devices"),
        ({"a": {"computation": 3}}, "device a: has none of messages, ready_time, active"),
        ({"a": {"messages": "yesterday\twifi"}}, "no device is ever there; device a: Invalid isoformat"),
        ({"a": {"messages": "2020-01-02 22:00:00 wifi"}}, "not a time, a tab and an event"),
        ({"a": {"messages": ""}}, "device a: never there"),
        ({"a": {"messages": None}}, "device a: .*no attribute"),
        ({"a": {"active": [1], "inactive": [2], "finish_time": 10**400}}, "device a: .*too large"),
        ({"a": {"active": [1], "inactive": [2], "finish_time": 1e300}}, "device a: 1e.300 is no time"),
        ({"a": {"active": [1], "inactive": [], "finish_time": 9}}, "device a: zip"),
        ({"a": {"trace_start": 3, "ready_time": [[1, 2]]}}, "device a: 'trace_end' is missing"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_states(write(tmp_path, document))


SLOW = {"name": "old", "uplink_bits_per_second": 1e5}
"""Needs seconds for a round."""
NIGHT, DAY = [[0, 400]], [[500, 900]]
"""Of a trace of 1000 seconds."""


def config_of(folder: Path, *traces: list[list[int]], **changes: dict[str, Any]) -> ExperimentConfig:
    rows = {str(i): {"trace_start": 0, "trace_end": 1000, "ready_time": t} for i, t in enumerate(traces)}
    document: dict[str, Any] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "sampled", "clients": 12, "samples_per_client": 20},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
        "client": {"batch_size": 10},
        "server": {"rounds": 4, "cohort": 4},
        "devices": {"kind": "lognormal", "median": SLOW, "states": str(write(folder, rows))},
        "selection": {"availability": True},
        "backend": {"kind": "inline", "threads": 1},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return parse_config(document)


def test_only_those_who_are_there_are_asked(tmp_path: Path) -> None:
    config = config_of(tmp_path, NIGHT, DAY)
    for now, intervals in ((100.0, NIGHT), (700.0, DAY)):
        cohort = Selector(config).draw(1, now=now).chosen
        assert len(cohort) == 4
        for client in cohort:
            trace = presence_of(config, client)
            assert trace is not None
            assert trace.begins == (intervals[0][0],)


def test_the_clock_goes_on_until_enough_are_there(tmp_path: Path) -> None:
    config = config_of(tmp_path, NIGHT, DAY)
    drawn, now = Selector(config).draw_from_those_there(1, needed=1, now=450.0)
    assert (len(drawn.chosen), now) == (4, 500.0)
    assert Selector(config).draw_from_those_there(1, needed=1, now=550.0)[1] == 550.0


def test_it_does_not_wait_for_what_never_happens(tmp_path: Path) -> None:
    """Everybody is never there at once: nights and days do not meet."""
    everybody = {"cohort": 12, "min_completed": 12}
    config = config_of(tmp_path, NIGHT, DAY, server=everybody)
    drawn, now = Selector(config).draw_from_those_there(1, needed=12, now=0.0)
    assert 0 < len(drawn.chosen) < 12
    assert now <= LONGEST_WAIT_SECONDS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(config: ExperimentConfig, folder: Path) -> RunDirectory:
    directory = start_run(config, folder)
    execute(directory, InlineExecutor)
    return directory


def bits(directory: RunDirectory) -> bytes:
    return (directory.path / "model.safetensors").read_bytes()


def clock(row: dict[str, Any]) -> float:
    return float(row["cumulative"]["device_clock_seconds"] or 0)


def test_absence_changes_the_clock_and_nothing_else(tmp_path: Path) -> None:
    """Where the server waits for everybody, asks without looking and sets no deadline."""
    blind = {"selection": {"availability": False}}
    always = run(config_of(tmp_path, [[0, 1000]], **blind), tmp_path / "always")
    seldom = run(config_of(tmp_path, [[0, 1], [500, 501]], **blind), tmp_path / "seldom")
    assert bits(always) == bits(seldom)
    for there, away in zip(always.rounds()[1:], seldom.rounds()[1:], strict=True):
        assert there["device_seconds"] == away["device_seconds"]
        assert clock(away) > clock(there) + 100


def test_a_round_counts_the_time_until_anybody_came(tmp_path: Path) -> None:
    first = run(config_of(tmp_path, DAY), tmp_path / "run").rounds()[1]
    assert first["completed"] == 4
    assert 500 < first["device_clock_seconds"] < 900


def test_who_leaves_before_it_is_done_is_late(tmp_path: Path) -> None:
    """Half of the clients are there for a second before the deadline."""
    leaving = {"selection": {"availability": False, "deadline_seconds": 100.0}}
    config = config_of(tmp_path, [[0, 1]], [[0, 1000]], **leaving, server={"rounds": 1, "cohort": 12})
    lines = (run(config, tmp_path / "run").path / "clients.jsonl").read_text().splitlines()
    late = [row for row in map(json.loads, lines) if row["status"] == "dropped"]
    assert late
    for row in late:
        assert "away for 99 s, the round closed after 100 s" in row["reason"]
        assert 0 <= row["device_seconds"] <= 1


class StoppedEarlyError(Exception):
    """What ends a run early."""


@pytest.mark.parametrize("mode", ["sync", "buffered"])
def test_an_interrupted_run_goes_on_at_its_hour(tmp_path: Path, mode: str) -> None:
    config = config_of(tmp_path, [[0, 3], [200, 203]], DAY, server={"mode": mode})
    whole = run(config, tmp_path / "whole")

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise StoppedEarlyError

    broken = start_run(config, tmp_path / "broken")
    with pytest.raises(StoppedEarlyError):
        execute(broken, InlineExecutor, stop)
    execute(broken, InlineExecutor)
    assert bits(broken) == bits(whole)
    assert list(map(clock, broken.rounds())) == list(map(clock, whole.rounds()))


def test_states_without_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"devices\.states"):
        config_of(tmp_path, DAY, devices={"kind": "none"}, selection={"availability": False})


def test_a_missing_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    config = config_of(tmp_path, DAY, devices={"states": str(tmp_path / "none.json")})
    with pytest.raises(UserError, match=r"none.json: no such trace of presence .devices.states."):
        start_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
