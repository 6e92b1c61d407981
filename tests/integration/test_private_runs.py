"""Private runs as wholes: what they promise, that they end in time, and that nothing changes their bits."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import assert_same_run

from fedfmd.aggregation import ExactSum
from fedfmd.algorithms import check_algorithms
from fedfmd.algorithms.dp_fedavg import DPFedAvg
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.deployment.experiment import DeployedExperiment, Roll, declared_partition
from fedfmd.deployment.run import start_deployed_run
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.vector import bind
from fedfmd.privacy.accountant import Releases, epsilon
from fedfmd.privacy.discrete_gaussian import seeded_words, system_words
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.forecast import forecast, opened
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.rounds.resumption import take_changes
from fedfmd.selection.cohort import Selector

CENTRAL: dict[str, Any] = {"dp": "central", "noise_multiplier": 1.0}


TINY: dict[str, dict[str, Any]] = {
    "data": {"train_samples": 200, "test_samples": 20},
    "partition": {"scheme": "sampled", "clients": 20, "samples_per_client": 10},
    "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
    "client": {"batch_size": 10},
    "server": {"rounds": 3, "cohort": 4, "weighting": "uniform"},
    "evaluation": {"every": 100},
    "privacy": CENTRAL,
    "backend": {"kind": "inline"},
}
"""Ten images a client, one step each, four clients of twenty a round."""


def private(**changes: dict[str, Any]) -> ExperimentConfig:
    """Return the tiny config with other values in some sections; null leaves a key out."""
    document = {
        name: {k: v for k, v in (TINY.get(name, {}) | changes.get(name, {})).items() if v is not None}
        for name in [*TINY, *(changes.keys() - TINY.keys())]
    }
    return parse_config(document)


class ThreeWorkers(InlineExecutor):
    """Sums of three groups of clients, which are then added up."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.workers = 3


def stop_after(last: int) -> Any:
    def listen(row: Json) -> None:
        if row["round"] == last:
            raise RunError("stopped by the test")

    return listen


def run(out: Path, executor: type[InlineExecutor] = InlineExecutor, **changes: Any) -> RunDirectory:
    directory = start_run(private(**changes), out)
    execute(directory, executor)
    return directory


def rounds(directory: RunDirectory) -> list[Json]:
    return [json.loads(line) for line in (directory.path / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"privacy": CENTRAL | {"clip_quantile": 0.5, "clip": 0.05}}, marks=pytest.mark.slow),
        {"selection": {"kind": "poisson"}, "server": {"strategy": "fedadam"}},
    ],
    ids=["adaptive", "poisson"],
)
def test_a_private_run_is_the_same_interrupted_and_on_other_workers(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", **changes)
    assert_same_run(whole, run(tmp_path / "three", ThreeWorkers, **changes))
    broken = start_run(private(**changes), tmp_path / "broken")
    with pytest.raises(RunError):
        execute(broken, InlineExecutor, stop_after(2))
    again = RunDirectory.open(tmp_path / "broken")
    execute(again, InlineExecutor)
    assert_same_run(whole, again)


def test_the_ledger_says_what_the_accountant_says(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", privacy=CENTRAL | {"delta": 0.01, "clip": 0.01})
    found = rounds(directory)
    assert found[0]["epsilon"] is None
    for row in found[1:]:
        one = Releases(1.0, 4, 20, "replace-one", row["round"])
        assert row["epsilon"] == epsilon([one], 0.01)
        assert (row["delta"], row["privacy_relation"], row["clip"]) == (0.01, "replace-one", 0.01)
        assert row["clipped"] == 1.0
    summary = json.loads((directory.path / "summary.json").read_text())
    assert summary["privacy"]["epsilon"] == found[-1]["epsilon"]
    assert summary["ended_early"] is None


def test_the_run_ends_before_the_budget_is_exceeded(tmp_path: Path) -> None:
    """As the plan says; the model of the last round is there, and more budget takes it on."""
    spent = [epsilon([Releases(1.0, 4, 20, "add-or-remove-one", n)], 0.01) for n in (2, 3)]
    budget = CENTRAL | {"delta": 0.01, "epsilon_budget": sum(spent) / 2}
    config = private(privacy=budget, selection={"kind": "poisson"})
    with opened(config) as experiment:
        planned = forecast(experiment, policies=False)
    assert planned.totals.rounds == 2
    directory = start_run(config, tmp_path / "run")
    summary = execute(directory, InlineExecutor)
    assert summary["rounds"] == 2
    assert summary["final_top1"] is not None
    assert summary["privacy"]["epsilon"] == spent[0]
    assert "after 2 of 3 rounds epsilon is" in summary["ended_early"]
    assert (directory.path / "model.safetensors").is_file()
    again = RunDirectory.open(directory.path)
    assert again.finished()
    take_changes(again, {"privacy.epsilon_budget": 2 * spent[1]}, accept=True)
    assert not again.finished()
    assert execute(again, InlineExecutor)["privacy"]["epsilon"] == pytest.approx(spent[1])
    with pytest.raises(UserError, match=r"privacy\.dp: its rounds so far stand on the old value"):
        take_changes(again, {"privacy.dp": "none"}, accept=True)


def test_clients_train_alone_for_the_last_round_that_the_budget_allows(tmp_path: Path) -> None:
    spent = [epsilon([Releases(1.0, 4, 20, "replace-one", n)], 0.01) for n in (2, 3)]
    directory = run(
        tmp_path / "run",
        privacy=CENTRAL | {"delta": 0.01, "epsilon_budget": sum(spent) / 2},
        partition={"holdout": 0.2},
        evaluation={"clients": "all", "models": ["global", "local"]},
    )
    rounds_alone = {row["round"] for row in directory.evaluations() if row["model"] == "local"}
    assert rounds_alone == {2}
    assert rounds(directory)[-1]["client_top1_local_mean"] is not None


@pytest.mark.parametrize(("noise", "taken"), [(1.0, r"\d"), (1e-200, "more than can be counted")])
def test_the_first_round_has_to_fit_the_budget(noise: float, taken: str, tmp_path: Path) -> None:
    config = private(privacy=CENTRAL | {"noise_multiplier": noise, "epsilon_budget": 0.1})
    with pytest.raises(UserError, match=rf"privacy\.epsilon_budget = 0\.1: the first round takes {taken}"):
        start_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_noise_than_can_be_drawn_is_refused(tmp_path: Path) -> None:
    asked = CENTRAL | {"noise_multiplier": 1000.0}
    start_run(private(privacy=asked), tmp_path / "fixed")
    with pytest.raises(UserError, match=r"privacy\.noise_multiplier = 1000: is more noise than can be drawn"):
        start_run(private(privacy=asked | {"clip_quantile": 0.5}), tmp_path / "run")


def test_a_clip_that_follows_wildly_stays_a_number(tmp_path: Path) -> None:
    config = private(privacy=CENTRAL | {"clip_quantile": 0.5, "clip_rate": 1e30})
    run = start_run(config, tmp_path / "run")
    execute(run, InlineExecutor)
    clips = [row["clip"] for row in run.rounds()[1:]]
    assert clips[0] == 1.0
    assert {round(math.log10(clip)) for clip in clips[1:]} <= {-29, 29}


def test_a_target_takes_the_place_of_the_noise() -> None:
    """It is for all rounds, and more rounds later leave the noise as it was."""
    unmultiplied = {"noise_multiplier": None, "epsilon": 5.0, "delta": 0.01}
    config = private(privacy=unmultiplied)
    promise = DPFedAvg(config).promise
    assert 4.9 < (promise.after(3) or 0) <= 5.0
    longer = private(privacy=unmultiplied, server={"rounds": 30, "horizon": 3})
    assert DPFedAvg(longer).promise.one == promise.one


def test_a_round_without_anybody_is_noise_alone(tmp_path: Path) -> None:
    """Poisson sampling draws nobody in some rounds: the model moves by noise over the planned cohort."""
    config = private(selection={"kind": "poisson"}, server={"cohort": 1})
    seed = next(s for s in range(200) if not Selector(config, seed=s).draw(1).chosen)
    config = config.model_copy(update={"seed": seed})
    directory = start_run(config, tmp_path / "run")
    with pytest.raises(RunError):
        execute(directory, InlineExecutor, stop_after(1))
    row = rounds(directory)[1]
    assert (row["cohort"], row["completed"], row["clipped"]) == (0, 0, None)
    assert row["epsilon"] is not None
    began = bind(open_experiment(directory).network.build())
    moved = Checkpoint.load(directory.checkpoints.last).state[:-1] - began
    assert float(moved.std()) == pytest.approx(1.0, rel=0.05)  # one clip over a cohort of one


def test_poisson_draws_each_client_by_itself() -> None:
    """The size of cohorts is binomial, and pairs are drawn together as often as chance has it."""
    config = private(selection={"kind": "poisson"})
    drawn = np.zeros((3000, 20))
    for number in range(len(drawn)):
        drawn[number, Selector(config).draw(number).chosen] = 1
    assert drawn.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / drawn.size))
    assert drawn.sum(1).var() == pytest.approx(20 * 0.16, rel=0.12)
    together = np.asarray(np.corrcoef(drawn.T))[np.triu_indices(20, 1)]
    assert np.abs(together).max() < 5 / np.sqrt(len(drawn))


def test_the_sum_is_over_the_planned_cohort_and_noise_has_its_size() -> None:
    config = private(privacy=CENTRAL | {"noise_multiplier": 2.0})
    algorithm = DPFedAvg(config)
    extra = torch.zeros(1)
    clip = algorithm.clip(extra)
    total = ExactSum.zero(50_001, clip.scale)
    for _ in range(3):  # of four
        total.add(torch.cat([torch.full((50_000,), 0.001), torch.tensor([0.5])]), 1)
    released = algorithm.released(total, extra, seeded_words(np.random.default_rng(0)))
    mean = released.mean()[:-1]
    assert released.weights == {"": 4}
    assert float(mean.mean()) == pytest.approx(0.003 / 4, abs=4 * 0.5 / np.sqrt(50_000))
    assert float(mean.std()) == pytest.approx(2.0 / 4, rel=0.02)
    assert float(released.mean()[-1]) == 1.5 / 4  # the count of a fixed clip is not released
    assert algorithm.spent == [Releases(2.0, 4, 20, "replace-one", 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"server": {"weighting": "examples"}},
            "needs server.weighting = 'uniform', so that the clip",
        ),
        ({"server": {"aggregation": "median"}}, "needs server.aggregation = 'mean'"),
        ({"server": {"normalisation": "fednova"}}, "needs server.normalisation = 'none'"),
        ({"server": {"min_completed": 2}}, "server.min_completed = 2: counts only with privacy.dp = 'none'"),
        ({"client": {"scaffold": True, "momentum": 0.0}}, "needs client.scaffold = false"),
        (
            {"compression": {"uplink": "int8"}},
            "needs compression.uplink = 'none', which could take",
        ),
        ({"model": {"norm": "bn"}}, "needs a model.norm that keeps nothing of the images, 'gn' or 'ln'"),
        ({"model": {"norm": "fedbn"}}, "needs a model.norm that keeps nothing of the images"),
        (
            {"devices": {"kind": "lognormal"}, "selection": {"kind": "oort"}},
            "needs selection.kind = 'uniform' or 'poisson'",
        ),
        (
            {"devices": {"kind": "lognormal"}, "selection": {"over_selection": 1.5}},
            "needs selection.over_selection = 1.0, as who is first",
        ),
        (
            {"devices": {"kind": "lognormal"}, "selection": {"deadline_seconds": 5.0}},
            "needs no selection.deadline_seconds",
        ),
        (
            {"devices": {"kind": "lognormal"}, "policy": {"kind": "width"}, "budget": {"macs_fraction": 0.5}},
            "needs clients that hold the whole model",
        ),
        (
            {"privacy": {"noise_multiplier": None}},
            "needs privacy.noise_multiplier or privacy.epsilon",
        ),
        (
            {"privacy": {"epsilon": 1.0}},
            "privacy.noise_multiplier = 1.0: counts only with no privacy.epsilon",
        ),
        ({"privacy": {"delta": 0.1}}, "privacy.delta = 0.1: needs less than 1 / partition.clients"),
        ({"privacy": {"noise_multiplier": 0.0, "epsilon_budget": 1.0}}, "needs privacy.noise_multiplier > 0"),
        ({"privacy": {"dp": "none"}}, "counts only with privacy.dp = 'central'"),
        (
            {"algorithms": {"feddyn": {}}},
            "algorithms.feddyn: its clients send, or its server makes",
        ),
    ],
)
def test_what_the_promise_does_not_cover_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_algorithms(private(**changes))
    assert message in str(caught.value)


def test_all_that_the_promise_does_not_cover_is_told_at_once() -> None:
    changes: dict[str, Any] = {
        "server": {"weighting": "examples", "aggregation": "median", "normalisation": "fednova"},
        "compression": {"uplink": "int8"},
        "model": {"norm": "bn"},
        "privacy": {"noise_multiplier": None},
    }
    with pytest.raises(UserError) as caught:
        private(**changes)
    lines = str(caught.value).splitlines()
    for key in ("privacy.noise_multiplier", "server.weighting", "server.aggregation", "server.normalisation",
                "compression.uplink", "model.norm"):  # fmt: skip
        assert sum("privacy.dp = 'central': needs" in line and key in line for line in lines) == 1, key
    beyond = private(privacy=CENTRAL | {"epsilon_budget": 0.1}, algorithms={"feddyn": {}})
    with pytest.raises(UserError) as caught:
        check_algorithms(beyond)
    told = str(caught.value)
    assert "privacy.epsilon_budget = 0.1: the first round takes" in told
    assert "algorithms.feddyn: " in told


def test_a_real_deployment_draws_noise_and_cohorts_that_nobody_can_draw_again(tmp_path: Path) -> None:
    config = private()
    here, roll = (config, tmp_path, tmp_path, tmp_path), Roll(declared_partition(20, {}))
    real = [DeployedExperiment(*here, roll=roll) for _ in range(2)]
    sides = [Experiment(*here), *real]
    assert sides[0].cohort_seed == config.seed
    assert len({side.cohort_seed for side in sides}) == 3
    assert np.array_equal(sides[0].noise_words(3)(8), sides[0].noise_words(3)(8))
    assert sides[1].noise_words(3) is system_words
    early = private(server={"checkpoint_every": 2}, evaluation={"clients": 2})
    with pytest.raises(UserError) as caught:
        start_deployed_run(early, tmp_path / "x", tmp_path, Roll(declared_partition(2, {})))
    every, clients = str(caught.value).splitlines()
    assert every.startswith("server.checkpoint_every = 2: privacy.dp needs 1")
    assert clients.startswith("evaluation.clients")
