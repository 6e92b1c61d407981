"""The Python interface: a run from a mapping or a file, with its rows as data frames."""

import importlib
import io
import pkgutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fedfmd
from fedfmd import resume, simulate
from fedfmd.config.experiment import dump_config, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.pages.run.page import render_page
from fedfmd.results.runs import load_run
from fedfmd.results.summary import chance_level
from fedfmd.rounds.divergence import DivergenceWatch
from fedfmd.rounds.lifecycle import open_experiment
from fedfmd.terminal.summary import summary_table

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": {"train_samples": 120, "test_samples": 40},
    "partition": {"scheme": "sampled", "clients": 6, "samples_per_client": 10},
    "model": {"width": 0.25, "kernels": 2},
    "server": {"rounds": 2, "cohort": 3},
    "backend": {"kind": "inline", "threads": 1},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_run_is_a_function_with_frames(tmp_path: Path) -> None:
    heard: list[int] = []
    result = simulate(CONFIG, out=tmp_path / "run", on_round=lambda row: heard.append(row["round"]))
    assert heard == list(result.rounds.index) == [0, 1, 2]
    assert len(result.clients) == 6
    assert result.clients["macs"].sum() == result.rounds["cumulative.macs"].iloc[-1]
    assert result.summary["final_top1"] == result.rounds["top1"].iloc[-1]
    assert result.report().is_file()
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_file_with_overrides_gives_the_same_run(tmp_path: Path) -> None:
    one = simulate(CONFIG, out=tmp_path / "one")
    file = tmp_path / "tiny.toml"
    file.write_text(dump_config(parse_config(CONFIG | {"server": {"rounds": 7, "cohort": 3}})))
    other = simulate(file, overrides=["server.rounds=2"], out=tmp_path / "other")
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


def test_bad_input_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"server.rounds = 0"):
        simulate(CONFIG | {"server": {"rounds": 0}}, out=tmp_path / "run")
    file = tmp_path / "mine.toml"
    file.write_text("[algorithms.feddyn]\nalpha = 0.0\n")
    with pytest.raises(UserError, match=f"^{file}: algorithms.feddyn: alpha = 0.0: must be greater than 0"):
        simulate(file, overrides=["backend.kind=inline"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Halving:
    """A server optimiser of a user's own: half of the mean update, and a count of its steps."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}

    def step(self, weights: torch.Tensor, mean_update: torch.Tensor) -> torch.Tensor:
        self.state["steps"] = self.state.get("steps", torch.zeros(())) + 1
        return (weights.double() + mean_update / 2).float()


def test_a_run_with_an_optimiser_of_ones_own_goes_on_with_it_alone(tmp_path: Path) -> None:
    whole = simulate(CONFIG, out=tmp_path / "whole", optimizer=Halving())

    def interrupt(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise RunError("stopped by the test")

    for name in ("torn", "plain"):
        own = Halving() if name == "torn" else None
        with pytest.raises(RunError):
            simulate(CONFIG, out=tmp_path / name, on_round=interrupt, optimizer=own)
    with pytest.raises(UserError, match=r"begun with the server optimiser Halving.*fedfmd.resume\("):
        resume(tmp_path / "torn")
    with pytest.raises(UserError, match=r"begun with server.strategy = 'fedavg', not Halving"):
        resume(tmp_path / "plain", optimizer=Halving())
    optimizer = Halving()
    resumed = resume(tmp_path / "torn", optimizer=optimizer)
    assert float(optimizer.state["steps"]) == 2
    model = "model.safetensors"
    assert (resumed.path / model).read_bytes() == (whole.path / model).read_bytes()
    assert (resume(tmp_path / "plain").path / model).read_bytes() != (whole.path / model).read_bytes()


def test_an_optimiser_of_ones_own_needs_this_process(tmp_path: Path) -> None:
    elsewhere = CONFIG | {"backend": {"kind": "ray"}}
    with pytest.raises(UserError, match=r"needs backend.kind = 'inline'"):
        simulate(elsewhere, out=tmp_path / "run", optimizer=Halving())
    assert not (tmp_path / "run").exists()


def test_a_training_loss_over_several_exits_is_no_divergence() -> None:
    """It sums over the exits, and is held against its own first value, not against the test loss."""
    watch = DivergenceWatch([{"round": 0, "test_loss": 2.3, "train_loss": None}])
    assert watch.hear({"round": 1, "test_loss": 2.2, "train_loss": 9.3}) is None
    assert watch.hear({"round": 2, "test_loss": 2.1, "train_loss": 9.0}) is None
    assert "the loss is 40, 4.3 times" in (
        watch.hear({"round": 3, "test_loss": 2.0, "train_loss": 40.0}) or ""
    )


def test_few_classes_to_begin_with_are_no_divergence() -> None:
    watch = DivergenceWatch([{"round": 0, "test_loss": 2.3, "train_loss": None}])
    assert watch.hear({"round": 1, "test_loss": 2.2, "train_loss": 0.1}) is None
    assert watch.hear({"round": 2, "test_loss": 2.1, "train_loss": 1.5}) is None


def test_a_run_that_diverges_says_so_once() -> None:
    losses = [(2.3, None), (2.1, 2.2), (None, 9.1), (9.3, 3.0), (float("1e9"), 8.0)]
    rows = [{"round": i, "test_loss": test, "train_loss": train} for i, (test, train) in enumerate(losses)]
    watch = DivergenceWatch(rows[:2])
    said = [watch.hear(row) for row in rows[2:]]
    assert said[0] is None
    assert "round 3: the loss is 9.3, 4.0 times the first one" in (said[1] or "")
    assert "lower server.learning_rate" in (said[1] or "")
    assert said[2] is None
    assert DivergenceWatch(rows).round == 3


def test_the_step_size_of_a_strategy_is_resolved_and_recorded(tmp_path: Path) -> None:
    server = CONFIG["server"] | {"strategy": "fedadam", "rounds": 3}
    result = simulate(CONFIG | {"server": server}, out=tmp_path / "run")
    assert result.directory.config.server.learning_rate == 0.01
    assert result.summary["diverged_round"] is None
    plain = parse_config(CONFIG | {"server": {}})
    assert (plain.server.learning_rate, plain.server.step_size) == (None, 1.0)


def test_fedbn_has_no_global_model_to_test(tmp_path: Path) -> None:
    local = CONFIG | {"model": CONFIG["model"] | {"norm": "fedbn"}, "evaluation": {"clients": 3}}
    result = simulate(local, out=tmp_path / "run")
    for row in result.directory.rounds():
        assert row["top1"] is row["top5"] is row["test_loss"] is None
        assert "fedbn" in row["top1_reason"]
        assert set(row["ies"].values()) == set(row["rcs"].values()) == {None}
    assert result.summary["final_top1"] is None
    assert "fedbn" in result.summary["top1_reason"]
    assert 0 <= result.summary["client_top1"] <= 1
    page = result.report().read_text()
    assert (
        "No accuracy on the test set: model.norm = &#x27;fedbn&#x27; keeps the norms on the clients" in page
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table(result.summary))
    assert "training top-1" in console.export_text()
    for classes, there in ((5, False), (6, True)):  # of five or fewer every answer is among the first five
        console.print(summary_table(result.summary | {"num_classes": classes}))
        assert ("final top-5" in console.export_text()) == there


def test_a_summary_says_what_always_answering_the_commonest_class_scores(tmp_path: Path) -> None:
    """Of 13 test images three classes have two: a guess at one of them is right in 2 of 13."""
    uneven = CONFIG | {"data": CONFIG["data"] | {"test_samples": 13}}
    result = simulate(uneven, out=tmp_path / "run")
    assert result.summary["largest_class_share"] == 2 / 13
    whole = load_run(result.path)
    assert chance_level([whole]) == 2 / 13
    (result.path / "summary.json").unlink()  # as while a run goes on, and after a kill
    going_on = load_run(result.path)
    assert (going_on.finished, chance_level([going_on])) == (False, 2 / 13)
    poor = replace(going_on, rounds=tuple(replace(row, top1=0.1) for row in going_on.rounds))
    assert "The top-1 so far is within noise of chance (15.38%, the commonest class)" in render_page([poor])
    assert "The final top-1" not in render_page([poor])


def test_batches_of_one_are_refused_where_the_attention_normalises_over_them(tmp_path: Path) -> None:
    paper = CONFIG | {"model": CONFIG["model"] | {"attention_norm": "bn", "norm": "bn"}}
    with pytest.raises(UserError, match=r"client.batch_size = 1.*needs 2"):
        simulate(paper | {"client": {"batch_size": 1}}, out=tmp_path / "one")
    single = {"scheme": "iid", "clients": 120}
    with pytest.raises(UserError, match="120 of 120 clients have one training image"):
        simulate(paper | {"partition": single}, out=tmp_path / "two")
    tails = paper | {"client": {"batch_size": 3}}  # ten samples: 3, 3 and 4
    result = simulate(tails, out=tmp_path / "tails")
    assert set(result.clients["status"]) == {"completed"}
    assert set(result.clients["steps"]) == {3}
    assert (result.clients["macs"] == result.clients["macs_planned"]).all()


def test_evaluation_on_clients_is_billed_in_columns_of_its_own(tmp_path: Path) -> None:
    devices = {"kind": "tiers", "tiers": [{"name": "a", "like": "phone-low"}]}
    measured = simulate(CONFIG | {"evaluation": {"clients": 4}, "devices": devices}, out=tmp_path / "run")
    plain = simulate(CONFIG | {"devices": devices}, out=tmp_path / "plain")
    cost = open_experiment(measured.directory).network.cost
    row, without = measured.rounds.loc[2], plain.rounds.loc[2]
    assert row["evaluation_macs"] == cost.forward_macs * 10 * 4
    assert row["evaluation_downlink_bytes"] == 4 * cost.state_elements * 4
    assert row["evaluation_uplink_bytes"] == 32 * 4
    assert row["evaluation_seconds"] > 0
    assert row["evaluation_device_seconds"] > 0
    assert measured.summary["cumulative"]["evaluation_macs"] == 2 * row["evaluation_macs"]
    for name in ("macs", "downlink_bytes", "uplink_bytes", "device_seconds", "energy_joules"):
        assert row[name] == without[name]
    assert without["evaluation_macs"] == without["evaluation_downlink_bytes"] == 0


@fedfmd.register("logger", "noted")
class Noted:
    """A logger of a user's own: a line a round, or an epoch."""

    def __init__(self, file: str):
        self.file = Path(file)

    def write(self, round: int, figures: dict[str, float]) -> None:
        self.file.write_text(f"{round}: {sorted(figures)}")

    def close(self) -> None:
        assert self.file.exists()


def test_an_optimizer_of_pytorch_forgets_between_clients(tmp_path: Path) -> None:
    """Heavy-ball SGD of torch.optim, and ours, which is the same arithmetic: the same bits."""
    plain = simulate(CONFIG | {"client": {"momentum": 0.5}}, out=tmp_path / "ours")
    named = {
        "client": {"momentum": 0.5, "optimizer": "torch.optim:SGD"},
        "options": {"optimizer": {"fused": True}},
    }
    theirs = simulate(CONFIG | named, out=tmp_path / "theirs")
    assert theirs.rounds["test_loss"].tolist() == plain.rounds["test_loss"].tolist()


PUBLIC = {"simulate", "study", "train", "profile", "report", "load_run", "load_model", "resume", "register"}


def test_no_module_takes_the_place_of_a_public_function() -> None:
    for module in pkgutil.walk_packages(fedfmd.__path__, "fedfmd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert set(dir(fedfmd)) >= PUBLIC
    for name in PUBLIC:
        function = getattr(fedfmd, name)
        assert callable(function)
        assert ">>> " in (function.__doc__ or "")


def test_the_package_is_there_before_torch_is() -> None:
    code = "import fedfmd, sys; assert set(sys.argv[1:]) <= set(dir(fedfmd)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *PUBLIC], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_run_is_loaded_reported_and_shown_in_a_notebook(tmp_path: Path) -> None:
    simulate(CONFIG, overrides=["server.rounds=1"], out=tmp_path / "run")
    loaded = fedfmd.load_run(tmp_path / "run")
    assert isinstance(loaded, fedfmd.Result)
    assert repr(loaded) == f"Result('{tmp_path / 'run'}', finished)"
    page = loaded._repr_html_()
    assert "<table>" in page
    assert "<svg" in page
    assert fedfmd.report(tmp_path / "run") == tmp_path / "run" / "report.html"
    with pytest.raises(UserError, match="nothing to continue"):
        resume(tmp_path / "run")
    longer = resume(tmp_path / "run", overrides={"server.rounds": 2})
    assert list(longer.rounds.index) == [0, 1, 2]


def test_central_training_and_profiles_are_functions(tmp_path: Path) -> None:
    recipe = {"epochs": 1, "batch_size": 20, "device": "cpu", "threads": 1}
    logged = {"logging": {"loggers": ["noted"]}, "options": {"logger": {"file": str(tmp_path / "noted")}}}
    result = fedfmd.train(CONFIG | logged | {"train": recipe}, out=tmp_path / "central")
    assert list(result.epochs.index) == [1]
    assert (tmp_path / "noted").read_text().startswith("1: ")
    assert "<svg" in result._repr_html_()
    assert repr(result) == f"TrainResult('{tmp_path / 'central'}', finished)"
    loaded = fedfmd.load_run(tmp_path / "central")
    assert isinstance(loaded, fedfmd.TrainResult)
    assert loaded.summary["parameters"] == fedfmd.profile(CONFIG)["parameters"].max()
