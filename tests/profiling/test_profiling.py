"""The profile: published totals, closed forms, what is measured, and bad input."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfmd.cli import app as cli
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.model import ModelConfig
from fedfmd.profiling import Profile, Task, analyse, grid, measure, read_models
from fedfmd.profiling.variants import baseline, label, task_of, with_baselines

TINY = ModelConfig(name="resnet8", width=0.25, kernels=2)
SMALL_TASK = Task(input_shape=(3, 16, 16))


def profile_json(path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict:
    monkeypatch.setattr("sys.argv", ["fedfmd", "profile", *arguments, "--out", str(path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    return json.loads(path.read_text())


# SCIENCE: millions of parameters and of forward MACs, K = 4, 32 pixels, 10 classes.
TOTALS = {
    "resnet18 static": ("11.17", "555.4"),
    "resnet18 condconv K=4": ("44.14", "599.4"),
    "resnet18 dyconv K=4": ("44.44", "599.7"),
    "resnet18 odconv K=4": ("44.39", "644.6"),
    "resnet18 fmdconv K=4": ("44.69", "601.0"),
}


def test_the_command_counts_the_published_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convs = [part for conv in ("condconv", "dyconv", "odconv", "fmdconv") for part in ("--conv", conv)]
    document = profile_json(tmp_path / "p.json", monkeypatch, *convs, "--no-measure", "--batch", "8")
    rows = {row["label"]: row for row in document["models"]}
    found = {
        name: (f"{row['parameters'] / 1e6:.2f}", f"{row['forward_macs'] / 1e6:.1f}")
        for name, row in rows.items()
    }
    assert found == TOTALS
    static = rows["resnet18 static"]["parameters"]
    for row in rows.values():
        assert sum(row["forward_macs_by_kind"].values()) == row["forward_macs"]
        assert row["ratio_to_static"]["parameters"] == row["parameters"] / static
        assert row["batches"][0]["train_step_seconds"] is None
    assert rows["resnet18 fmdconv K=4"]["uplink_bytes"] == pytest.approx(178.8e6, rel=1e-3)


def test_device_seconds_are_predicted_for_every_profile() -> None:
    """A device of 100 GMAC/s and more is faster than a phone; the exchange does not know the batch."""
    profile = analyse([TINY], SMALL_TASK, [8], device="cpu").models[1]
    one, two = profile.device_seconds(8), profile.device_seconds(16)
    assert one["server"][0] < one["phone-low"][0]
    for name in one:
        assert two[name][0] == pytest.approx(2 * one[name][0])
        assert two[name][1] == one[name][1]


def test_imagenet_sizes_take_imagenets_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--conv", "fmdconv", "--image-size", "224", "--classes", "1000", "--no-measure")
    row = profile_json(tmp_path / "p.json", monkeypatch, *arguments)["models"][1]
    assert f"{row['parameters'] / 1e6:.2f} {row['forward_macs'] / 1e6:.0f}" == "45.20 1862"


def test_memory_grows_by_the_same_for_every_picture() -> None:
    (batches,) = (p.batches for p in analyse([TINY], SMALL_TASK, [1, 2, 11], device="cpu").models[1:])
    one, two, eleven = (batch.estimated_training_bytes for batch in batches)
    assert eleven - one == pytest.approx(10 * (two - one), abs=10)
    assert two > one


def test_fedbn_sends_less_than_the_model_holds() -> None:
    local, whole = (TINY.model_copy(update={"norm": norm}) for norm in ("fedbn", "bn"))
    models = analyse([local, whole], SMALL_TASK, [1], device="cpu").models
    payload = {p.model.norm: p.payload_bytes for p in models if p.model.conv == "fmdconv"}
    assert payload["fedbn"] < payload["bn"]


def test_measured_figures_are_there_and_plausible() -> None:
    analytic = analyse([TINY], SMALL_TASK, [2, 32], device="cpu")
    threads = torch.get_num_threads()
    profile = measure(analytic, repeats=2, threads=1, tell=lambda _: None)
    torch.set_num_threads(threads)
    assert (profile.repeats, profile.threads) == (2, 1)
    for model in profile.models:
        small, large = model.batches
        assert small.measured_training_bytes is not None
        assert large.measured_training_bytes is not None
        assert 0 < small.measured_training_bytes < large.measured_training_bytes < 200e6
        assert large.train_step_seconds is not None
        assert large.inference_seconds is not None
        assert large.inference_seconds > 0
        assert 0 < large.train_step_seconds < 60
    assert json.dumps(profile.to_json(), allow_nan=False)


def test_a_grid_has_each_network_once_and_its_static_one() -> None:
    models = grid(["resnet8"], ["static", "fmdconv"], [1.0, 0.5], [1, 4])
    labels = [label(model) for model in with_baselines(models)]
    assert sorted(labels) == sorted(
        f"resnet8 {conv}{width}"
        for conv in ("static", "fmdconv K=1", "fmdconv K=4")
        for width in ("", " x0.5")
    )
    assert baseline(baseline(TINY)) == baseline(TINY)


def test_an_experiment_is_profiled_as_it_is_trained() -> None:
    models, task = read_models(Path("configs/quickstart.toml"))
    assert [label(model) for model in models] == ["resnet8 fmdconv K=4"]
    assert task == Task(input_shape=(3, 32, 32), num_classes=10)
    config = ExperimentConfig()
    assert task_of(config.model_copy(update={"data": replace_data(config, "cifar100")})).num_classes == 100


def replace_data(config: ExperimentConfig, name: str) -> object:
    return config.data.model_copy(update={"name": name})


def test_a_list_of_models_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[[models]]\nname = "resnet8"\nkernels = 2\n[[models]]\nname = "resnet20"\nconv = "odconv"\n',
        encoding="utf-8-sig",  # as Windows writes it
    )
    models, task = read_models(path)
    assert [label(model) for model in models] == ["resnet8 fmdconv K=2", "resnet20 odconv K=4"]
    assert task is None


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_figure_is_a_picture(tmp_path: Path, suffix: str, start: bytes) -> None:
    from fedfmd.profiling.view import write_figure

    profile: Profile = analyse([TINY], SMALL_TASK, [4], device="cpu")
    write_figure(replace(profile), tmp_path / f"p.{suffix}")
    content = (tmp_path / f"p.{suffix}").read_bytes()
    assert content.startswith(start)
    assert len(content) > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conv", "conv3d"], ["model.conv", "'conv3d'", "'odconv'"]),
        (["--kernels", "0"], ["model.kernels", "0"]),
        (["--batch", "0"], ["--batch 0", "at least 1"]),
        (["--device", "tpu"], ["--device tpu", "cuda"]),
        (["--figure", "x.bmp"], ["x.bmp", ".svg"]),
        (["none.toml"], ["none.toml", "no such config file"]),
        (["bad.toml"], ["bad.toml: models[0]", "unknown key", "kernels"]),
        (["both.toml"], ["both.toml", "nothing else"]),
        (["bad.toml", "--conv", "static"], ["bad.toml", "no option"]),
        (["bad.toml", "--norm", "gn"], ["bad.toml", "no option"]),
        (["run.toml", "--no-measure", "--classes", "100"], ["run.toml", "--classes"]),
        (["run.toml", "--no-measure", "--image-size", "64"], ["run.toml", "--image-size"]),
        (["--name", "resnet8", "--batch", "100000000"], ["--batch = 100000000", "GB of memory"]),
        (["--no-measure", "--repeats", "3"], ["--repeats: counts only with --measure"]),
        (["--no-measure", "--threads", "2"], ["--threads: counts only with --measure"]),
        (["--no-measure", "--out", "no/where.json"], ["no/where.json", "a folder that exists"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("[[models]]\nkernel = 2\n")
    (tmp_path / "run.toml").write_text('model.name = "resnet8"\n')
    (tmp_path / "both.toml").write_text("seed = 1\n[[models]]\nkernels = 2\n")
    monkeypatch.setattr("sys.argv", ["fedfmd", "profile", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr().err
    assert stop.value.code == 2, text
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


def test_a_machine_is_calibrated_for_the_device_model(tmp_path: Path) -> None:
    """What is written is what `devices.calibration` reads; a convolution is the fastest kind a MAC."""
    from fedfmd.cli.actions.profile import calibrate_machine
    from fedfmd.devices.population import read_calibration
    from fedfmd.terminal.consoles import PlainConsole

    calibrate_machine(PlainConsole(quiet=True), tmp_path / "rates.json", 1)
    rates = read_calibration(tmp_path / "rates.json")
    assert rates.conv == 1
    assert 0 < rates.aggregation < 1
    assert 0 < rates.attention < 1


def test_a_convolution_of_ones_own_is_found_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profiled_here.py").write_text(
        "from torch import nn\n\n\nclass Thin(nn.Conv2d):\n    slices = frozenset({'width'})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])  # as of an installed command
    chosen = ("--conv", "profiled_here:Thin", "--name", "resnet8", "--no-measure", "--batch", "8")
    document = profile_json(tmp_path / "p.json", monkeypatch, *chosen)
    assert "profiled_here:Thin" in json.dumps(document["models"])
