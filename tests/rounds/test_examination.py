"""What clients measure on their own images, held against a plain loop, and against training alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedfmd.config.experiment import changed
from fedfmd.costs.fairness import spread
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.nn import set_temperature
from fedfmd.nn.submodel import WHOLE
from fedfmd.nn.vector import bind
from fedfmd.planning.evaluation import evaluation_costs
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.records.rows import repeatable
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.examination import Examination
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.selection.history import Known
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult, Subject
from fedfmd.wire.plan import full_plan

ALL = ["global", "affordable", "finetuned", "local"]
TIERS = [{"name": "strong"}, {"name": "weak", "budget": {"macs_fraction": 0.6}}]
Rows = list[dict[str, Any]]


class Wide(InlineExecutor):
    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.workers = 4


class Forgetful(Wide):
    """Loses the first answer to every order."""

    def examine(
        self, orders: Sequence[ExaminationOrder], vector: Tensor
    ) -> Iterator[tuple[ExaminationOrder, ExaminationResult | None]]:
        for order, result in super().examine(orders, vector):
            yield order, result if order.resend else None


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def prepare(out: Path, **changes: dict[str, Any]) -> RunDirectory:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 160, "test_samples": 20},
        "partition": {"scheme": "iid", "clients": 8, "holdout": 0.25},
        "model": {"width": 0.25, "conv": "static", "stem": "imagenet"},
        "client": {"batch_size": 5, "learning_rate": 0.1},
        "server": {"rounds": 2, "cohort": 4},
        "evaluation": {"clients": "all", "models": ALL, "batch_size": 12},
        "devices": {"kind": "tiers", "tiers": TIERS},
        "policy": {"kind": "width", "widths": [1.0, 0.5]},
        "backend": {"kind": "inline", "threads": 1},
        "logging": {"tensorboard": False},
    }
    return start_run(changed({"name": "tiny", **document}, changes), out)


def run(out: Path, **changes: dict[str, Any]) -> RunDirectory:
    directory = prepare(out, **changes)
    execute(directory, InlineExecutor)
    return directory


def measured(directory: RunDirectory) -> Rows:
    return [repeatable(row) for row in directory.evaluations()]


def of(rows: Rows, model: str, round: int | None = None) -> dict[int, dict[str, Any]]:
    return {r["client"]: r for r in rows if r["model"] == model and round in (None, r["round"])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run(tmp_path_factory.mktemp("examination") / "run")


@torch.no_grad()
def by_hand(
    experiment: Experiment, state: Tensor, client: int, share: Any, round: int
) -> tuple[float, float]:
    """Cut a share out of the global state and run one client's images through it, one after another."""
    network = experiment.network.build_part(share)
    index = experiment.network.index(share)
    vector = bind(network)  # what algorithms send beside the model comes behind it
    vector.copy_((state if index is None else state[index])[: len(vector)])
    set_temperature(network, experiment.temperatures(round))
    network.eval()
    images, labels = experiment.tested_on(client)
    scores = torch.cat([network(experiment.augment.eval_batch(image[None])) for image in images])
    right = (scores.argmax(1) == labels).double().mean()
    return float(right), float(cross_entropy(scores.double(), labels))


def test_a_plain_loop_over_each_clients_holdout_agrees(whole: RunDirectory) -> None:
    experiment, checkpoint = open_experiment(whole), whole.load_checkpoint()
    assert checkpoint is not None
    rows, planner, state = measured(whole), Planner(experiment), checkpoint.state
    tiers = set()
    for client in range(8):
        plan = planner.plan(client, 2, {})
        assert not isinstance(plan, OverBudget)
        for model, share in (("global", WHOLE), ("affordable", plan.share)):
            row = of(rows, model, 2)[client]
            top1, loss = by_hand(experiment, state, client, share, 2)
            assert (row["top1"], row["examples"], row["tier"]) == (
                top1,
                5,
                experiment.participant(client).device.name,
            )  # type: ignore[union-attr]
            assert row["loss"] == pytest.approx(loss, rel=1e-5)
            assert row["label_count"] == len(
                torch.cat([experiment.trained_on(client)[1], experiment.tested_on(client)[1]]).unique()
            )
            tiers.add((row["tier"], model, share.width))
    assert {("weak", "affordable", 0.5), ("strong", "affordable", 1.0), ("weak", "global", 1.0)} <= tiers


def test_the_rounds_columns_are_the_spread_of_the_rows_and_costs_add_up(whole: RunDirectory) -> None:
    rows = measured(whole)
    for line in whole.rounds()[1:]:
        own = [row for row in rows if row["round"] == line["round"]]
        for model in ALL:
            found = spread([row["top1"] for row in own if row["model"] == model])
            assert [line[f"client_top1_{model}_{n}"] for n in ("mean", "std", "worst10", "jain")] == [
                found.mean, found.std, found.worst10, found.jain
            ]  # fmt: skip
        for cost in ("macs", "downlink_bytes", "uplink_bytes"):
            assert line[f"evaluation_{cost}"] == sum(row[cost] for row in own)
        assert line["evaluation_device_seconds"] == pytest.approx(sum(row["device_seconds"] for row in own))
        assert line["client_top1"] is None
    last = [of(rows, model, 2) for model in ("affordable", "local")]
    gains = [last[0][client]["top1"] - row["top1"] for client, row in last[1].items()]
    assert whole.rounds()[2]["client_gain_mean"] == pytest.approx(sum(gains) / len(gains))
    assert whole.rounds()[1]["client_gain_mean"] is None  # nobody trains alone before the last evaluation


def test_what_is_billed_is_what_was_done(whole: RunDirectory) -> None:
    """Forward passes over five images; a strong client's part is the model it has measured already."""
    experiment, rows = open_experiment(whole), measured(whole)
    steps = dict.fromkeys(range(8), 0)
    for row in whole.clients():
        steps[row["client"]] += row["macs"]
    for client in range(8):
        cost = experiment.network.cost
        row = of(rows, "global", 2)[client]
        sent = 4 * experiment.received_elements(WHOLE)
        assert (row["macs"], row["downlink_bytes"]) == (5 * cost.forward_macs, sent)
        weak = row["tier"] == "weak"
        part = Planner(experiment).plan(client, 2, {})
        assert not isinstance(part, OverBudget)
        own = experiment.network.part(part.share)
        forward = 5 * own.cost.forward_macs
        affordable = of(rows, "affordable", 2)[client]
        assert affordable["macs"] == (forward if weak else 0)
        assert affordable["downlink_bytes"] == (4 * experiment.received_elements(part.share) if weak else 0)
        if client in of(rows, "local", 2):
            assert of(rows, "finetuned", 2)[client]["macs"] == forward + 3 * 15 * own.cost.forward_macs
            assert of(rows, "local", 2)[client]["macs"] == forward + steps[client]
            assert of(rows, "local", 2)[client]["downlink_bytes"] == 0
    assert {row["uplink_bytes"] for row in rows} == {32}


def test_measuring_calls_layers_once_a_batch_and_tuning_once_a_step(tmp_path: Path) -> None:
    """15 images make 3 batches of 7, 5 to measure on 2 of 3; a forward pass is a third of a step."""

    def seconds(name: str, layer_seconds: float) -> dict[str, float]:
        tiers = [{"name": "slow", "layer_seconds": layer_seconds}]
        directory = prepare(
            tmp_path / name,
            client={"batch_size": 7},
            evaluation={"batch_size": 3, "models": ["global", "finetuned"], "finetune_epochs": 2},
            devices={"tiers": tiers},
        )
        made = open_experiment(directory)
        assert (made.partition.size(0), made.tested_size(0)) == (15, 5)
        asked = Subject(client=0, models=("global", "finetuned"), plan=full_plan(made.config))
        costs = evaluation_costs(made, asked, asked.models)
        return {model: cost.evaluation_device_seconds or 0.0 for model, cost in costs.items()}

    slow, fast = seconds("slow", 0.5), seconds("fast", 0.0)
    layers = len(open_experiment(RunDirectory.open(tmp_path / "slow")).network.part(WHOLE).cost.layers)
    assert slow["global"] - fast["global"] == pytest.approx(0.5 * layers * 2 / 3)
    assert slow["finetuned"] - fast["finetuned"] == pytest.approx(0.5 * layers * (2 / 3 + 2 * 3))


def test_clients_that_were_never_asked_have_no_model_of_their_own(whole: RunDirectory) -> None:
    rows = measured(whole)
    for round in (1, 2):
        asked = {row["client"] for row in whole.clients() if row["round"] <= round}
        assert of(rows, "finetuned", round).keys() == asked
        assert of(rows, "global", round).keys() == set(range(8))
    assert of(rows, "local").keys() == asked
    assert {row["round"] for row in rows if row["model"] == "local"} == {2}


@pytest.mark.parametrize("executor", [Wide, Forgetful])
def test_neither_workers_nor_lost_answers_change_a_row(
    whole: RunDirectory, tmp_path: Path, executor: type[InlineExecutor]
) -> None:
    other = prepare(tmp_path / "other")
    execute(other, executor)
    assert measured(other) == measured(whole)
    assert repeatable(other.rounds()[2]) == repeatable(whole.rounds()[2])


def test_a_resumed_run_measures_the_same(whole: RunDirectory, tmp_path: Path) -> None:
    torn = prepare(tmp_path / "torn")

    def interrupt(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise RunError("stopped by the test")

    with pytest.raises(RunError):
        execute(torn, InlineExecutor, interrupt)
    with (torn.path / "evaluations.jsonl").open("a") as ledger:
        ledger.write('{"round": 2, "cli')
    execute(torn, Wide)
    assert measured(torn) == measured(whole)


def test_measuring_does_not_change_the_model(whole: RunDirectory, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", evaluation={"clients": 0})
    assert measured(plain) == []
    assert (plain.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


ALONE: dict[str, dict[str, Any]] = {
    "all of the work": {"policy": {"kind": "none"}},
    "partial work of a tier": {
        "policy": {"kind": "partial"},
        "devices": {"kind": "tiers", "tiers": [{"name": "weak", "budget": {"macs_fraction": 0.5}}]},
    },
    "a part of the network": {
        "policy": {"kind": "width", "widths": [0.5]},
        "devices": {"kind": "tiers", "tiers": [{"name": "any"}]},
    },
    "batch norm": {"policy": {"kind": "none"}, "model": {"norm": "bn"}},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_federation_of_one_client_is_training_alone(tmp_path: Path, name: str) -> None:
    """Its server's model after each round is the client's: `affordable` and `local` are one network."""
    one: dict[str, Any] = {
        "data": {"train_samples": 40, "test_samples": 10},
        "partition": {"clients": 1},
        "server": {"cohort": 1, "rounds": 3},
        "client": {"learning_rate_decay": 0.7, "batch_size": 10},
        "evaluation": {"models": ["affordable", "local"], "local_at": "every"},
    }
    for section, values in ALONE[name].items():
        one[section] = one.get(section, {}) | values
    rows = measured(run(tmp_path / "run", **one))
    for round in (1, 2, 3):
        alone, together = of(rows, "local", round)[0], of(rows, "affordable", round)[0]
        assert alone["loss"] == pytest.approx(together["loss"], rel=1e-4)
        assert alone["top1"] == together["top1"]
    losses = [of(rows, "local", round)[0]["loss"] for round in (1, 2, 3)]
    assert len(set(losses)) == 3


def test_work_that_was_dropped_counts_for_the_model_alone(tmp_path: Path) -> None:
    """Late clients have trained for nothing, and have the steps that they did until the round closed."""
    late: dict[str, Any] = {
        "selection": {"deadline_seconds": 0.5},
        "policy": {"kind": "none"},
        "server": {"rounds": 1, "min_completed": 1, "max_retries": 0, "cohort": 8},
        "evaluation": {"models": ["local"]},
    }
    slow = {"name": "slow", "conv_macs_per_second": 1e7, "downlink_bits_per_second": 1e12}
    devices = {"kind": "tiers", "tiers": [{"name": "fast"}, slow]}
    directory = run(tmp_path / "run", **late, devices=devices)
    dropped = {r["client"]: r for r in directory.clients() if r["status"] == "dropped"}
    assert dropped
    assert all(0 < row["steps"] < 3 for row in dropped.values())
    alone = of(measured(directory), "local")
    cost = open_experiment(directory).network.cost.forward_macs
    for client, row in dropped.items():
        assert alone[client]["macs"] == 5 * cost + 3 * 5 * row["steps"] * cost


def test_who_can_afford_nothing_has_no_affordable_model(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", policy={"kind": "drop"})
    rows = measured(directory)
    weak = {c for c, row in of(rows, "global", 2).items() if row["tier"] == "weak"}
    assert weak
    for model in ("affordable", "finetuned", "local"):
        assert not weak & of(rows, model, 2).keys()


def test_fedbns_scores_are_those_of_the_clients(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run", model={"norm": "fedbn"}, policy={"kind": "none"}, evaluation={"models": ["global"]}
    )
    line = directory.rounds()[2]
    mean = line["client_top1_global_mean"]
    assert (line["top1"], line["scored_on"]) == (None, "clients")
    assert line["ies"]["macs"] == pytest.approx(line["cumulative"]["macs"] / mean)
    assert line["rcs"]["macs"] == pytest.approx(40 * mean / line["cumulative"]["macs"])
    summary = directory.summary() or {}
    assert summary["scored_on"] == "clients"
    assert summary["clients"]["client_top1_global_mean"] == mean
    experiment, checkpoint = open_experiment(directory), directory.load_checkpoint()
    assert checkpoint is not None
    for client, row in of(measured(directory), "global", 2).items():
        state = checkpoint.state.clone()
        if kept := experiment.store.load(client, checkpoint.state_rounds.get(client, 0)):
            state[experiment.algorithms.local_places(experiment.network.build())] = kept["norms"]
        assert row["top1"] == by_hand(experiment, state, client, WHOLE, 2)[0]


def test_without_a_holdout_it_is_training_accuracy_and_says_so(tmp_path: Path) -> None:
    plain = {"partition": {"holdout": 0.0}, "evaluation": {"clients": 3}}
    document = json.loads(json.dumps(plain))
    directory = prepare(tmp_path / "run", **document, policy={"kind": "none"}, server={"rounds": 1})
    execute(directory, InlineExecutor)
    line = directory.rounds()[1]
    assert 0 <= line["client_top1"] <= 1
    assert line["client_top1_global_mean"] is None
    assert measured(directory) == []


class Partly(Experiment):
    """Clients 4 to 7 have kept nothing for testing, as a real client may."""

    def tested_size(self, client: int) -> int:
        return super().tested_size(client) if client < 4 else 0

    def tested_on(self, client: int) -> tuple[Tensor, Tensor]:
        images, labels = super().tested_on(client)
        return images[: self.tested_size(client)], labels[: self.tested_size(client)]


def test_tiers_are_judged_by_clients_that_have_kept_something(tmp_path: Path) -> None:
    directory = prepare(
        tmp_path / "run",
        selection={"kind": "tifl", "tiers": 2, "adapt_every": 1},
        evaluation={"clients": 0},
        policy={"kind": "none"},
    )
    made = open_experiment(directory)
    experiment = Partly(made.config, made.dataset_file, made.partition_file, made.state_folder)
    knowledge = Knowledge()
    knowledge.history.clients = {client: Known(1, None, float(client), 15) for client in range(8)}
    examination = Examination(experiment, InlineExecutor(experiment), knowledge, Planner(experiment))
    cost = examination.adapt_selection(1, bind(experiment.network.build()))
    assert cost.evaluation_macs == 4 * 5 * experiment.network.cost.forward_macs
    fast, slow = knowledge.history.tiers.accuracies
    assert 0 <= fast <= 1
    assert slow == 0
