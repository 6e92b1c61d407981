"""What the rows of a run say of joules: how many, and what they are from."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedfmd.config.experiment import parse_config
from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.devices.profiles import PROFILES, device_from, section_of
from fedfmd.errors import UserError
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run

TINY = {
    "data": {"train_samples": 80, "test_samples": 20},
    "partition": {"scheme": "sampled", "clients": 8, "samples_per_client": 4},
    "model": {"width": 0.25},
    "server": {"rounds": 1, "cohort": 8},
    "backend": {"kind": "inline"},
}


def rows(folder: Path, **sections: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run a tiny experiment; returns the rows of its rounds and of its clients."""
    execute(start_run(parse_config({**TINY, **sections}), folder), InlineExecutor)
    rounds, clients = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("rounds.jsonl", "clients.jsonl")
    )
    return rounds, clients


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card whose power of computing was measured."""
    path = tmp_path / "board.toml"
    measured = {"name": "board", "like": "raspberry-pi", "compute_watts": 3.5, "watts_source": "RAPL"}
    path.write_text(tomli_w.dumps({"device": measured}))
    return path


def test_every_row_says_what_its_joules_are_from(tmp_path: Path, card: Path) -> None:
    """A client's from its device, a round's from all of its clients; modelled by the card's watts."""
    devices = {"kind": "tiers", "tiers": [{"name": "b", "like": str(card)}, {"name": "l", "like": "laptop"}]}
    (start, trained), clients = rows(tmp_path / "run", devices=devices)
    board = "modelled from the watts of card board.toml, RAPL (compute_watts) and profile raspberry-pi"
    laptop = "modelled from the watts of profile laptop"
    said = {"b": board, "l": laptop}
    assert {row["joules_source"] for row in clients} == {board, laptop}
    for row in clients:
        assert row["joules_source"] == said[row["plan"]["device"]]
        assert row["energy_joules"] > 0
        assert row["joules_reason"] is None
    assert trained["joules_source"] == f"{board}; {laptop}"
    assert (start["energy_joules"], start["joules_source"]) == (None, None)
    assert start["joules_reason"] == "no client was asked"


def test_without_devices_the_rows_say_why_there_are_no_joules(tmp_path: Path) -> None:
    rounds, clients = rows(tmp_path / "run")
    for row in [rounds[1], *clients]:
        assert (row["energy_joules"], row["joules_source"]) == (None, None)
        assert row["joules_reason"] == "devices.kind is 'none'"


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        ({}, "profile phone-mid"),
        ({"send_watts": 1.0}, "the config (send_watts) and profile phone-mid"),
        ({"send_watts": 1.0, "watts_source": "a plug"}, "a plug (send_watts) and profile phone-mid"),
        ({"compute_watts": 0.0, "receive_watts": 0.0, "send_watts": 1.0}, "the config"),
    ],
)
def test_where_the_watts_are_from(keys: dict[str, Any], source: str) -> None:
    device = device_from(DeviceConfig(name="d", **keys))
    assert device.watts_source == source
    assert device_from(section_of(device)) == device


def test_built_in_watts_are_their_profiles() -> None:
    assert {device.watts_source for device in PROFILES.values()} == {f"profile {name}" for name in PROFILES}


def test_a_source_of_no_watts_is_refused() -> None:
    tier = {"name": "d", "watts_source": "a plug"}
    with pytest.raises(UserError, match="watts_source = 'a plug': counts only with compute_watts"):
        parse_config({"devices": {"kind": "tiers", "tiers": [tier]}})


def test_a_plug_measures_the_machine_round_by_round(tmp_path: Path) -> None:
    """30 W at the plug, 10 W of them at rest: 20 J per second of a round, and no word of the clients'."""
    log, now = tmp_path / "plug.csv", time.time()
    log.write_text("".join(["ts,watts\n", *(f"{now + i / 200:.3f},30\n" for i in range(-100, 40_000))]))
    energy = {"meter": "plug", "plug": str(log), "idle_watts": 10.0}
    (start, trained), clients = rows(tmp_path / "run", energy=energy)
    assert 20 * trained["client_train_seconds"] < trained["host_joules"] < 20.2 * trained["host_seconds"]
    assert trained["host_joules_source"] == "measured: plug plug.csv, less the power at rest"
    assert (trained["idle_watts"], trained["host_joules_reason"]) == (10.0, None)
    assert trained["cumulative"]["host_joules"] == trained["host_joules"]
    assert (start["host_joules"], start["host_joules_reason"]) == (None, "no client was asked")
    assert all(row["energy_joules"] is None for row in [trained, *clients])


def test_a_machine_that_nobody_measures_says_so(tmp_path: Path) -> None:
    (_, trained), _ = rows(tmp_path / "run")
    assert (trained["host_joules"], trained["host_joules_source"]) == (None, None)
    assert trained["host_joules_reason"] == "energy.meter is 'none'"
