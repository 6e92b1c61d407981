"""Device cards: a tier is like one, one is continued, and the counters that its power comes from."""

import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedfmd.config.documents import read_toml
from fedfmd.config.experiment import dump_config, named_paths, parse_config
from fedfmd.config.sections.devices import DeviceConfig, DevicesConfig
from fedfmd.costs.macs import model_cost
from fedfmd.devices import device_of, shares_links
from fedfmd.devices.profiles import PROFILES, device_from
from fedfmd.devices.simulation import overhead_seconds
from fedfmd.errors import UserError
from fedfmd.machine.energy import Counters, EnergyReading
from fedfmd.machine.plug import Plug
from fedfmd.profiling.calibrate import measured_rates, shapes
from fedfmd.profiling.card import CALIBRATION, StepParts, measure_card, split
from fedfmd.profiling.power import power_by

EXAMPLES = Path(__file__).parents[2] / "examples/cards"
CARD: dict[str, Any] = {
    "device": {
        "name": "board",
        "like": "raspberry-pi",
        "conv_macs_per_second": 3e9,
        "memory_bytes": 123_000_000,
    },
    "operators": [{"kind": "conv", "shape": "16 channels, 32 pixels", "macs_per_second": 3e9, "spread": 0.1}],
    "calibration": {},
    "start": {"seconds": 4.0},
    "power": {"source": "none", "reason": "a plug"},
    "validation": {"median_ratio": 1.0, "worst_ratio": 1.0, "batch_size": 16, "networks": []},
}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(tomli_w.dumps(CARD))
    return path


def test_a_tier_is_like_its_card_and_the_card_like_a_profile(card: Path) -> None:
    device = device_from(DeviceConfig(name="mine", like=str(card), uplink_bits_per_second=5.0))
    profile = PROFILES["raspberry-pi"]
    assert (device.name, device.rates.conv, device.memory_bytes) == ("mine", 3e9, 123_000_000)
    assert (device.rates.linear, device.compute_watts) == (profile.rates.linear, profile.compute_watts)
    assert (device.uplink_bits_per_second, device.downlink_bits_per_second) == (
        5.0,
        profile.downlink_bits_per_second,
    )


def test_example_cards_are_devices_and_less_of_a_processor_is_slower() -> None:
    whole, half, quarter = (
        device_from(DeviceConfig(name="a", like=str(EXAMPLES / f"{name}.toml")))
        for name in ("epyc", "epyc-half", "epyc-quarter")
    )
    assert whole.rates.conv > half.rates.conv > quarter.rates.conv
    assert whole.layer_seconds < half.layer_seconds < quarter.layer_seconds


def test_a_card_is_a_file_of_the_machine_that_reads_the_config(card: Path) -> None:
    tiers = [DeviceConfig(name="a", like="laptop"), DeviceConfig(name="b", like=str(card))]
    assert list(named_paths(DevicesConfig(kind="tiers", tiers=tiers))) == ["tiers.1.like"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no device card: has no section \[device\]"),
        ("device = 3", r"no device card: has no section \[device\]"),
        ('[device]\nname = "a"\nconv_macs_per_second = -1', "conv_macs_per_second"),
        ('[device]\nname = "a"\nlike = "other.toml"', "is no profile; allowed: server"),
        ("[device", "card.toml"),
    ],
)
def test_what_is_no_card_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        device_from(DeviceConfig(name="a", like=str(path)))
    with pytest.raises(UserError, match=r"nowhere\.toml"):
        device_from(DeviceConfig(name="a", like=str(tmp_path / "nowhere.toml")))


def test_a_card_is_continued_and_its_memory_stays_below_the_limit(card: Path) -> None:
    """What is there is kept; only the memory is searched for, in a process of its own."""
    told: list[str] = []
    threads = torch.get_num_threads()
    made = measure_card(card, like="laptop", memory_limit=3_000_000_000, share=1.0, tell=told.append)
    torch.set_num_threads(threads)
    assert told == ["memory"]
    assert made == dict(read_toml(card))
    assert made["device"]["like"] == "raspberry-pi"
    assert 0 < made["device"]["memory_bytes"] < 3_000_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "cifar10"}}, "unknown key data"),
        ({"device": {"name": "a", "conv_macs_per_secnd": 1}}, "did you mean conv_macs_per_second"),
        ({"operators": 3}, "operators = 3: must be"),
        ({"operators": []}, "operators = .*at least 1"),
        ({"power": {"source": "plug x"}}, "needs idle_watts and compute_watts"),
        ({"validation": {"median_ratio": 1.0}}, "validation.worst_ratio: is missing"),
        ({"provenance": {"processor": "another"}}, "was begun on another machine .processor another, here"),
    ],
)
def test_a_file_that_is_no_card_of_this_machine_stays_as_it_is(
    changes: dict[str, object], message: str, card: Path
) -> None:
    text = tomli_w.dumps({**CARD, **changes})
    card.write_text(text)
    with pytest.raises(UserError, match=message):
        measure_card(card, like="laptop", memory_limit=None, share=1.0, tell=print)
    assert card.read_text() == text


def test_a_tier_takes_link_and_budget_of_its_card_unless_it_says_otherwise(card: Path) -> None:
    """Through the config that a run writes down, too, which has every default."""
    link = {"round_trip_seconds": 1.0, "jitter_seconds": 5.0}
    own = {"link": link, "budget": {"macs_fraction": 0.1, "joules": 3.0}}
    card.write_text(tomli_w.dumps({**CARD, "device": CARD["device"] | own}))
    said = {"name": "a", "like": str(card), "link": {"jitter_seconds": 0.0}, "budget": {"joules": 2.0}}
    plain = {"name": "a", "like": str(card)}
    for tier, jitter, joules in ((plain, 5.0, 3.0), (said, 0.0, 2.0)):
        config = parse_config({"devices": {"kind": "tiers", "tiers": [tier]}})
        for found in (config, parse_config(tomllib.loads(dump_config(config)))):
            device = device_of(found, 0)
            assert device is not None
            assert (device.link.round_trip_seconds, device.link.jitter_seconds) == (1.0, jitter)
            assert (device.budget.macs_fraction, device.budget.joules) == (0.1, joules)
            assert shares_links(found) == (jitter > 0)


@given(st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
def test_steps_are_split_into_what_they_were_made_of(costs: list[float], seed: int) -> None:
    """Whatever a MAC, a byte and a layer take: the split finds it again."""
    rng = np.random.default_rng(seed)
    counts = ("conv", "attention", "activation", "layer")
    parts = [
        StepParts(float(rng.random()), dict(zip(counts, rng.uniform(1, 100, 4).tolist(), strict=True)))
        for _ in range(8)
    ]
    true = dict(zip(counts, costs, strict=True))
    seconds = [p.known_seconds + sum(true[name] * p.counts[name] for name in counts) for p in parts]
    assert split(parts, seconds) == pytest.approx(true, rel=1e-5)


def test_no_part_of_a_step_takes_less_than_nothing() -> None:
    """The second kind makes steps shorter, as noise would: it gets 0."""
    parts = [StepParts(0.0, {"conv": 1.0, "layer": float(n)}) for n in (1, 2, 3)]
    found = split(parts, [3.0, 2.0, 1.0])
    assert found["layer"] == 0
    assert found["conv"] > 0


def test_activations_and_layers_take_their_time_beside_the_macs() -> None:
    """Four steps of 10 images: the bytes that their layers put out, and each layer once per step."""
    cost = model_cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 8, 8))
    profile = replace(PROFILES["laptop"], activation_bytes_per_second=1e9, layer_seconds=0.002)
    macs = cost.macs_by_kind * (3 * 40)
    put_out = 2 * 4 * 6 * 6 * 4  # two layers, channels, pixels, bytes
    expected = 40 * put_out / 1e9 + 4 * 2 * 0.002
    assert overhead_seconds(profile, macs, cost, 10) == pytest.approx(expected)
    assert overhead_seconds(profile.faster(2), macs, cost, 10) == pytest.approx(expected / 2)
    assert overhead_seconds(PROFILES["laptop"], macs, cost, 10) == 0


def test_every_kind_is_measured_in_every_shape() -> None:
    operators = [kind[0] for kind in shapes().values()]
    assert [operator.kind for operator in operators] == ["conv", "aggregation", "attention", "linear"]
    rates = measured_rates(operators, repeats=2)
    assert all(rate.macs_per_second > 0 and rate.spread >= 0 for rate in rates)


def test_power_is_what_work_takes_beyond_rest(tmp_path: Path) -> None:
    """Counters that stand still at rest, and count 6 J for each turn of the work."""
    counter = tmp_path / "energy"
    counter.write_text("0")
    counters = Counters("RAPL", lambda: EnergyReading({"0": int(counter.read_text())}, {"0": 10**12}, 1e-6))
    found = power_by(counters, lambda: counter.write_text("6000000"), 0.01, 0.0)
    assert (found.source, found.idle_watts) == ("RAPL", 0.0)
    assert found.compute_watts * found.seconds == pytest.approx(6.0)


@pytest.mark.parametrize("rises", [True, False])
def test_a_plug_measures_the_power_again(
    rises: bool, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that has none yet; a plug that shows more from moment to moment, or what the rest took."""
    monkeypatch.setattr("fedfmd.profiling.power.PLUG_SECONDS", 0.05)
    monkeypatch.setattr("fedfmd.profiling.card.CALIBRATION", CALIBRATION[:1])
    monkeypatch.setattr("fedfmd.profiling.card.STEPS", 1)
    now = time.time()
    log = tmp_path / "plug.csv"
    lines = [f"{now + i / 100},{5.0 + rises * i / 10}" for i in range(-50, 12000)]
    log.write_text("\n".join(["timestamp,watts", *lines, ""]))
    document = {**CARD, "memory": {"limit_bytes": 1, "bound": "none"}, "provenance": {}}
    card.write_text(tomli_w.dumps(document))
    made = measure_card(card, like="laptop", memory_limit=1, share=1.0, tell=print, plug=Plug(log, "--plug"))
    if not rises:
        assert made["power"]["source"] == "none"
        assert re.match(
            r"plug plug.csv: training took \S+ W and the machine at rest", made["power"]["reason"]
        )
        assert "compute_watts" not in made["device"]
        return
    assert made["power"]["source"] == "plug plug.csv"
    assert made["power"]["idle_watts"] > 4.9
    assert made["device"]["watts_source"] == "plug plug.csv"
    assert made["device"]["compute_watts"] > 0.05


def test_a_limit_that_leaves_no_memory_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    threads, told = torch.get_num_threads(), list[str]()
    with pytest.raises(UserError, match=r"memory: of 100 MB nothing is left .* larger --memory-limit"):
        measure_card(
            tmp_path / "card.toml", like="laptop", memory_limit=100_000_000, share=1.0, tell=told.append
        )
    torch.set_num_threads(threads)
    assert told == ["memory"]
