"""Budgets, policies and controls: plans that fit, by what is measured, on real runs of tiny networks."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fedfmd.algorithms import Algorithms
from fedfmd.building import network
from fedfmd.config.experiment import ExperimentConfig, changed, dump_config
from fedfmd.costs.macs import model_cost
from fedfmd.data.augment import epoch_batches
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import Share
from fedfmd.planning.bill import late_reason
from fedfmd.planning.budget import Limits
from fedfmd.planning.controls import control_match, matched, with_control
from fedfmd.planning.demand import demand, work_of
from fedfmd.planning.policy import OverBudget, Planner, kernel_set, usage_after
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.wire.plan import full_plan

CLIENTS = 12
DEVICES = {"kind": "lognormal", "median": {"name": "phone", "like": "phone-low"}}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def config_of(**changes: Any) -> ExperimentConfig:
    document: dict[str, Any] = {
        "data": {"train_samples": 400, "test_samples": 60},
        "partition": {"clients": CLIENTS, "min_size": 5},
        "model": {"name": "resnet8", "width": 0.5, "exits": True},
        "client": {"batch_size": 10},
        "server": {"rounds": 2, "cohort": 6},
        "backend": {"kind": "inline", "threads": 1},
    }
    return changed(document, changes)


def run(out: Path, **changes: Any) -> RunDirectory:
    directory = start_run(config_of(**changes), out)
    execute(directory, InlineExecutor)
    return directory


def client_rows(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        directory = start_run(config_of(), tmp_path_factory.mktemp("planner") / "run")
        opened = open_experiment(directory)
        assert len(opened.dataset.test_labels)
        return opened


def planner(experiment: Experiment, **changes: Any) -> Planner:
    settings = config_of(**changes)
    return Planner(
        Experiment(settings, experiment.dataset_file, experiment.partition_file, experiment.state_folder)
    )


BUDGETS = st.fixed_dictionaries(
    {},
    optional={
        "macs_fraction": st.floats(0.001, 1),
        "bytes_fraction": st.floats(0.01, 1),
        "memory_bytes": st.integers(50_000, 10_000_000),
        "device_seconds": st.floats(0.05, 20),
        "joules": st.floats(0.05, 20),
    },
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    budget=BUDGETS,
    kind=st.sampled_from(["drop", "partial", "width", "kernels", "depth", "batch", "auto"]),
    client=st.integers(0, CLIENTS - 1),
)
def test_every_plan_fits_or_says_what_does_not(
    experiment: Experiment, budget: dict[str, Any], kind: str, client: int
) -> None:
    from fedfmd.planning.budget import limits_of

    made = planner(experiment, budget=budget, policy={"kind": kind}, devices=DEVICES)
    plan = made.plan(client, 1, {})
    participant = made.experiment.participant(client)
    limits = limits_of(made.experiment, participant)
    if isinstance(plan, OverBudget):
        assert any(name in plan.reason for name in limits.to_json())
    else:
        assert not demand(made.experiment, plan, participant).exceeded(limits)
        assert bool(plan.why) == (plan != full_plan(made.config))


@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_the_bill_counts_the_batches_that_are_dealt(tmp_path: Path, norm: str) -> None:
    """Also batches of one, of which BatchNorm's last joins the one before it."""
    made = open_experiment(start_run(config_of(model={"norm": norm}), tmp_path / "run"))
    plan = full_plan(made.config)
    merges = made.network.part(plan.share).needs_pairs
    for size, examples in ((size, examples) for size in range(1, 6) for examples in range(1, 14)):
        dealt = epoch_batches(examples, size, torch.Generator(), merge_single_tail=merges)
        work = work_of(made, replace(plan, epochs=1, batch_size=size, steps=None), examples)
        assert (work.steps, work.largest_batch) == (len(dealt), max(map(len, dealt)))


def test_every_step_calls_every_layer(experiment: Experiment) -> None:
    """Also the last of a pass, however few images are left for it."""

    def seconds(client: int, layer_seconds: float, batch_size: int) -> float:
        device = {"kind": "tiers", "tiers": [{"name": "slow", "layer_seconds": layer_seconds}]}
        made = planner(experiment, devices=device, client={"batch_size": batch_size, "epochs": 3}).experiment
        needed = demand(made, full_plan(made.config), made.participant(client)).device_seconds
        assert needed is not None
        return needed

    layers = len(experiment.network.part(full_plan(experiment.config).share).cost.layers)
    for client in range(CLIENTS):
        examples = experiment.partition.size(client)
        for batch_size in (2, examples - 1, examples, examples + 1):
            calls = 3 * math.ceil(examples / batch_size) * layers
            beside = seconds(client, 0.25, batch_size) - seconds(client, 0.0, batch_size)
            assert beside == pytest.approx(0.25 * calls)


def test_without_limits_every_policy_gives_the_full_plan(experiment: Experiment) -> None:
    for kind in ("none", "drop", "partial", "width", "kernels", "depth", "batch", "auto"):
        assert planner(experiment, policy={"kind": kind}).plan(3, 1, {}) == full_plan(config_of())


def test_drawn_rates_have_their_proportions_whatever_the_budget(experiment: Experiment) -> None:
    policy = {"kind": "width", "widths": [0.25, 1.0], "rates": "drawn", "proportions": [3.0, 1.0]}
    one = planner(experiment, policy=policy, budget={"macs": 1})
    plans = [[one.plan(client, round, {}) for client in range(CLIENTS)] for round in range(1, 101)]
    again = planner(experiment, policy=policy)
    assert plans[4] == [again.plan(client, 5, {}) for client in range(CLIENTS)]
    widths = [plan.share.width for row in plans for plan in row if not isinstance(plan, OverBudget)]
    assert len(widths) == 100 * CLIENTS
    assert widths.count(0.25) / len(widths) == pytest.approx(0.75, abs=0.05)
    assert len({tuple(plan.share.width for plan in row) for row in plans}) > 50  # type: ignore[union-attr]


def test_a_larger_budget_never_gives_less(experiment: Experiment) -> None:
    shares = []
    for fraction in (0.01, 0.05, 0.2, 0.5, 1.0):
        made = planner(experiment, budget={"bytes_fraction": fraction}, policy={"kind": "auto"})
        plan = made.plan(0, 1, {})
        assert not isinstance(plan, OverBudget)
        shares.append(made.experiment.network.part(plan.share).layout.elements)
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_auto_takes_the_best_of_all_plans(experiment: Experiment) -> None:
    """Against brute force over every share and every number of steps."""
    made = planner(experiment, budget={"macs_fraction": 0.3}, policy={"kind": "auto"})
    client, participant = 2, made.experiment.participant(2)
    examples = participant.examples
    limit = made.experiment.config.budget.macs_fraction
    full = demand(made.experiment, made.full, participant).macs
    whole = made.experiment.network.cost.state_elements
    best = 0.0
    for plan in made.candidates(1, ()):
        if plan.batch_size != made.full.batch_size:
            continue
        for steps in range(1, work_of(made.experiment, plan, examples).steps + 1):
            from dataclasses import replace

            tried = replace(plan, steps=steps)
            if demand(made.experiment, tried, participant).macs <= int(limit * full):
                held = made.experiment.network.part(plan.share).layout.elements / whole
                best = max(best, (held * work_of(made.experiment, tried, examples).samples / examples) ** 0.5)
    chosen = made.plan(client, 1, {})
    assert not isinstance(chosen, OverBudget)
    held = made.experiment.network.part(chosen.share).layout.elements / whole
    seen = work_of(made.experiment, chosen, examples).samples
    assert (held * seen / examples) ** 0.5 == pytest.approx(best)


@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "auto"},
        {"kind": "auto", "width_mode": "rolling", "kernel_mode": "rolling"},
        {"kind": "width", "width_mode": "ordered"},
        {"kind": "kernels", "kernel_mode": "usage"},
        {"kind": "depth"},
        {"kind": "partial"},
    ],
    ids=lambda p: "-".join(p.values()),
)
def test_a_run_keeps_its_budgets_by_what_was_measured(tmp_path: Path, policy: dict[str, str]) -> None:
    fraction = 0.6 if policy["kind"] in ("kernels", "depth") else 0.3
    key = "bytes_fraction" if policy["kind"] == "kernels" else "macs_fraction"
    directory = run(tmp_path / "run", policy=policy, budget={key: fraction}, diagnostics={"enabled": True})
    rows = client_rows(directory)
    assert any(row["status"] in ("completed", "partial") for row in rows)
    assert all(row["violations"] == 0 for row in directory.rounds())
    for row in rows:
        limits = Limits(**{k: v for k, v in row["budget"].items() if k != "violations"})
        assert row["macs"] <= row["macs_planned"]
        assert row["macs"] <= (limits.macs or row["macs"])
        assert row["uplink_bytes"] <= (limits.uplink_bytes or row["uplink_bytes"])
        assert "violations" not in row["budget"]


def test_without_a_policy_the_violations_are_counted(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", budget={"macs_fraction": 0.5}, server={"rounds": 1})
    assert directory.rounds()[-1]["violations"] == 6
    assert all(row["budget"]["violations"] == ["macs"] for row in client_rows(directory))


def test_clients_over_budget_are_left_out_at_no_cost(tmp_path: Path) -> None:
    once = {"server": {"rounds": 1}}
    demands = [row["macs"] for row in client_rows(run(tmp_path / "free", **once))]
    limit = int(median(demands))
    directory = run(tmp_path / "run", policy={"kind": "drop"}, budget={"macs": limit}, **once)
    dropped = [row for row in client_rows(directory) if row["status"] == "dropped"]
    assert dropped
    for row in dropped:
        assert row["macs_planned"] > limit
        assert (row["macs"], row["downlink_bytes"], row["uplink_bytes"]) == (0, 0, 0)
        assert "over budget: macs" in row["reason"]


class Wide(InlineExecutor):
    """One client an order."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.workers = 6


@pytest.mark.parametrize("mode", ["static", "rolling", "ordered"])
def test_packing_changes_no_bit_with_parts_either(tmp_path: Path, mode: str) -> None:
    changes = {
        "policy": {"kind": "auto", "width_mode": mode},
        "budget": {"macs_fraction": 0.2},
        "compression": {"uplink": "int8"},
        "server": {"rounds": 3, "weighting": "uniform"},
    }
    one = run(tmp_path / "one", **changes)
    other = start_run(config_of(**changes), tmp_path / "other")
    execute(other, Wide)
    model = "model.safetensors"
    assert (one.path / model).read_bytes() == (other.path / model).read_bytes()


def test_whole_shares_of_width_one_are_plain_averaging(tmp_path: Path) -> None:
    plain = load_file(run(tmp_path / "plain").path / "model.safetensors")
    policy = {"kind": "width", "classifier_rows": "holders"}
    widths = run(tmp_path / "widths", policy=policy, budget={"macs_fraction": 1.0})
    held = load_file(widths.path / "model.safetensors")
    assert {n: t.numpy().tobytes() for n, t in plain.items()} == {
        n: t.numpy().tobytes() for n, t in held.items()
    }


def test_fednova_of_equal_work_is_plain_averaging(tmp_path: Path) -> None:
    """Equal steps: dividing each update by its steps and multiplying the mean by them changes nothing."""
    same = {"partition": {"scheme": "sampled", "samples_per_client": 20}, "server": {"rounds": 1}}
    plain = load_file(run(tmp_path / "plain", **same).path / "model.safetensors")
    same["server"] = {"rounds": 1, "normalisation": "fednova"}
    nova = load_file(run(tmp_path / "nova", **same).path / "model.safetensors")
    for name, tensor in plain.items():
        assert (tensor - nova[name]).abs().max() < 1e-6


@pytest.mark.parametrize("uplink", ["float16", "int8", "topk"])
def test_compressed_updates_cost_what_they_weigh_and_are_remembered(tmp_path: Path, uplink: str) -> None:
    changes = {"compression": {"uplink": uplink}, "server": {"rounds": 3}}
    directory = run(tmp_path / "run", **changes)
    for row in client_rows(directory):
        assert row["uplink_bytes"] < 0.6 * row["downlink_bytes"]
    stored = load_file(next(directory.state_folder.iterdir()))
    assert bool(stored["residual"].any())


def test_kernel_sets() -> None:
    assert kernel_set("prefix", 2, 4, 7, ()) == (0, 1)
    assert kernel_set("prefix", 4, 4, 7, ()) == ()
    assert [kernel_set("rolling", 2, 4, round, ()) for round in (1, 2, 4)] == [(0, 1), (1, 2), (0, 3)]
    assert kernel_set("usage", 2, 4, 1, [0.1, 0.4, 0.2, 0.3]) == (1, 3)
    assert kernel_set("usage", 2, 4, 1, ()) == (0, 1)


def test_usage_of_kernels_held_shares_what_they_had() -> None:
    once = usage_after((), (), [0.7, 0.1, 0.1, 0.1], 4)
    assert once == pytest.approx([0.7, 0.1, 0.1, 0.1])
    again = usage_after(once, (0, 1), [0.25, 0.75], 4)
    assert again == pytest.approx([0.2, 0.6, 0.1, 0.1])
    assert sum(again) == pytest.approx(1)


@pytest.mark.parametrize("control", ["static-equal-macs", "static-equal-parameters"])
@pytest.mark.parametrize(
    ("name", "width", "conv", "kernels"),
    [("resnet8", 2.0, "fmdconv", 1), ("resnet8", 2.0, "odconv", 8), ("resnet20", 2.0, "dyconv", 3),
     ("resnet18", 0.5, "condconv", 1), ("preresnet12", 0.5, "fmdconv", 4), ("resnet18", 0.5, "fmdconv", 2)],
)  # fmt: skip
def test_a_static_control_costs_what_the_dynamic_network_does(
    control: str, name: str, width: float, conv: str, kernels: int
) -> None:
    """The narrowest stage of these has 32 channels."""
    model = {"name": name, "width": width, "conv": conv, "kernels": kernels, "exits": False}
    config = config_of(control=control, model=model)
    match = control_match(config, input_shape=(3, 32, 32), num_classes=10)
    turned = with_control(config, input_shape=(3, 32, 32), num_classes=10)

    def figure(of: ExperimentConfig) -> int:
        cost = model_cost(network(of.model, num_classes=10), (3, 32, 32))
        return cost.forward_macs if control == "static-equal-macs" else cost.parameters

    assert match is not None
    assert (match.static, match.dynamic) == (figure(turned), figure(config))
    assert match.ratio == pytest.approx(1.0, abs=0.02)
    assert "Warning" not in match.remark


def test_a_control_that_is_not_equal_says_so() -> None:
    match = matched("MACs", dynamic=100, static=103)
    assert match.ratio == 1.03
    assert match.remark == "Static over dynamic MACs: 1.030. Warning: they differ by more than 2%."
    assert control_match(config_of(), input_shape=(3, 32, 32), num_classes=10) is None


@pytest.mark.parametrize(
    ("control", "kind"), [("exclude-weak", "drop"), ("smallest", "smallest"), ("full", "none")]
)
def test_a_control_is_one_switch(tmp_path: Path, control: str, kind: str) -> None:
    directory = start_run(
        config_of(control=control, policy={"kind": "auto"}, budget={"macs_fraction": 0.5}), tmp_path / "run"
    )
    assert directory.config.policy.kind == kind
    assert directory.config.control == control
    assert "control" in dump_config(directory.config)


def test_a_static_network_has_no_static_control(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="static already"):
        start_run(config_of(control="static-equal-macs", model={"conv": "static"}), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": {"kind": "kernels"}, "model": {"conv": "static"}}, "model.conv = 'condconv' or"),
        ({"policy": {"kind": "depth"}, "model": {"exits": False}}, "model.exits"),
        ({"policy": {"kind": "width", "width_mode": "ordered"}, "model": {"norm": "fixbn"}}, "model.norm"),
        (
            {"policy": {"kind": "width", "rates": "drawn", "proportions": [1.0]}},
            "policy.proportions = .* needs one for each of policy.widths",
        ),
        ({"budget": {"joules": 3.0}}, "budget.joules = 3.0: needs devices.kind"),
        ({"selection": {"kind": "oort"}}, "selection.kind = 'oort': needs devices.kind"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config_of(**changes)


def test_the_weight_of_a_stale_update_falls_with_the_root_of_its_staleness() -> None:
    buffered = config_of(server={"mode": "buffered"}, devices=DEVICES)
    assert Algorithms(config_of()).weight(10) == 10
    unit = Algorithms(buffered).weight(1)
    for staleness in range(60):
        assert Algorithms(buffered).weight(10, staleness) / unit == 10 * (1 / math.sqrt(1 + staleness))
        assert Algorithms(buffered).weight(1, staleness) == Fraction(1 / math.sqrt(1 + staleness)) * unit
    assert Share.from_key(Share(0.5).key) == Share(0.5)


@pytest.mark.parametrize(
    ("needed", "away", "closed", "text"),
    [
        (0.0123, 0.0, 0.0121, "late: needs 0.0123 s, the round closed after 0.0121 s"),
        (0.91234567, 0.0, 0.9123456, "late: needs 0.9123457 s, the round closed after 0.9123456 s"),
        (12345.6, 0.0, 60.0, "late: needs 12,346 s, the round closed after 60 s"),
        (2.0, 300.25, 100.0, "late: needs 2 s and was away for 300 s, the round closed after 100 s"),
        (0.5, 0.0, 0.5, "late: needs 0.5 s, and the cohort was complete by then"),
    ],
)
def test_a_late_client_is_told_in_digits_that_differ(
    needed: float, away: float, closed: float, text: str
) -> None:
    assert late_reason(needed, away, closed) == text
