"""Links: closed forms of sharing, laws of fairness, TCP's formula, published traces, exact resumption."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.config.experiment import named_paths, parse_config
from fedfmd.config.sections.devices import DeviceConfig, LinkConfig
from fedfmd.costs.macs import Macs
from fedfmd.devices import device_from, use
from fedfmd.devices.bandwidth import Bandwidth, read_bandwidth
from fedfmd.devices.links import tcp_bits_per_second
from fedfmd.devices.presence import Presence
from fedfmd.devices.profiles import section_of
from fedfmd.devices.traffic import Leg, Route, Traffic, fair_shares
from fedfmd.errors import RunError, UserError
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run


@dataclass
class Net:
    """A network whose clients have links of these speeds, the same both ways."""

    speeds: dict[int, Bandwidth]
    to_clients: float = math.inf
    from_clients: float = math.inf
    presence: dict[int, Presence] = field(default_factory=dict)

    def route(self, client: int) -> Route:
        speed = self.speeds[client]
        return Route(downlink=speed, uplink=speed, presence=self.presence.get(client))


def net(*speeds: float, **limits: Any) -> Net:
    return Net({i: Bandwidth.constant(speed) for i, speed in enumerate(speeds)}, **limits)


def download(bits: float) -> Leg:
    return Leg("download", bits, 0.0)


def finished(traffic: Traffic) -> dict[int, float]:
    done = {}
    while (client := traffic.next_finished()) is not None:
        done[client] = traffic.now
    return done


def begun(network: Net, *work: list[Leg]) -> Traffic:
    traffic = Traffic(network)
    for client, legs in enumerate(work):
        traffic.start(client, legs)
    return traffic


def test_two_equal_clients_get_half_each_and_the_one_left_all() -> None:
    done = finished(begun(net(math.inf, math.inf, to_clients=10.0), [download(50)], [download(100)]))
    assert done == {0: pytest.approx(10), 1: pytest.approx(15)}


def test_a_slow_link_leaves_the_rest_to_the_others() -> None:
    done = finished(begun(net(2.0, 100.0, 100.0, to_clients=10.0), *[[download(20)]] * 3))
    assert done == {0: pytest.approx(10), 1: pytest.approx(5), 2: pytest.approx(5)}


def test_both_directions_are_shared_apart_and_computing_not_at_all() -> None:
    up, compute = Leg("upload", 40.0, 0.0), Leg("compute", 3.0, 3.0)
    network = net(math.inf, math.inf, to_clients=10.0, from_clients=8.0)
    done = finished(begun(network, [download(100), compute, up], [up, download(100)]))
    # 0 receives alone for 5 s (50 bits), then half for 10 s; 1 sends alone, receives 50 by then, and the rest
    assert done == {0: pytest.approx(15 + 3 + 5), 1: pytest.approx(20)}


def test_presence_and_traces_are_limits_that_change() -> None:
    steps = Bandwidth((2.0, 4.0), (10.0, 0.0))
    away = Presence.of([(0, 1), (5, 10)], 0, 10)
    network = Net({0: steps, 1: Bandwidth.constant(10.0)}, presence={1: away})
    assert finished(begun(network, [download(30)], [download(30)])) == {
        0: pytest.approx(5),  # 20 bits, nothing for 2 s, 10 bits
        1: pytest.approx(7),
    }


LIMITS = st.dictionaries(st.integers(0, 20), st.floats(0.01, 100), min_size=1, max_size=12)


@given(limits=LIMITS, capacity=st.floats(0.01, 200))
def test_shares_are_max_min_fair(limits: dict[int, float], capacity: float) -> None:
    shares = fair_shares(capacity, limits)
    assert all(shares[c] <= limit for c, limit in limits.items())
    assert math.fsum(shares.values()) == pytest.approx(min(capacity, math.fsum(limits.values())))
    most = max(shares.values())
    assert all(
        shares[c] == pytest.approx(most) for c, limit in limits.items() if shares[c] < limit * 0.999999
    )


WORK = st.lists(
    st.tuples(st.floats(1, 100), st.floats(0.5, 20), st.floats(1, 100), st.floats(1, 30)),
    min_size=1,
    max_size=6,
)


@given(work=WORK, capacity=st.floats(1, 60))
def test_no_order_and_no_break_changes_when_who_is_done(work: Any, capacity: float) -> None:
    speeds = [speed for *_, speed in work]
    legs = [[download(a), Leg("compute", b, b), Leg("upload", c, 0.0)] for a, b, c, _ in work]
    network = net(*speeds, to_clients=capacity, from_clients=capacity / 2)
    plain = finished(begun(network, *legs))
    broken = Traffic(network)
    for client in reversed(range(len(legs))):
        broken.start(client, legs[client])
    done: dict[int, float] = {}
    while (client := broken.next_finished()) is not None:
        done[client] = broken.now
        text = json.dumps(broken.to_json())
        broken = Traffic.from_json(json.loads(text), network, broken.now)
    assert done == plain
    bits = sum(a for a, *_ in work)
    assert max(plain.values()) >= bits / capacity
    alone = [a / min(s, capacity) + b + c / min(s, capacity / 2) for a, b, c, s in work]
    assert all(plain[i] >= seconds * (1 - 1e-9) for i, seconds in enumerate(alone))
    if len(work) == 1:
        assert plain[0] == pytest.approx(alone[0])


def test_an_interval_ends_where_it_is_told_to() -> None:
    network = net(10.0, math.inf, to_clients=10.0)
    traffic = begun(network, [download(100)], [Leg("compute", 1.0, 1.0)])
    assert traffic.next_finished(0.5) is None
    assert traffic.now == 0.5
    assert traffic.trips[0].done == pytest.approx(5.0)
    with pytest.raises(ValueError, match="client 0"):
        traffic.start(0, [])


def test_tcp_at_a_loss_follows_mathis_et_al() -> None:
    """Their example of equation 3 with C = sqrt(3/2): 1,460 bytes, 100 ms, 1 in 10,000 is 14.3 Mbit/s."""
    assert tcp_bits_per_second(0.1, 1e-4) == pytest.approx(14.3e6, rel=0.01)
    assert tcp_bits_per_second(0.2, 1e-4) == pytest.approx(tcp_bits_per_second(0.1, 1e-4) / 2)
    assert tcp_bits_per_second(0.1, 4e-4) == pytest.approx(tcp_bits_per_second(0.1, 1e-4) / 2)
    assert tcp_bits_per_second(0.1, 0) == math.inf


def device(**link: Any) -> DeviceConfig:
    return DeviceConfig(
        name="d",
        link=LinkConfig(**link),
        downlink_bits_per_second=80.0,
        uplink_bits_per_second=8.0,
        compute_watts=0.0,
    )


def test_an_idle_link_in_closed_form() -> None:
    plain = use(device_from(device()), Macs(), 100, 7)
    assert use(device_from(device(round_trip_seconds=0.5)), Macs(), 100, 7).seconds == plain.seconds + 1.0
    assert use(device_from(device(round_trip_seconds=0.5)), Macs(), 100, 0).seconds == 10.5
    slow = device_from(device(round_trip_seconds=2000.0, loss=0.06))
    assert use(slow, Macs(), 100, 0).download_seconds == pytest.approx(2000 + 800 / (5.84 * 5))
    again = device_from(section_of(slow))
    assert use(again, Macs(), 100, 7) == use(slow, Macs(), 100, 7)


def test_loss_and_jitter_need_a_round_trip() -> None:
    with pytest.raises(UserError, match=r"link of 'd': loss = 0.01 needs round_trip_seconds above 0"):
        device_from(device(loss=0.01))
    with pytest.raises(UserError, match="jitter_seconds = 1 needs"):
        device_from(device(jitter_seconds=1.0))


@pytest.mark.parametrize(
    ("text", "ends", "rates"),
    [
        ("0\n500\n1500\n1500\n2000\n", (1.0, 2.0), (24_000.0, 36_000.0)),
        ("10 1.5\n12 3\n13 0\n", (2.0, 3.0, 4.0), (1.5e6, 3e6, 0.0)),
        ("1289 0 59.8 10.7 1000 500\n1290 500 59.8 10.7 0 1500\n", (0.5, 2.0), (16_000.0, 0.0)),
    ],
    ids=["mahimahi", "pensieve", "hsdpa"],
)
def test_published_traces(tmp_path: Path, text: str, ends: Any, rates: Any) -> None:
    (tmp_path / "trace").write_text(text)
    found = read_bandwidth(str(tmp_path / "trace"))
    assert found.ends == pytest.approx(ends)
    assert found.rates == pytest.approx(rates)
    assert found.at(ends[-1])[0] == rates[0]
    moved = found.from_place(0.5)
    assert moved.at(0.0)[0] == found.at(ends[-1] / 2)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "between 1 and"),
        ("1 2 3\n", "line 1: 3 columns"),
        ("1\nx\n", "line 2: "),
        ("1 2\n3\n", "line 2: is not 2 numbers"),
        ("1 nan\n2 3\n", "line 1"),
        ("5 1\n4 1\n", "row 2: each time must come after"),
        ("0 0\n1 0\n", "1000 bit/s on the mean"),
        ("0 1e-300\n1 1e-300\n", "1000 bit/s on the mean"),
        ("5\n3\n9\n", "row 2: each millisecond must come after"),
        ("1732000000000\n1732000000500\n", "times of a clock have to begin at 0"),
        ("0\n0\n", "last one above 0"),
    ],
)
def test_what_is_no_trace_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_bandwidth(str(path))


@given(now=st.floats(0, 1e5), place=st.floats(0, 1, exclude_max=True))
def test_a_step_never_ends_before_now(now: float, place: float) -> None:
    moved = Bandwidth((0.3, 0.7, 1.1), (1.0, 2.0, 0.0)).from_place(place)
    rate, until = moved.at(now)
    assert until > now
    assert rate in moved.rates


def test_files_of_a_tier_are_files_of_the_machine() -> None:
    """A real client refuses them, wherever they stand."""
    tier = {"name": "a", "link": {"downlink_trace": "trace.txt"}}
    settings = parse_config({"devices": {"kind": "tiers", "tiers": [tier]}})
    assert list(named_paths(settings)) == ["devices.tiers.0.link.downlink_trace"]


class StoppedEarlyError(Exception):
    """What ends a run early."""


def settings_of(
    trace: Path, server: dict[str, Any], selection: dict[str, Any] | None = None, **devices: Any
) -> Any:
    trace.write_text("0 0.4\n20 0.05\n30 1\n")
    link = {"round_trip_seconds": 0.2, "jitter_seconds": 0.1, "uplink_trace": str(trace)}
    tiers = [{"name": "near", "like": "laptop"}, {"name": "far", "like": "phone-low", "link": link}]
    return parse_config(
        {
            "data": {"train_samples": 120, "test_samples": 20},
            "partition": {"scheme": "iid", "clients": 12},
            "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
            "client": {"batch_size": 10, "augment": False},
            "server": {"rounds": 4, "cohort": 4, **server},
            "selection": selection or {},
            "devices": {"kind": "tiers", "tiers": tiers, **devices},
            "backend": {"kind": "inline"},
        }
    )


NARROW = {"server_link": {"uplink_bits_per_second": 2e5, "downlink_bits_per_second": 1e5}}


@pytest.mark.parametrize("mode", [pytest.param("sync", marks=pytest.mark.slow), "buffered"])
def test_an_interrupted_run_goes_on_with_what_is_on_its_way(tmp_path: Path, mode: str) -> None:
    buffer = {"buffer": 2} if mode == "buffered" else {}
    settings = settings_of(tmp_path / "trace", {"mode": mode, **buffer}, **NARROW)

    def run(name: str, stop_at: int = 0) -> list[Any]:
        def listen(row: dict[str, Any]) -> None:
            if row["round"] == stop_at:
                raise StoppedEarlyError

        directory = start_run(settings, tmp_path / name)
        if stop_at:
            with pytest.raises(StoppedEarlyError):
                execute(directory, InlineExecutor, listen)
        execute(directory, InlineExecutor)
        return [(row["top1"], row["test_loss"], row["device_clock_seconds"]) for row in directory.rounds()]

    assert run("broken", stop_at=2) == run("whole")


def test_a_shared_link_makes_rounds_longer_and_changes_nothing_else(tmp_path: Path) -> None:
    """No round is shorter than what the server's link takes for its bytes."""
    open_, shared = (
        execute_rounds(settings_of(tmp_path / "trace", {"rounds": 2}, **limits), tmp_path / name)
        for name, limits in (("open", {}), ("shared", NARROW))
    )
    for free, row in zip(open_, shared, strict=True):
        assert row["test_loss"] == free["test_loss"]
        assert row["device_seconds"] == free["device_seconds"]
        assert row["device_clock_seconds"] > free["device_clock_seconds"]
        least = 8 * row["downlink_bytes"] / 2e5 + 8 * row["uplink_bytes"] / 4 / 1e5
        assert row["device_clock_seconds"] > least


def execute_rounds(settings: Any, out: Path) -> list[dict[str, Any]]:
    directory = start_run(settings, out)
    execute(directory, InlineExecutor)
    return directory.rounds()[1:]


def test_who_waits_for_the_network_is_late_for_that_reason(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "trace", {"rounds": 1}, {"deadline_seconds": 6.0}, **NARROW)
    directory = start_run(settings, tmp_path / "run")
    with suppress(RunError):
        execute(directory, InlineExecutor)
    rows = [json.loads(line) for line in (tmp_path / "run" / "clients.jsonl").read_text().splitlines()]
    late = [row for row in rows if row["status"] == "dropped"]
    assert late
    for row in late:
        assert "waited for the network for" in row["reason"]
        assert row["device_seconds"] < 6
