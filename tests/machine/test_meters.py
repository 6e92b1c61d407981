"""Joules by recorded counters and logs: they go round, break off, and are without those at rest."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from fedfmd.config.experiment import parse_config
from fedfmd.config.sections.machine import EnergyConfig
from fedfmd.errors import UserError
from fedfmd.machine.energy import Counters, EnergyReading, NoEnergyError, net_joules, read_rapl
from fedfmd.machine.gauge import Gauge, check_meters, gauging, kept
from fedfmd.machine.nvml import read_nvml
from fedfmd.machine.plug import GAP_SECONDS, Plug

RANGE = 262_143_328_850
"""Microjoules at which a real package's counter begins again."""


def powercap(root: Path, *counters: int, range_uj: int = RANGE, names: tuple[str, ...] = ()) -> Path:
    """Write zones as Linux has them: packages, each with its cores and its memory within."""
    for number, counter in enumerate(counters):
        package = names[number] if names else f"package-{number}"
        for place, name, value in (("", package, counter), (":0", "core", counter), (":1", "dram", counter)):
            zone = root / f"intel-rapl:{number}{place}"
            zone.mkdir(parents=True, exist_ok=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "energy_uj").write_text(f"{value}\n")
            (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root


def test_packages_and_their_memory_add_up_and_go_round(tmp_path: Path) -> None:
    """Cores are in their package; 990 to 10 of 0..999 is 20; counters are of a package and its memory."""
    before = read_rapl(powercap(tmp_path, 990, 100, range_uj=999))
    after = read_rapl(powercap(tmp_path, 10, 350, range_uj=999))
    assert before.joules_until(after) == pytest.approx(2 * (20 + 250) * 1e-6)
    assert before.joules_until(before) == 0


def test_the_platform_has_the_packages_in_it(tmp_path: Path) -> None:
    root = powercap(tmp_path, 5, 7, names=("package-0", "psys"))
    assert set(read_rapl(root).counters) == {"intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1:1"}


def test_without_counters_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NoEnergyError, match="has no intel-rapl packages"):
        read_rapl(tmp_path)
    (powercap(tmp_path, 1) / "intel-rapl:0" / "energy_uj").write_text("what")
    with pytest.raises(NoEnergyError, match="cannot be read"):
        read_rapl(tmp_path)


@given(st.lists(st.integers(0, RANGE), min_size=1, max_size=20), st.integers(0, RANGE))
def test_counters_that_are_kept_go_round_any_number_of_times(steps: list[int], start: int) -> None:
    """What is added between two looks is less than a range; all of it is counted."""
    counted = [start]
    counters = Counters("RAPL", lambda: EnergyReading({"0": counted[-1] % (RANGE + 1)}, {"0": RANGE}, 1e-6))
    finish = counters.begin()
    for step in steps:
        counted.append(counted[-1] + step)
        counters.keep()
    assert finish() == pytest.approx(sum(steps) * 1e-6)


def test_a_thread_keeps_counters_while_work_goes_on() -> None:
    """A counter that goes once round between two looks of the thread is not lost on a long piece of work."""
    looks: list[None] = []

    def read() -> EnergyReading:
        looks.append(None)
        return EnergyReading({"0": 700 * len(looks) % 1000}, {"0": 999}, 1.0)

    counters = Counters("RAPL", read)
    finish = counters.begin()
    before = len(looks)
    with kept([counters], every_seconds=0.001):
        assert wait_until(lambda: len(looks) > before + 3)
    assert finish() == 700 * (len(looks) - before)


def test_counters_that_go_away_are_a_reason() -> None:
    readings = iter([{"0": 1, "1": 1}, {"0": 2, "1": 2}, {"0": 3}])
    counters = Counters("RAPL", lambda: EnergyReading(found := next(readings), dict.fromkeys(found, 9), 1.0))
    gauge = Gauge([counters])
    energy = gauge.begin()()
    assert (energy.joules, energy.source, energy.reason) == (None, None, "1: came or went away meanwhile")


def test_what_a_machine_takes_at_rest_is_not_the_works() -> None:
    assert net_joules(100.0, 4.0, 20.0) == 20.0
    assert net_joules(10.0, 4.0, 20.0) == 0.0


class Driver:
    """NVML as its documents have it: millijoules of a GPU since its driver was loaded."""

    class NVMLError(Exception):
        pass

    def __init__(self, *readings: int | None):
        self.readings = list(readings)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802 (NVML's name)
        found = self.readings[handle]
        if found is None:
            raise self.NVMLError("Not Supported")
        return found


def test_gpus_count_millijoules() -> None:
    handles = {"0": 0, "3": 1}
    before, after = read_nvml(Driver(5_000, 70_000), handles), read_nvml(Driver(7_500, 71_000), handles)
    assert before.joules_until(after) == pytest.approx(2.5 + 1.0)
    with pytest.raises(NoEnergyError, match="NVML: Not Supported"):
        read_nvml(Driver(5_000, None), handles)


DAY = "1970-01-01T"


def log(folder: Path, *lines: str) -> Path:
    path = folder / "plug.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ("timestamp,watts", "100,10", "110,30", "120,30"),
        ("\ufeffid,apower,ts", '"a,b",10,100000000000.5', "a,30,100000010000.5", "a,30,100000020000.5"),
        ("Time,ENERGY_Power", f"{DAY}00:01:40Z,10", f"{DAY}01:01:50+01:00,30", f"{DAY}00:02:00Z,30"),
        ("entity_id,state,last_changed", f"p,unavailable,{DAY}00:00:00Z", f"p,10,{DAY}00:01:40.000Z",
         f"p,30,{DAY}00:01:50Z", f"p,30,{DAY}00:02:00Z"),
    ],
    ids=["seconds", "Shelly", "Tasmota", "Home Assistant"],
)  # fmt: skip
def test_a_plugs_power_over_time(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """From 10 W to 30 W in 10 s, then 30 W: in closed form from any moment to any other."""
    plug = Plug(log(tmp_path, *lines), "--plug")
    begin = plug.times[0]
    assert plug.joules(begin, begin + 20) == pytest.approx(200 + 300)
    assert plug.joules(begin + 5, begin + 15) == pytest.approx(5 * 25 + 5 * 30)
    assert plug.joules(begin + 15, begin + 25) == pytest.approx(300)


def test_where_a_plug_says_nothing_there_is_a_reason(tmp_path: Path) -> None:
    plug = Plug(log(tmp_path, "timestamp,watts", "100,10", "110,10", "500,10"), "--plug")
    for start, end, reason in (
        (99, 105, "begins only 1 s after"),
        (101, 105, "has no line within these 4 s"),
        (600, 700, "has no line within these 100 s"),
        (105, 200, "says nothing for 390 s"),
        (450, 501 + GAP_SECONDS, "says nothing for"),
    ):
        with pytest.raises(NoEnergyError, match=reason):
            plug.joules(start, end)


def test_a_log_is_read_on_while_it_grows(tmp_path: Path) -> None:
    """A line that is half written waits for its end."""
    path = log(tmp_path, "timestamp,watts", "100,10")
    plug = Plug(path, "--plug")
    with path.open("a") as file:
        file.write("110,20\n120,3")
    plug.read_on()
    assert plug.times == [100, 110]
    with path.open("a") as file:
        file.write("0\n130,x\n")
    with pytest.raises(NoEnergyError, match="line 5: 'x' is no power"):
        plug.read_on()
    assert (plug.times, plug.watts) == ([100, 110, 120], [10, 20, 30])


def test_a_log_whose_clock_is_set_back_begins_anew(tmp_path: Path) -> None:
    """As when summer time ends, in a log of local times: what comes after can be measured again."""
    path = log(tmp_path, "timestamp,watts", "3600,10", "3605,10", "3610,10", "20,30", "25,30", "30,30")
    plug = Plug(path, "--plug")
    assert plug.joules(20, 30) == pytest.approx(300)
    with pytest.raises(NoEnergyError, match="has no line within"):
        plug.joules(3600, 3610)
    with path.open("a") as file:
        file.write("40,30\n")
    plug.read_on()
    assert plug.joules(25, 35) == pytest.approx(300)


@pytest.mark.parametrize("jump", [-3600.0, 30.0])
def test_what_is_measured_while_the_clock_is_set_is_not_known(tmp_path: Path, jump: float) -> None:
    """The log goes by clocks, whose difference is then not the time that the work took."""
    path = log(tmp_path, "timestamp,watts", *(f"{1000 + k / 4},10" for k in range(5)))
    moments = iter([1000.0, 1000.5, 1000.0, 1000.0 + jump])
    plug = Plug(path, "--plug", clock=lambda: next(moments))
    assert plug.begin()() == pytest.approx(5), "of half a second, which a clock may be corrected by"
    with pytest.raises(NoEnergyError, match=r"clock was set by (-3\.6e\+03|\+30) s meanwhile"):
        plug.begin()()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "has no header yet"),
        (("when,watts", "1,2"), "line 1: needs one column of the time .* has none in when, watts"),
        (("time,power,watts", "1,2,3"), "line 1: needs one column of the power .* has power, watts"),
        (("time,watts", "noon,2"), "line 2: 'noon' is no time"),
        (("time,watts", "nan,2"), "line 2: 'nan' is no time"),
        (("time,watts", "1,2", "2,-3"), "line 3: '-3' is no power: watts, from 0 on"),
        (("time,watts", "1,2", "2"), "line 3: has fewer cells"),
    ],
)
def test_what_is_no_log_of_a_plug_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=rf"--plug: .*plug\.csv.*{message}"):
        Plug(log(tmp_path, *lines), "--plug")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"energy\.plug: .*nowhere\.csv cannot be read"):
        Plug(tmp_path / "nowhere.csv", "energy.plug")


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose powercap is a folder of ours, and that has no GPU."""
    monkeypatch.setattr("fedfmd.machine.energy.POWERCAP", tmp_path)
    monkeypatch.setattr("fedfmd.machine.nvml.visible_gpus", list)
    return tmp_path


def measured_by(meter: str, **keys: float) -> EnergyConfig:
    return EnergyConfig.model_validate({"meter": meter, **keys})


@pytest.mark.parametrize("meter", ["rapl", "auto"])
def test_work_is_measured_less_the_power_at_rest(sysfs: Path, meter: str) -> None:
    """The counter goes round while 60 J are spent; at rest the machine takes nothing."""
    powercap(sysfs, RANGE - 9_999_999)
    with gauging(measured_by(meter, idle_watts=0.0)) as gauge:
        finish = gauge.begin()
        powercap(sysfs, 20_000_000)
        energy = finish()
    assert energy.joules == pytest.approx(2 * 30.0)
    assert energy.source == "measured: RAPL, less the power at rest"
    assert (energy.idle_watts, energy.reason) == (0.0, None)


def test_the_power_at_rest_is_measured_first(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfmd.machine.gauge.time", SimpleNamespace(
        perf_counter=time.perf_counter, sleep=lambda _: powercap(sysfs, 3_000_000)))  # fmt: skip
    powercap(sysfs, 0)
    with gauging(measured_by("rapl")) as gauge:
        assert gauge.idle_watts > 0
        assert gauge.begin()().joules == 0  # less than at rest is no less than nothing


def test_a_meter_that_was_asked_for_must_be_there(sysfs: Path) -> None:
    for meter, reason in (("rapl", "no intel-rapl packages"), ("nvml", "no GPU that this process may use")):
        with pytest.raises(UserError, match=rf"energy\.meter = '{meter}': .*{reason}; 'none' measures"):
            check_meters(measured_by(meter))
    with gauging(measured_by("auto")) as gauge:
        energy = gauge.begin()()
    assert (energy.joules, energy.source) == (None, None)
    assert energy.reason == f"{sysfs} has no intel-rapl packages; no GPU that this process may use"


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        ({"meter": "plug"}, "energy.meter = 'plug': needs energy.plug to be given"),
        ({"meter": "plug", "plug": "x.csv"}, "energy.meter = 'plug': needs energy.idle_watts to be given"),
        ({"plug": "x.csv"}, "energy.plug = 'x.csv': counts only with energy.meter = 'plug'"),
        ({"idle_watts": 3.0}, "energy.idle_watts = 3.0: counts only with energy.meter other than 'none'"),
    ],
)
def test_keys_that_go_together(energy: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"energy": energy})
