"""What is forecast is what the run then does."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedfmd.cli.plan import plan_shown
from fedfmd.config.experiment import dump_config, parse_config
from fedfmd.errors import UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.forecast import forecast, opened
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.terminal.forecast import wall_text
from fedfmd.units import ABSENT

CONFIG = {
    "data": {"train_samples": 240, "test_samples": 60},
    "partition": {"scheme": "sampled", "clients": 8, "samples_per_client": 30, "validation": 0.1},
    "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
    "client": {"batch_size": 10},
    "server": {"rounds": 3, "cohort": 4},
    "backend": {"kind": "inline"},
    "devices": {
        "kind": "tiers",
        "tiers": [{"name": "strong"}, {"name": "weak", "budget": {"macs_fraction": 0.4}}],
    },
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "forecast-cache"))


@pytest.mark.parametrize("policy", ["width", "partial", "drop"])
def test_totals_are_those_of_the_ledger(tmp_path, policy):
    config = parse_config(CONFIG | {"policy": {"kind": policy}})
    with opened(config) as experiment:
        found = forecast(experiment)
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    rows = RunDirectory.open(directory.path).rounds()
    for name in ("macs", "downlink_bytes", "uplink_bytes", "device_seconds", "device_clock_seconds"):
        spent = sum(row[name] or 0 for row in rows)
        assert getattr(found.totals, name) == pytest.approx(spent, rel=1e-9), name
    asked = sum(row["cohort"] for row in rows)
    left_out = sum(row["dropped"] for row in rows)
    assert asked == 12
    assert found.totals.left_out == pytest.approx(left_out / 3)


def test_every_policy_is_shown_with_what_it_gives_or_why_not(tmp_path):
    with opened(parse_config(CONFIG | {"policy": {"kind": "width"}})) as experiment:
        found = forecast(experiment)
    weak = next(tier for tier in found.tiers if tier.name == "weak")
    given = {one.policy: one for one in weak.given}
    assert weak.given[0].policy == "width"
    assert given["drop"].left_out == weak.clients
    assert given["none"].macs_share == 1.0
    assert 0 < given["partial"].macs_share <= 0.4
    assert "model.exits" in given["depth"].refused
    assert weak.limits.macs == int(0.4 * weak.full.macs)


def test_rounds_within_a_total():
    with opened(parse_config(CONFIG)) as experiment:
        found = forecast(experiment, policies=False)
    assert found.rounds_within("macs", found.totals.macs) == 3
    assert found.rounds_within("macs", 2.5 * found.totals.macs) == 7


def shown(file: Path, until: str | None = None) -> str:
    text = io.StringIO()
    plan_shown(Console(file=text, width=160), file, [], until, False)
    return text.getvalue()


def test_it_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG | {"policy": {"kind": "width"}})))
    text = shown(tmp_path / "e.toml", "macs=1e9")
    for words in ("May spend", "width *", "Training compute", "1 GMAC in all: enough for about"):
        assert words in text
    assert {path.name for path in tmp_path.iterdir()} == {"e.toml"}
    with pytest.raises(UserError, match="must look like COST=NUMBER"):
        shown(tmp_path / "e.toml", "macs=0")


def test_a_study_is_told_arm_by_arm(tmp_path):
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG)))
    (tmp_path / "s.toml").write_text(
        'name = "s"\nbase = "e.toml"\naxes = { "policy.kind" = ["drop", "width"] }\n'
    )
    text = shown(tmp_path / "s.toml")
    assert "of 6 runs in all" in text
    assert "\u2502 drop " in text  # as figures call it


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ABSENT),
        ((3.2, 20.4), "3.2 to 20 s"),
        ((30.0, 89.0), "30 to 89 s"),
        ((421.0, 1326.0), "7 to 22 min"),
        ((1532.0, 4740.0), "26 to 79 min"),
        ((8880.0, 27960.0), "2.5 to 7.8 h"),
    ],
)
def test_a_range_of_time_is_no_finer_than_it_is_known(seconds, text):
    assert wall_text(seconds) == text
