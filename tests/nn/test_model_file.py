"""Model files: a file gives the network that was scored, and damage is said in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fedfmd
from fedfmd.central import World, start_training, train
from fedfmd.config.experiment import parse_config
from fedfmd.config.fingerprint import config_sha256
from fedfmd.data.augment import Augment
from fedfmd.data.configured import prepare_data
from fedfmd.data.dataset import Dataset
from fedfmd.data.prepared import open_prepared
from fedfmd.errors import UserError
from fedfmd.nn.model_file import ModelCard, load_model, read_card, write_model
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.training.evaluation import evaluate
from fedfmd.wire.testing import Evaluation

CONVS = ("static", "se", "condconv", "dyconv", "odconv", "fmdconv", "kernelwarehouse")
NORMS = ("gn", "bn", "ln", "fixbn")  # with fedbn there is no global model to score
MODES = ("both", "kernel_only", "sigmoid_only", "fixed")
Document = dict[str, dict[str, Any]]
Train = Callable[..., Path]


def tiny(changes: Document) -> Document:
    document: Document = {
        "data": {"train_samples": 60, "test_samples": 50},
        "partition": {"scheme": "iid", "clients": 3},
        "model": {"name": "resnet8", "width": 0.25, "kernels": 2, "attention_norm": "bn"},
        "client": {"batch_size": 10, "learning_rate": 0.1},
        "server": {"rounds": 2, "cohort": 2},
        "evaluation": {"batch_size": 20},
        "backend": {"kind": "inline"},
        "train": {"epochs": 2, "batch_size": 20, "device": "cpu", "threads": 1, "tensorboard": False},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    conv = document["model"].get("conv", "fmdconv")
    whole = ("attention_norm", "kernels")
    unused = {"static": whole, "se": whole, "kernelwarehouse": ("kernels",), "condconv": ("attention_norm",)}
    for key in unused.get(conv, ("attention_norm",) if conv == "dyconv" else ()):
        del document["model"][key]
    if conv in ("static", "se", "condconv"):
        document.pop("temperature", None)
    return document


def federated(out: Path, **changes: dict[str, Any]) -> Path:
    directory = start_run(parse_config(tiny(changes)), out)
    execute(directory, InlineExecutor)
    return out


def central(out: Path, **changes: dict[str, Any]) -> Path:
    directory = start_training(parse_config(tiny(changes)), out, World())
    train(directory, World(), lambda *_: None, lambda _: None)
    return out


def last_row(run: Path) -> dict[str, Any]:
    ledger = next(run / name for name in ("rounds.jsonl", "epochs.jsonl") if (run / name).exists())
    row: dict[str, Any] = json.loads(ledger.read_text().splitlines()[-1])
    return row


def dataset_of(run: Path) -> Dataset:
    return open_prepared(prepare_data(RunDirectory.open(run).config))


def held_out(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels)


def measured(run: Path) -> Evaluation:
    """Measure what the file gives, with nothing but the file and the stored test images."""
    card, data = read_card(run), dataset_of(run)
    augment = Augment.for_dataset(card)
    return evaluate(load_model(run), *held_out(data), augment, 20)


def assert_scored(run: Path) -> None:
    row, again = last_row(run), measured(run)
    assert again.loss == pytest.approx(row["test_loss"], rel=0, abs=1e-6)
    assert (again.top1, again.top5) == (row["top1"], row["top5"])


@pytest.mark.parametrize(
    ("conv", "norm", "mode"),
    [
        pytest.param(
            conv, norm, MODES[(i - 2 * j) % 4], marks=() if (i - j) % len(NORMS) == 0 else pytest.mark.slow
        )
        for (i, conv), (j, norm) in product(enumerate(CONVS), enumerate(NORMS))
    ],
)
def test_a_federated_file_is_the_model_of_the_last_row(
    tmp_path: Path, conv: str, norm: str, mode: str
) -> None:
    assert_scored(federated(tmp_path / "run", model={"conv": conv, "norm": norm}, temperature={"mode": mode}))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"exits": True}, "policy": {"kind": "depth"}, "budget": {"macs_fraction": 0.5}},
        {"policy": {"kind": "width"}, "budget": {"macs_fraction": 0.3}},
        {
            "model": {"attention_norm": "ln"},
            "policy": {"kind": "width", "width_mode": "ordered"},
            "budget": {"macs_fraction": 0.3},
        },
        {"policy": {"kind": "kernels", "kernel_mode": "rolling"}, "budget": {"bytes_fraction": 0.7}},
        {"model": {"name": "preresnet12", "width": 0.0625}},
        {"model": {"stem": "imagenet"}, "server": {"rounds": 3}, "evaluation": {"every": 2}},
        {"model": {"outputs": 20}, "data": {"resized_crop": 24}},
        {"control": "static-equal-macs"},
        {"server": {"strategy": "fedavgm"}, "client": {"scaffold": True, "momentum": 0.0}},
    ],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_sub_models_exits_stems_and_controls_are_in_the_file(tmp_path: Path, changes: Any) -> None:
    control = {"control": changes.pop("control")} if "control" in changes else {}
    directory = start_run(parse_config(tiny(changes) | control), tmp_path / "run")
    execute(directory, InlineExecutor)
    assert_scored(tmp_path / "run")


@pytest.mark.parametrize(
    ("conv", "changes"),
    [
        ("static", {}),
        ("condconv", {"train": {"ema": 0.9}}),
        ("dyconv", {"temperature": {"mode": "kernel_only"}}),
        ("odconv", {"temperature": {"mode": "sigmoid_only"}, "model": {"norm": "bn"}}),
        ("fmdconv", {"train": {"ema": 0.9}, "model": {"norm": "bn"}}),
        ("fmdconv", {"train": {"precision": "bf16", "channels_last": True}, "model": {"width": 0.5}}),
        ("odconv", {"train": {"temperature_every": "step"}, "data": {"resized_crop": 40}}),
        ("fmdconv", {"train": {"epochs": 3, "evaluate_every": 2}, "temperature": {"mode": "fixed"}}),
    ],
)
def test_a_central_file_is_the_model_of_the_last_row(tmp_path: Path, conv: str, changes: Document) -> None:
    changes["model"] = {"conv": conv} | changes.get("model", {})
    assert_scored(central(tmp_path / "run", **changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return federated(tmp_path_factory.mktemp("runs") / "run")


def test_the_file_without_its_temperature_would_be_another_model(run: Path) -> None:
    """What the metadata is for: at the layers' own temperature, 1, the loss is another."""
    card, data = read_card(run), dataset_of(run)
    plain = card.network.build().eval()
    plain.load_state_dict(load_file(run / "model.safetensors"))
    augment = Augment.for_dataset(card)
    loss = evaluate(plain, *held_out(data), augment, 20).loss
    assert abs(loss - last_row(run)["test_loss"]) > 1e-4


def test_the_directory_and_the_file_give_the_same_network(run: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    by_file = fedfmd.load_model(str(run / "model.safetensors"))
    with torch.inference_mode():
        assert torch.equal(fedfmd.load_model(run)(images), by_file(images))
    assert not by_file.training
    assert all(p.requires_grad for p in by_file.parameters())


def test_the_card_says_what_inference_needs_and_nothing_of_the_machine(run: Path) -> None:
    card, data = read_card(run), dataset_of(run)
    assert (card.classes, card.mean, card.std) == (data.classes, data.mean, data.std)
    assert card.input_shape == (3, 32, 32)
    assert (card.temperatures.kernel, card.temperatures.channel) == (31, 31)
    content = (run / "model.safetensors").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    assert not [word for word in (str(run.parent), "inline", "workers") if word in header]


def test_the_hash_of_the_config_follows_what_changes_bits_and_nothing_else() -> None:
    def hashed(**changes: dict[str, Any]) -> str:
        return config_sha256(parse_config(tiny(changes)))

    same: list[Document] = [
        {"backend": {"kind": "ray", "workers": 3}},
        {"logging": {"tensorboard": False}}, {"evaluation": {"clients": 2}},
    ]  # fmt: skip
    other: list[Document] = [
        {"backend": {"threads": 2}}, {"model": {"kernels": 3}}, {"client": {"epochs": 2}},
        {"temperature": {"start": 40.0}}, {"server": {"horizon": 9}}, {"data": {"train_samples": 61}},
    ]  # fmt: skip
    assert {hashed(**changes) for changes in same} == {hashed()}
    fashion = [{"data": {"name": "fashion-mnist", "root": root}} for root in ("/here", "/there")]
    assert len({hashed(**changes) for changes in fashion}) == 1
    assert len({hashed(), *(hashed(**changes) for changes in other)}) == len(other) + 1


def cards(run: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", "pt") as file:
        document: dict[str, Any] = json.loads(file.metadata()["fedfmd"])
    return document


def change(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    place = document
    for section in sections:
        place = place[section]
    place.pop(last) if value is ... else place.update({last: value})
    return document


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2), ("network", ...), ("network.name", "resnet9"), ("network.conv", None),
        ("network.kernels", 3), ("network.kernels", 10**12), ("network.width", -1.0),
        ("network.width", 1e300),
        ("network.num_classes", 9), ("network.in_channels", 0), ("network.stages", 2),
        ("temperatures", {"kernel": 0.0, "channel": 1.0}), ("temperatures.kernel", "34"),
        ("temperatures", ...),
        ("mean", []), ("std", [0.0, 1.0, 1.0]), ("classes", ["one"]), ("classes", "ten"),
        ("input_shape", [3, 32]), ("input_shape", [1, 32, 32]), ("sha256", ...), ("sha256", "0"),
        ("temperatures.kernel", 1.0), ("resized_crop", True), ("resized_crop", ...), ("std", [0.5, 0.5, 0.5]),
    ],
)  # fmt: skip
def test_damaged_metadata_is_one_clear_line(run: Path, tmp_path: Path, key: str, value: Any) -> None:
    file = tmp_path / "model.safetensors"
    document = change(cards(run), key, value)
    save_file(load_file(run / "model.safetensors"), file, {"fedfmd": json.dumps(document)})
    with pytest.raises(UserError) as raised:
        load_model(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)
    assert "--resume" in str(raised.value)


def test_a_changed_weight_is_noticed(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="its content is not what was written"):
        load_model(file)


@pytest.mark.parametrize("metadata", [None, {}, {"fedfmd": "{"}, {"fedfmd": "[]"}, {"fedfmd": ""}])
def test_a_file_of_something_else_is_one_clear_line(tmp_path: Path, metadata: Any) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, file, metadata)
    with pytest.raises(UserError, match=r"other.safetensors: its metadata"):
        load_model(file)


def test_a_whole_file_whose_own_part_is_not_here_says_where_to_put_it(run: Path, tmp_path: Path) -> None:
    """As of a colleague's run with a convolution of their own: nothing is damaged, and no run to resume."""
    card = read_card(run)
    theirs = replace(card, network=replace(card.network, conv="theirs_alone:Conv"))
    write_model(tmp_path / "model.safetensors", load_file(run / "model.safetensors"), theirs)
    with pytest.raises(
        UserError, match="names module theirs_alone, which is not installed, nor in"
    ) as raised:
        load_model(tmp_path / "model.safetensors")
    assert f"{tmp_path}" in str(raised.value)
    assert "put it there, or install it" in str(raised.value)
    assert "--resume" not in str(raised.value)


def test_what_is_no_model_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    for path, words in (
        (tmp_path / "none", "no such run directory or model file"),
        (tmp_path / "text", "cannot be read"),
        (tmp_path, "holds no model.safetensors"),
    ):
        with pytest.raises(UserError, match=words):
            load_model(path)


def test_the_card_is_checked_where_it_is_made(run: Path) -> None:
    card = read_card(run)
    with pytest.raises(ValueError, match="11 classes for 10 outputs"):
        ModelCard(**{**vars(card), "classes": (*card.classes, "one more")})
