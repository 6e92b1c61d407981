"""What is forecast is what the run then does."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfmd import registry
from fedfmd.api import simulate
from fedfmd.cli.actions.plan import plan_shown
from fedfmd.config.experiment import changed, dump_config, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.planning.policy import PlanRequest
from fedfmd.records.rundir import RunDirectory
from fedfmd.registry import register
from fedfmd.rounds.forecast import forecast, opened
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.studies.plan import load_study
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.forecast import wall_text
from fedfmd.units import ABSENT, quantity
from fedfmd.wire.plan import ClientPlan

CONFIG: dict[str, Any] = {
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
    costs = ("macs", "downlink_bytes", "uplink_bytes", "device_seconds", "energy_joules")
    for name in (*costs, "device_clock_seconds"):
        spent = sum(row[name] or 0 for row in rows)
        assert getattr(found.totals, name) == pytest.approx(spent, rel=1e-9), name
    asked = sum(row["cohort"] for row in rows)
    left_out = sum(row["dropped"] for row in rows)
    assert asked == 12
    assert found.totals.left_out == pytest.approx(left_out / 3)


def halving(request: PlanRequest) -> ClientPlan:
    """A policy of one's own: half of the steps in even rounds."""
    return replace(request.full, steps=2) if request.round % 2 == 0 else request.full


def shrinking(request: PlanRequest, share: float) -> ClientPlan:
    """A policy of one's own with an option."""
    return replace(request.full, steps=max(1, round(4 * share)))


def test_attempts_that_are_repeated_for_want_of_clients_with_a_plan_are_forecast(tmp_path):
    """Whoever is asked is drawn by the seed, in each attempt at a round."""
    scarce: dict[str, Any] = {
        "server": {"cohort": 1, "rounds": 6, "max_retries": 9},
        "policy": {"kind": "drop"},
    }
    config = parse_config(CONFIG | scarce)
    with opened(config) as experiment:
        totals = forecast(experiment, policies=False).totals
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    rows = directory.clients()
    assert {row["attempt"] for row in rows} > {0}
    assert totals.asked == pytest.approx(len(rows) / 6)
    assert totals.left_out == pytest.approx(sum(row["status"] == "dropped" for row in rows) / 6)
    assert totals.macs == sum(row["macs"] for row in rows)
    assert totals.stops_in is None
    once = parse_config(CONFIG | scarce | {"server": scarce["server"] | {"max_retries": 0}})
    with opened(once) as experiment:
        found = forecast(experiment, policies=False)
    assert found.totals.stops_in
    said = f"In round {found.totals.stops_in} too few of the clients that are asked have a plan that fits"
    assert any(note.startswith(said) for note in found.notes)
    with pytest.raises(RunError, match=f"round {found.totals.stops_in}: fewer than server.min_completed"):
        execute(start_run(once, tmp_path / "once"), InlineExecutor)


@pytest.mark.parametrize("models", [["global"], ["global", "finetuned"], ["global", "local"]])
@pytest.mark.parametrize("local_at", ["last", "every"])
def test_what_clients_train_to_be_measured_is_forecast(tmp_path, models, local_at):
    """About: who measures a model of its own, and how many images each has, is drawn."""
    evaluation = {"clients": "all", "models": models}
    evaluation |= {"local_at": local_at} if "local" in models else {}
    more = {"partition": CONFIG["partition"] | {"holdout": 0.2}, "evaluation": evaluation}
    config = parse_config(CONFIG | more | {"devices": {"kind": "none"}})
    with opened(config) as experiment:
        totals = forecast(experiment, policies=False).totals
        images = len(experiment.dataset.test_labels) + len(experiment.partition.validation)
        at_the_server = 4 * images * experiment.network.cost.forward_macs
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    spent = sum(row["evaluation_macs"] for row in directory.rounds())
    assert totals.evaluation_macs - at_the_server == pytest.approx(spent, rel=0.15)


def test_networks_that_are_drawn_step_by_step_are_forecast_at_most(tmp_path):
    config = parse_config(CONFIG | {"policy": {"kind": "width", "width_mode": "ordered"}})
    with opened(config) as experiment:
        found = forecast(experiment, policies=False)
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    assert 0 < sum(row["macs"] for row in directory.clients()) < found.totals.macs
    assert any("are the most that they take" in note for note in found.notes)


def test_networks_whose_activations_are_scaled_cost_what_is_forecast(tmp_path):
    config = parse_config(CONFIG | {"policy": {"kind": "width"}})
    assert config.client.scaler
    with opened(config) as experiment:
        found = forecast(experiment, policies=False)
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    assert {row["plan"]["width"] < 1 for row in directory.clients()} == {True, False}
    assert sum(row["macs"] for row in directory.clients()) == found.totals.macs
    assert not any("are the most that they take" in note for note in found.notes)


@pytest.fixture
def own_policies(monkeypatch):
    registry.names("policy")  # the built-in ones are there before
    monkeypatch.setitem(registry._parts, "policy", dict(registry._parts["policy"]))
    for policy in (halving, shrinking):
        register("policy", policy.__name__, axes=("steps",))(policy)


@pytest.mark.parametrize("policy", [{"kind": "halving"}, {"kind": "width", "rates": "drawn"}])
def test_plans_that_change_from_round_to_round_are_forecast_round_by_round(tmp_path, own_policies, policy):
    config = parse_config(CONFIG | {"policy": policy})
    with opened(config) as experiment:
        found = forecast(experiment)
    directory = start_run(config, tmp_path / "run")
    execute(directory, InlineExecutor)
    rows = [row for row in RunDirectory.open(directory.path).rounds() if row["round"]]
    assert len({row["macs"] for row in rows}) > 1
    assert found.totals.macs == sum(row["macs"] for row in rows)
    assert found.totals.bytes == sum(row["downlink_bytes"] + row["uplink_bytes"] for row in rows)


def test_the_options_of_ones_own_policy_are_asked_of_no_other(own_policies):
    config = CONFIG | {"policy": {"kind": "shrinking"}, "options": {"policy": {"share": 0.5}}}
    with opened(parse_config(config)) as experiment:
        found = forecast(experiment)
    given = {one.policy: one.refused for one in found.tiers[0].policies}
    assert [given[kind] for kind in ("shrinking", "drop", "partial", "width", "kernels")] == [""] * 5


def test_it_is_told_that_nobody_can_take_part(tmp_path):
    with opened(parse_config(CONFIG)) as experiment:
        strong = next(tier.clients for tier in forecast(experiment).tiers if tier.name == "strong")
    for policy, more, dead in (("drop", 1, True), ("drop", 0, False), ("partial", 1, False)):
        needed = strong + more
        document = CONFIG | {"policy": {"kind": policy}, "server": {"cohort": 8, "min_completed": needed}}
        config = parse_config(document)
        with opened(config) as experiment:
            found = forecast(experiment)
        assert bool(found.dead_end) == dead
    tight = CONFIG | {"policy": {"kind": "drop"}, "budget": {"macs": 1}, "devices": {"kind": "none"}}
    (tmp_path / "e.toml").write_text(dump_config(parse_config(tight)))
    said = "no client has a plan that fits the budget, and a round needs server.min_completed = 1"
    assert f"warning: {said}" in shown(tmp_path / "e.toml")
    with pytest.raises(RunError, match=r"server\.min_completed"):
        execute(start_run(parse_config(tight), tmp_path / "run"), InlineExecutor)
    (tmp_path / "s.toml").write_text('name = "s"\nbase = "e.toml"\nseeds = [3, 4]\n')
    assert f"seed 3, seed 4: {said}" in shown(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the last round has 28, the schedule ends at temperature.end = 1"),
        ({"server.rounds": 8}, "the last round has 13, the schedule ends at temperature.end = 1"),
        ({"server.rounds": 11}, "the last round has 4,"),
        ({"server.rounds": 12}, ""),
        ({"temperature.anneal_fraction": 1.0}, ""),
        ({"temperature.end": 28.0}, ""),
        ({"temperature.mode": "sigmoid_only"}, "the last round has 28,"),
        ({"temperature.mode": "fixed"}, ""),
        ({"model.conv": "static"}, ""),
        ({"model.conv": "condconv"}, ""),
        ({"model.conv": "kernelwarehouse"}, ""),
        (
            {"model.conv": "kernelwarehouse", "temperature.anneal_rounds": 4},
            "has 0.5, the schedule ends at tau = 0",
        ),
    ],
)
def test_a_schedule_of_temperatures_that_the_run_cuts_off_is_told(changes, said):
    """DyConv's stairs from 34 to 1 take twelve rounds."""
    with opened(changed(CONFIG, changes)) as experiment:
        notes = [note for note in forecast(experiment, policies=False).notes if "temperatures" in note]
    assert (said in notes[0]) if said else not notes


def test_a_run_and_a_study_say_so_too(tmp_path):
    said = "The schedule of temperatures is cut off: the last round has 31"
    file = tmp_path / "e.toml"
    file.write_text(dump_config(changed(CONFIG, {"server.rounds": 2})))
    simulate(file, out=tmp_path / "run").report()
    assert said in (tmp_path / "run" / "report.html").read_text()
    ended = simulate(file, overrides={"temperature.anneal_fraction": 1.0}, out=tmp_path / "ended").report()
    assert "schedule of temperatures" not in ended.read_text()
    (tmp_path / "s.toml").write_text(
        'name = "s"\nbase = "e.toml"\naxes = { "model.conv" = ["static", "se", "odconv"] }'
    )
    assert load_study(tmp_path / "s.toml").notes[0].startswith(f"conv=odconv: {said}")


def test_every_policy_is_shown_with_what_it_gives_or_why_not(tmp_path):
    with opened(parse_config(CONFIG | {"policy": {"kind": "width"}})) as experiment:
        found = forecast(experiment)
    weak = next(tier for tier in found.tiers if tier.name == "weak")
    given = {one.policy: one for one in weak.policies}
    assert weak.policies[0].policy == "width"
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


def shown(file: Path, until: str | None = None, width: int = 160) -> str:
    text = io.StringIO()
    plan_shown(PlainConsole(file=text, width=width), file, [], until, False)
    return text.getvalue()


def test_its_tables_fit_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = {"policy": {"kind": "width"}, "budget": {"macs_fraction": 0.5}}
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG | policy)))
    lines = shown(tmp_path / "e.toml", width=60).splitlines()
    assert any("Full work" in line or "Images" in line for line in lines)
    assert [line for line in lines if len(line) > 60 and not line.startswith("note: ")] == []


def test_it_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG | {"policy": {"kind": "width"}})))
    text = shown(tmp_path / "e.toml", "macs=1e9")
    for words in ("May spend", "width *", "Training compute", "1 GMAC in all: enough for about"):
        assert words in text
    assert {path.name for path in tmp_path.iterdir()} == {"e.toml"}
    for nothing in ("macs=0", "macs=inf", "macs=nan", "macs=1e308"):
        with pytest.raises(UserError, match="must look like COST=NUMBER"):
            shown(tmp_path / "e.toml", nothing)


def test_a_total_that_cannot_be_honoured_is_refused(tmp_path):
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG)))
    assert "1 kJ in all: enough for about" in shown(tmp_path / "e.toml", "energy_joules=1000")
    (tmp_path / "bare.toml").write_text(dump_config(parse_config(CONFIG | {"devices": {"kind": "none"}})))
    for cost in ("device_seconds", "energy_joules"):
        with pytest.raises(UserError, match=r"are not known; give it \[devices\]"):
            shown(tmp_path / "bare.toml", f"{cost}=10")
    (tmp_path / "s.toml").write_text('name = "s"\nbase = "e.toml"\n')
    with pytest.raises(UserError, match="is of one experiment"):
        shown(tmp_path / "s.toml", "macs=1e9")


def test_a_study_is_told_arm_by_arm(tmp_path):
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG)))
    (tmp_path / "s.toml").write_text(
        'name = "s"\nbase = "e.toml"\naxes = { "policy.kind" = ["drop", "width"] }\n'
    )
    text = shown(tmp_path / "s.toml")
    assert "by seeds 0, 1, 2, of 6 runs in all" in text
    assert "\u2502 drop " in text  # as figures call it


def test_what_a_study_will_cost_is_told_of_all_seeds(tmp_path):
    """With the policy `drop` a run costs what the strong clients of its cohorts cost, seed by seed."""
    (tmp_path / "e.toml").write_text(dump_config(parse_config(CONFIG | {"policy": {"kind": "drop"}})))
    (tmp_path / "s.toml").write_text('name = "s"\nbase = "e.toml"\n')
    macs = []
    for seed in range(3):
        with opened(changed(CONFIG | {"policy": {"kind": "drop"}}, {"seed": seed})) as experiment:
            macs.append(forecast(experiment).totals.macs)
    assert len(set(macs)) > 1
    assert f"{quantity(min(macs), 'MAC')} to {quantity(max(macs), 'MAC')}" in shown(tmp_path / "s.toml")


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
