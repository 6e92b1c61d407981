"""An exported file computes what PyTorch computes, for any batch, and costs what the rules say."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import fedfmd
from fedfmd.costs.macs import model_cost
from fedfmd.errors import InputWarning, UserError
from fedfmd.experiment import Experiment
from fedfmd.export import Exported, Wanted, export_models
from fedfmd.export.graph import graph_macs, onnx_bytes, run, session
from fedfmd.export.written import product_macs
from fedfmd.nn import build_model, set_temperature
from fedfmd.nn.part_norm import keep_groups, take_window
from fedfmd.nn.temperature import Temperatures

TINY: dict[str, Any] = {
    "data": {"train_samples": 200, "test_samples": 40},
    "partition": {"scheme": "iid", "clients": 8, "holdout": 0.2},
    "model": {"name": "resnet8", "width": 0.25, "kernels": 2},
    "policy": {"kind": "width", "widths": [1.0, 0.5]},
    "devices": {
        "kind": "tiers",
        "tiers": [
            {"name": "new", "like": "phone-high"},
            {"name": "old", "like": "phone-low", "budget": {"macs_fraction": 0.95}},
        ],
    },
    "evaluation": {"clients": "all"},
    "server": {"rounds": 1, "cohort": 4},
    "backend": {"kind": "inline"},
}


def merged(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the tiny run with some changes; null leaves a key out."""
    document = {**TINY, **{name: {**TINY.get(name, {}), **section} for name, section in changes.items()}}
    return {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in document.items()
    }


def made(tmp_path: Path, **changes: dict[str, Any]) -> Path:
    return fedfmd.simulate(merged(changes), out=tmp_path / "run").path


def exported(path: Path, out: Path, **wanted: Any) -> list[Exported]:
    return export_models(path, out, Wanted(**wanted), tell=lambda _: None)


def warmed(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give BatchNorm statistics, and the temperatures some that matter."""
    set_temperature(model, Temperatures(kernel=7.0, channel=3.0, tau=0.3))
    with torch.no_grad():
        model.train()(torch.randn(4, *shape))
    return model.eval()


def program_of(page: str) -> str:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    [program] = re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(program)


def check(model: nn.Module, shape: tuple[int, ...]) -> None:
    content = onnx_bytes(model, shape, {})
    opened = session(content, 1)
    for batch in (1, 7):
        images = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = model(images)
        torch.testing.assert_close(run(opened, images), expected, rtol=1e-4, atol=1e-5)
    cost = model_cost(model, shape)
    assert graph_macs(content, shape) == product_macs(model, cost)


@pytest.mark.slow
def test_a_part_with_a_window_of_odconv_is_what_it_is_in_pytorch() -> None:
    """All four attentions, groups of a wider network that wrap round, and both batch sizes."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"conv": "odconv", "num_classes": 10, "kernels": 2}
    whole, part = (build_model("resnet8", width=width, **options) for width in (0.5, 0.3))
    keep_groups(part, whole)
    take_window(part, 5)
    check(warmed(part, (3, 16, 16)), (3, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {"conv": "static", "norm": "bn"}),
        ("resnet8", {"conv": "se"}),
        ("resnet8", {"conv": "kernelwarehouse"}),
        ("resnet8", {"conv": "kernelwarehouse", "cell_num_ratio": 0.5, "attention_norm": "bn"}),
        ("resnet8", {"conv": "fmdconv", "norm": "bn", "attention_norm": "bn"}),
        ("resnet8", {"conv": "fmdconv", "norm": "ln", "attention_norm": "none", "kernels": 1}),
        ("resnet8", {"conv": "odconv", "kernels": 1, "norm": "fixbn"}),
        ("resnet8", {"conv": "dyconv", "norm": "fedbn"}),
        ("resnet8", {"conv": "condconv", "norm": "gn", "in_channels": 1}),
        ("resnet14", {"conv": "dyconv", "exits": True}),
        ("resnet18", {"conv": "odconv", "stem": "imagenet"}),
        ("resnet50", {"conv": "fmdconv"}),
        ("preresnet12", {"conv": "fmdconv", "exits": True, "stages": 2}),
        ("cnn", {}),
    ],
)
def test_every_layer_norm_and_network_is_exported(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, **{"width": 0.25, "kernels": 2, **options})
    shape = (options.get("in_channels", 3), 32, 32)
    check(warmed(model, shape), shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"norm": "bn"}, "evaluation": {"static_norms": True}},
        {"model": {"norm": "bn"}, "policy": {"width_mode": "ordered"}},
        {"policy": {"width_mode": "rolling"}, "server": {"rounds": 3}},
        {"model": {"conv": "static", "kernels": None}},
    ],
    ids=["heterofl", "fjord", "fedrolex", "static"],
)
def test_a_tiers_part_scores_as_its_clients_scored_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    """On the clients' own images the file is as right as ``affordable`` was in the last round."""
    path = made(tmp_path, **changes)
    result = fedfmd.load_run(path)
    assert isinstance(result, fedfmd.Result)
    experiment = Experiment.from_json(_experiment(result))
    rows = result.evaluations
    rows = rows[(rows["model"] == "affordable") & (rows["round"] == rows["round"].max())]
    parts = {
        tier: one for one in exported(path, tmp_path / "phone.onnx", tiers=True) for tier, _ in one.tiers
    }
    assert parts["new"].width == 1.0
    assert parts["old"].width == 0.5
    assert parts["old"].file == tmp_path / "phone-width0.5.onnx"
    for row in rows.itertuples():
        opened = onnxruntime.InferenceSession(parts[str(row.tier)].file)
        images, labels = experiment.tested_on(int(row.client))
        found = opened.run(None, {"images": experiment.augment.eval_batch(images).numpy()})[0]
        assert float(np.mean(found.argmax(1) == labels.numpy())) == pytest.approx(row.top1)


def test_whom_the_parts_of_tiers_leave_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = [
        *TINY["devices"]["tiers"],
        {"name": "poor", "like": "phone-low", "budget": {"macs_fraction": 0.001}},
    ]
    path = made(tmp_path, devices={"tiers": tiers}, partition={"clients": 12})
    monkeypatch.setattr("fedfmd.export.source.MOST_PARTS", 1)
    monkeypatch.setattr("fedfmd.export.source.CLIENTS_LOOKED_AT", 11)
    with pytest.warns(InputWarning) as told:
        written = exported(path, tmp_path / "phone.onnx", tiers=True)
    assert len(written) == 1
    said = [str(one.message) for one in told]
    assert said[0] == "--tiers: clients are counted among the first 11 of 12"
    assert re.fullmatch(r"--tiers: [1-9]\d* of 11 clients can afford no part of the network", said[1])
    assert said[2].startswith("--tiers: 1 of 2 parts are written, those that most clients get; name another")


def _experiment(result: fedfmd.Result) -> dict[str, Any]:
    from fedfmd.rounds.lifecycle import open_experiment

    return open_experiment(result.directory).to_json()


@pytest.mark.slow
def test_a_client_with_norms_of_its_own_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = made(tmp_path, model={"norm": "fedbn"}, policy={"kind": "none", "widths": None})
    with pytest.raises(UserError, match=r"keeps the norms on the clients.*--client N"):
        exported(path, tmp_path / "phone.onnx")
    with pytest.raises(UserError, match="--client 9: the run's clients are 0 to 7"):
        exported(path, tmp_path / "phone.onnx", client=9)
    files = [exported(path, tmp_path / f"m{c}.onnx", client=c)[0].file for c in (0, 1)]
    images = {"images": np.ones((1, 3, 32, 32), np.float32)}
    one, other = (onnxruntime.InferenceSession(file).run(None, images)[0] for file in files)
    assert not np.array_equal(one, other)


def test_a_run_is_exported_with_what_using_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file alone gives the accuracy of the run: normalisation and classes are in its properties."""
    monkeypatch.chdir(tmp_path)
    path = made(tmp_path)
    [one] = exported(path, tmp_path / "phone.onnx")
    result = fedfmd.load_run(path)
    assert one.top1 == one.torch_top1 == result.summary["final_top1"]
    assert one.file_bytes == (tmp_path / "phone.onnx").stat().st_size < 4 * one.parameters + 60_000
    opened = onnxruntime.InferenceSession(tmp_path / "phone.onnx")
    about = {k: json.loads(v) for k, v in opened.get_modelmeta().custom_metadata_map.items()}
    assert len(about["classes"]) == 10
    assert opened.get_inputs()[0].shape[1:] == about["input_shape"]
    exec(program_of("export.md"), {})
    assert capsys.readouterr().out.strip().splitlines()[-1] in about["classes"]
    assert isinstance(result, fedfmd.Result)
    data = Experiment.from_json(_experiment(result)).dataset
    pixels = data.test_images.astype(np.float32) / 255
    mean, std = (np.array(about[key], np.float32)[:, None, None] for key in ("mean", "std"))
    found = opened.run(None, {"images": (pixels - mean) / std})[0].argmax(1)
    assert float(np.mean(found == data.test_labels)) == pytest.approx(one.top1)
    for wanted, words in {
        "width": (1.5, "at most 1"),
        "kernels": (3, "between 1 and 2"),
        "depth": (1, "needs model.exits"),
        "client": (0, "no norms of their own"),
    }.items():
        with pytest.raises(UserError, match=f"--{wanted} .*{words[1]}"):
            exported(path, tmp_path / "other.onnx", **{wanted: words[0]})
    with pytest.raises(UserError, match=r"must end in \.onnx"):
        exported(path, tmp_path / "m.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["phone.onnx", "run"]


class Capricious(nn.Module):
    """Takes a way by what it sees, which no graph can say."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return self.fc(pooled) if float(pooled.sum()) > 0 else self.fc(-pooled)


class Counting(nn.Module):
    """Asks for the batch as a number, which the graph would keep."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.zeros(len(x), 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Capricious, Counting])
def test_what_no_graph_can_say_is_refused_in_one_line(kind: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=r"cannot be written as ONNX: [^\n]+$"):
        onnx_bytes(kind().eval(), (3, 8, 8), {})


def test_without_the_packages_one_line_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'fedfmd\[export\]'"):
        exported(tmp_path, tmp_path / "phone.onnx")


def test_parts_are_not_cut_by_a_config_that_was_edited_afterwards(tmp_path: Path) -> None:
    path = made(tmp_path)
    config = (path / "config.toml").read_text()
    (path / "config.toml").write_text(config.replace("width = 0", "width = 1", 1))
    assert (path / "config.toml").read_text() != config
    with pytest.raises(UserError, match=r"differs from the run's start: .*width"):
        exported(path, tmp_path / "part.onnx", width=0.5)


def test_where_the_images_are_not_the_network_and_its_parts_are_exported_all_the_same(
    tmp_path: Path,
) -> None:
    """Of real clients, or on another machine: random images are compared, and parts are those of the run."""
    path = made(tmp_path)
    config = (path / "config.toml").read_text()
    there = re.search(r"^\[data\]\n(?:.+\n)*", config, re.MULTILINE)
    assert there is not None
    gone = f'[data]\nname = "cifar10"\nroot = "{tmp_path / "nowhere"}"\n'
    (path / "config.toml").write_text(config.replace(there[0], gone))
    contents = []
    for wanted in ({}, {"width": 0.5}):
        with pytest.warns(InputWarning, match="random ones are compared: .*nowhere"):
            [one] = exported(path, tmp_path / "without.onnx", **wanted)
        assert (one.top1, one.torch_top1) == (None, None)
        assert one.largest_difference < 1e-3
        contents.append(run(session(one.file.read_bytes(), 1), torch.ones(1, 3, 32, 32)))
    whole, half = contents
    assert torch.allclose(whole, fedfmd.load_model(path)(torch.ones(1, 3, 32, 32)), atol=1e-5)
    assert not torch.equal(whole, half)
    (
        path / "partition.safetensors"
    ).unlink()  # as with real clients, who alone know how many images they have
    with pytest.warns(InputWarning), pytest.raises(UserError, match="name a part: --width"):
        exported(path, tmp_path / "tiers.onnx", tiers=True)
