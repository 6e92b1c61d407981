"""Devices: closed forms of time and energy, populations by the seed, traces of every shape."""

import json
from collections import Counter
from math import log
from pathlib import Path
from statistics import median, stdev
from typing import Any

import pytest

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.costs.macs import Macs
from fedfmd.devices import PROFILES, device_from, device_of, use
from fedfmd.devices.traces import read_trace
from fedfmd.errors import UserError

ROUND: dict[str, Any] = {
    "name": "round",
    "conv_macs_per_second": 100.0,
    "aggregation_macs_per_second": 10.0,
    "attention_macs_per_second": 5.0,
    "linear_macs_per_second": 20.0,
    "downlink_bits_per_second": 80.0,
    "uplink_bits_per_second": 8.0,
    "compute_watts": 3.0,
    "receive_watts": 2.0,
    "send_watts": 5.0,
}


def test_time_and_energy_in_closed_form() -> None:
    device = device_from(DeviceConfig(**ROUND))
    used = use(device, Macs(conv=200, aggregation=30, attention=5, linear=40), 100, 7)
    assert (used.download_seconds, used.compute_seconds, used.upload_seconds) == (10, 2 + 3 + 1 + 2, 7)
    assert used.seconds == 25
    assert used.joules == 2 * 10 + 3 * 8 + 5 * 7


def test_a_kind_of_device_takes_from_its_profile_what_it_does_not_say() -> None:
    device = device_from(DeviceConfig(name="mine", like="phone-low", uplink_bits_per_second=5.0))
    assert device.uplink_bits_per_second == 5.0
    assert device.rates == PROFILES["phone-low"].rates
    with pytest.raises(UserError, match=r"phone-lo.*phone-low"):
        device_from(DeviceConfig(name="x", like="phone-lo"))


def config_of(devices: dict[str, Any], seed: int = 0) -> ExperimentConfig:
    return parse_config({"seed": seed, "partition": {"clients": 1_000_000}, "devices": devices})


def test_tiers_get_their_shares() -> None:
    settings = config_of(
        {"kind": "tiers", "tiers": [{"name": "a", "share": 1.0}, {"name": "b", "share": 3.0}]}
    )
    counts = Counter(device_of(settings, client).name for client in range(2000))
    assert counts["b"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_log_normal_devices_have_the_median_and_spread_asked_for() -> None:
    middle = {"name": "m", "like": "phone-mid"}
    settings = config_of({"kind": "lognormal", "median": middle, "compute_sigma": 0.5})
    rates = [device_of(settings, client).rates.conv for client in range(2000)]
    assert median(rates) == pytest.approx(PROFILES["phone-mid"].rates.conv, rel=0.05)
    assert stdev(map(log, rates)) == pytest.approx(0.5, rel=0.06)
    assert device_of(settings, 999_999) == device_of(settings, 999_999)
    assert device_of(settings, 1) != device_of(config_of({"kind": "lognormal"}, seed=1), 1)


def test_no_devices() -> None:
    assert device_of(config_of({"kind": "none"}), 3) is None


def test_traces_in_our_columns(tmp_path: Path) -> None:
    rows = "name,like,uplink_bits_per_second\nold,phone-low,1e6\nnew,phone-high,\n"
    (tmp_path / "trace.csv").write_text(rows)
    old, new = read_trace(tmp_path / "trace.csv")
    assert (old.name, old.uplink_bits_per_second) == ("old", 1e6)
    assert new.uplink_bits_per_second == PROFILES["phone-high"].uplink_bits_per_second
    settings = config_of({"kind": "trace", "trace": str(tmp_path / "trace.csv")})
    names = Counter(device_of(settings, client).name for client in range(400))
    assert names["old"] / 400 == pytest.approx(0.5, abs=0.1)


def test_a_trace_of_fedscales_shape(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    row = {"computation": 90.0, "communication": 2000.0}
    path.write_text(json.dumps({"1": row, "2": {**row, "memory_bytes": 5e8, "uplink_bits_per_second": 1e6}}))
    device, other = read_trace(path)
    assert (other.rates, other.memory_bytes) == (device.rates, 500_000_000)
    assert (other.downlink_bits_per_second, other.uplink_bits_per_second) == (2e6, 1e6)
    assert device.rates.conv == pytest.approx(1e10)
    assert device.downlink_bits_per_second == 2e6


def test_traces_of_bandwidth_alone(tmp_path: Path) -> None:
    flash, mobiperf = tmp_path / "speed_distri.json", tmp_path / "devices.json"
    speeds = {"down_u": 7491.5, "down_sigma": 3369.2, "up_u": 4935.0, "up_sigma": 2767.3}
    flash.write_text(json.dumps({"e6899215": speeds}))
    mobiperf.write_text(json.dumps([{"id": "57", "tcp_speed_results": [1000.0, 4000.0]}]))
    (device,) = read_trace(flash)
    assert (device.name, device.rates) == ("e6899215", PROFILES["phone-mid"].rates)
    assert (device.downlink_bits_per_second, device.uplink_bits_per_second) == (7_491_500, 4_935_000)
    (device,) = read_trace(mobiperf)
    assert device.downlink_bits_per_second == device.uplink_bits_per_second == 2_500_000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "name,uplink_bits_per_second\nx,-3\n", "line 2: uplink_bits_per_second = -3"),
        (
            "t.csv",
            "name,uplink_bits\nx,3\n",
            "line 2: unknown key uplink_bits; did you mean uplink_bits_per_second",
        ),
        ("t.csv", "name\n", "no devices"),
        ("t.csv", "name\na,b\n", "line 2: 'b': beyond the columns .'name'."),
        ("t.csv", "name,share\na,9\n", "line 2: share: the devices of a trace are all as frequent"),
        ("t.csv", 'name\n"a', "line 1: not valid CSV"),
        ("t.csv", "name,memory_bytes\na,nan\n", "line 2: memory_bytes = nan"),
        ("t.JSON", "[" * 100_000, "t.JSON: not valid JSON: nested too deeply"),
        ("t.json", f'{{"7": {{"computation": 1{"0" * 400}, "communication": 3}}}}', "device 1: computation"),
        ("t.json", "{", "not valid JSON"),
        ("t.json", "3", "list of devices"),
        ("t.json", '{"7": {"computation": 0, "communication": 3}}', "device 1: computation.*above 0"),
        ("t.json", '{"7": {"computation": 3}}', "'communication'"),
        ("t.json", '{"7": {"down_u": 4, "up_u": 0}}', "device 1: down_u.*above 0"),
        ("t.json", '{"7": {"down_u": 4, "up_u": 2, "share": 3}}', "device 1: share: the devices of a trace"),
        ("t.json", '{"7": {"like": "phone-low"}, "7": {}}', "not valid JSON: 7 stands 2 times in one object"),
        ("t.json", '[{"tcp_speed_results": []}]', "device 1: tcp_speed_results"),
    ],
)
def test_a_bad_trace_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_trace(tmp_path / name)


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """A byte-order mark, blank rows, rows of commas, spaces, a remark column without a name that is empty."""
    path = tmp_path / "t.CSV"
    path.write_bytes(
        b"\xef\xbb\xbfname, like,memory_bytes,\r\nphone A,phone-low, 1e6,\r\n,,,\r\n\r\n  ,,,\r\n"
    )
    (device,) = read_trace(path)
    assert (device.name, device.memory_bytes) == ("phone A", 1_000_000)


def test_a_device_may_be_called_by_a_number(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,memory_bytes\n007,1e9\n1e5,2e9\n")
    assert [device.name for device in read_trace(tmp_path / "t.csv")] == ["007", "1e5"]


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "capacity.pkl"
    path.write_bytes(b"\x80\x04cposix\nsystem\n(Vecho\ntR.")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_trace(path)


def test_calibration_keeps_the_speed_and_takes_the_proportions(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    rates = {"conv": 10.0, "aggregation": 1.0, "attention": 2.0, "linear": 5.0}
    path.write_text(json.dumps({"macs_per_second": rates}))
    devices = {"kind": "tiers", "tiers": [{"name": "a", "like": "phone-low"}], "calibration": str(path)}
    device = device_of(config_of(devices), 0)
    conv = PROFILES["phone-low"].rates.conv
    assert (device.rates.conv, device.rates.aggregation) == pytest.approx((conv, conv / 10))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="calibration"):
        device_of(config_of(devices | {"calibration": str(tmp_path / "bad.json")}), 1)
