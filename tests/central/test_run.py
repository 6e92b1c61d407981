"""Whole runs: killed and resumed, on two processes, through the command line, with bad input."""

import json
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import run_command, start_command, tiny_config, untimed_epochs, write_config

import fedfmd
from fedfmd.building import training_cut_off
from fedfmd.central import World, open_training, start_training, train
from fedfmd.costs.scores import Chance, inverse_efficiency, rate_correct
from fedfmd.errors import RunError, UserError
from fedfmd.pages.report import write_report
from fedfmd.pages.training import load_training


def ignore(*_: object) -> None:
    pass


def wait_for_epochs(path: Path, count: int) -> bool:
    ledger, end = path / "epochs.jsonl", time.monotonic() + 120
    while time.monotonic() < end:
        if ledger.exists() and ledger.read_bytes().count(b"\n") >= count:
            return True
        time.sleep(0.02)
    return False


def test_a_run_leaves_its_epochs_its_model_and_a_summary_that_follows_from_them(tmp_path: Path) -> None:
    directory = start_training(tiny_config(train={"evaluate_every": 2}), tmp_path / "run", World())
    seen: list[dict] = []
    summary = train(directory, World(), ignore, seen.append)
    rows = directory.epochs()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["top1"] is None for row in rows] == [True, False, False]
    assert rows == seen
    assert summary == directory.summary()
    seconds = [row["train_seconds"] for row in rows]
    assert summary["ies_total_seconds"] == pytest.approx(inverse_efficiency(sum(seconds), rows[-1]["top1"]))
    assert summary["ies_epoch_seconds"] == pytest.approx(summary["ies_total_seconds"] / 3)
    assert summary["rcs"] == rate_correct(rows[-1]["top1"], 30, summary["inference_seconds"])
    assert summary["macs"] == 3 * 3 * 48 * summary["forward_macs"]
    state = load_file(directory.path / "model.safetensors")
    assert sum(t.numel() for t in state.values()) == summary["parameters"]  # group norm has no buffers
    finished = load_training(directory.path)
    (directory.path / "summary.json").unlink()
    assert (
        load_training(directory.path).chance
        == finished.chance
        == Chance(num_classes=10, samples=30, largest_class_share=0.1)
    )


def test_killed_and_resumed_is_the_same_as_undisturbed(tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 30, "ema": 0.9, "tensorboard": True})
    path = write_config(tmp_path / "tiny.toml", config)
    process = start_command("train", path, "--out", tmp_path / "killed")
    assert wait_for_epochs(tmp_path / "killed", 2)
    process.kill()
    process.communicate()
    done = len(untimed_epochs(tmp_path / "killed"))
    assert 2 <= done < 30
    code, text = run_command("train", "--resume", tmp_path / "killed")
    assert code == 0, text
    assert f"epoch {done + 1}/30" in text or f"epoch {done}/30" in text
    directory = start_training(config, tmp_path / "whole", World())
    train(directory, World(), ignore, ignore)
    assert untimed_epochs(tmp_path / "killed") == untimed_epochs(tmp_path / "whole")
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("killed", "whole")]
    assert models[0] == models[1]
    with pytest.raises(UserError, match="this run is finished"):
        open_training(tmp_path / "killed")
    if find_spec("tensorboard"):
        assert list((tmp_path / "killed" / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue(tmp_path: Path) -> None:
    path = write_config(tmp_path / "tiny.toml", tiny_config(train={"epochs": 500}))
    process = start_command("train", path, "--out", tmp_path / "run")
    assert wait_for_epochs(tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=180)
    assert process.returncode == 130, text
    assert f"fedfmd train --resume {tmp_path / 'run'}" in text
    assert "Traceback" not in text


def test_a_training_that_diverges_stops_and_says_why(tmp_path: Path) -> None:
    config = tiny_config(train={"learning_rate": 1e30, "epochs": 5}, model={"conv": "static"})
    directory = start_training(config, tmp_path / "run", World())
    with pytest.raises(RunError, match=r"the loss is not finite; try a smaller train\.learning_rate"):
        train(directory, World(), ignore, ignore)
    assert (directory.summary() or {})["status"] == "stopped"


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 2})
    code, text = run_command(
        "train", write_config(tmp_path / "tiny.toml", config), "--out", tmp_path / "two", processes=2
    )
    assert code == 0, text
    assert text.count("epoch 2/2") == 1
    assert "DATASET" in text
    directory = start_training(config, tmp_path / "one", World())
    train(directory, World(), ignore, ignore)
    for two, one in zip(untimed_epochs(tmp_path / "two"), directory.epochs(), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)
        assert two["samples"] == one["samples"] == 48
    states = [load_file(tmp_path / run / "model.safetensors") for run in ("two", "one")]
    for name, tensor in states[1].items():
        torch.testing.assert_close(states[0][name], tensor, rtol=1e-3, atol=1e-4)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.toml"], ["none.toml", "no such config file"]),
        ([], ["--resume"]),
        (["tiny.toml", "--set", "train.epohs=3"], ["train.epohs", "did you mean epochs?"]),
        (["tiny.toml", "--set", "train.device=tpu"], ["train.device", "'tpu'", "'cuda'"]),
        (["tiny.toml", "--resume", "run"], ["--resume run", "give no CONFIG or --out with it"]),
        (["--resume", "nowhere"], ["nowhere", "no run directory"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list,
    words: list,
) -> None:
    from fedfmd.cli import app as cli

    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "tiny.toml", tiny_config())
    monkeypatch.setattr("sys.argv", ["fedfmd", "train", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_a_schedule_of_temperatures_that_training_cuts_off_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    every: str,
) -> None:
    """DyConv's stairs fall by 3 an epoch from 34; what is said at the start is what the last row has."""
    from fedfmd.cli import app as cli

    said = "The schedule of temperatures is cut off: the last epoch has 28, the schedule ends at"
    config = tiny_config(train={"temperature_every": every})
    monkeypatch.setattr(
        "sys.argv",
        [
            "fedfmd",
            "train",
            str(write_config(tmp_path / "tiny.toml", config)),
            "--out",
            str(tmp_path / "run"),
        ],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert f"note: {said}" in capsys.readouterr().err
    assert untimed_epochs(tmp_path / "run")[-1]["temperature_kernel"] == 28
    assert said in write_report([tmp_path / "run"]).read_text()
    ended = tiny_config(train={"temperature_every": every}, temperature={"anneal_fraction": 1.0})
    assert training_cut_off(ended, 3) == ""


def test_a_centralised_run_is_not_resumed_as_a_federated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from fedfmd.cli import app as cli

    start_training(tiny_config(), tmp_path / "run", World())
    monkeypatch.setattr("sys.argv", ["fedfmd", "simulate", "--resume", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "is a run of fedfmd train" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a run of fedfmd train"):
        fedfmd.resume(tmp_path / "run")


def test_a_federated_run_is_not_resumed_as_a_centralised_one(tmp_path: Path) -> None:
    write_config(tmp_path / "config.toml", tiny_config())
    with pytest.raises(UserError, match="no run of fedfmd train"):
        open_training(tmp_path)


def test_every_epoch_says_what_its_joules_are_from(tmp_path: Path) -> None:
    """30 W at the plug, 10 W of them at rest: 20 J per second of training; without a meter, the reason."""
    log, begin = tmp_path / "plug.csv", time.time()
    log.write_text("".join(["ts,watts\n", *(f"{begin + i / 200:.3f},30\n" for i in range(-100, 40_000))]))
    energy = {"meter": "plug", "plug": str(log), "idle_watts": 10.0}
    directory = start_training(
        tiny_config(train={"epochs": 2}, energy=energy), tmp_path / "measured", World()
    )
    train(directory, World(), ignore, ignore)
    measured, seconds = directory.epochs(), time.time() - begin
    for row in measured:
        assert 19.8 * row["train_seconds"] < row["train_joules"] < 20 * seconds
        assert row["joules_source"] == "measured: plug plug.csv, less the power at rest"
    directory = start_training(tiny_config(train={"epochs": 1}), tmp_path / "not", World())
    train(directory, World(), ignore, ignore)
    (row,) = directory.epochs()
    assert (row["train_joules"], row["joules_source"]) == (None, None)
    assert row["joules_reason"] == "energy.meter is 'none'"
