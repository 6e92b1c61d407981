"""The table beside the published results says what cannot be compared."""

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_training import tiny_config

from fedfmd.building import network
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.costs.macs import model_cost
from fedfmd.records.documents import TrainSummary
from fedfmd.results.published import PUBLISHED, differences
from fedfmd.terminal.published import comparison_table

CONFIGS = Path(__file__).parents[2] / "configs"

SUMMARY = TrainSummary.exactly({
    "final_top1": 0.9, "final_top5": 0.99, "seconds_per_epoch": 2.0, "train_samples": 60_000,
    "test_samples": 10_000, "epochs": 100, "processes": 1, "device": "a GPU", "threads": 1,
})  # fmt: skip


def shown(width: int = 200, **changes: dict) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(comparison_table(tiny_config(**changes), SUMMARY))
    return text.getvalue()


def authors(**changes: dict[str, Any]) -> ExperimentConfig:
    document = tomllib.loads((CONFIGS / "train-authors.toml").read_text())
    for section, values in changes.items():
        document[section] = document[section] | values
    return parse_config(document)


def test_every_result_on_another_dataset_is_labelled_so() -> None:
    text = shown(data={"name": "fashion-mnist"})
    assert text.count("DATASET") == len(PUBLISHED)
    assert "90.00" in text


def test_no_word_is_cut_off_on_a_terminal_of_80_columns() -> None:
    text = shown(80, data={"name": "fashion-mnist"})
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "augmentation," in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_authors_config_differs_from_the_published_result_in_nothing() -> None:
    assert differences(authors(), PUBLISHED[0]) == []
    assert differences(authors(data={"name": "cifar100"}), PUBLISHED[1]) == []
    assert differences(authors(), PUBLISHED[3]) == ["DATASET", "conv"]


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("data", {"name": "cifar100"}, ["DATASET"]),
        ("data", {"train_samples": 100}, ["PART OF DATA"]),
        ("data", {"test_samples": 100}, ["PART OF DATA"]),
        ("data", {"resized_crop": 128}, ["pixels"]),
        ("model", {"width": 0.5}, ["width"]),
        ("model", {"conv": "odconv"}, ["conv"]),
        ("model", {"kernels": 6}, ["K"]),
        ("model", {"norm": "gn"}, ["norm"]),
        ("model", {"attention_norm": "ln"}, ["attention norm"]),
        ("model", {"stem": "cifar"}, ["stem"]),
        ("model", {"outputs": 10}, ["outputs"]),
        ("temperature", {"mode": "both"}, ["temperature"]),
        ("temperature", {"anneal_rounds": 11}, ["temperature"]),
        ("train", {"temperature_every": "epoch"}, ["temperature"]),
        ("train", {"augment": False}, ["augmentation"]),
        ("train", {"epochs": 99}, ["epochs"]),
        ("train", {"batch_size": 32}, ["batch size"]),
        ("train", {"milestones": [30, 60]}, ["learning rate"]),
        ("train", {"weight_decay": 5e-4}, ["optimiser"]),
        ("train", {"ema": 0.9}, ["optimiser"]),
        ("train", {"label_smoothing": 0.1}, ["label smoothing"]),
        ("train", {"precision": "bf16"}, ["precision"]),
        ("train", {"threads": 3, "device": "cpu", "evaluate_every": 2, "channels_last": True}, []),
    ],
)
def test_every_difference_is_named(section: str, changes: dict[str, Any], named: list[str]) -> None:
    assert differences(authors(**{section: changes}), PUBLISHED[0]) == named


def test_small_images_are_another_experiment_in_all_its_names() -> None:
    config = parse_config({"data": {"name": "cifar10"}, "model": {"name": "resnet18"}})
    assert differences(config, PUBLISHED[0]) == [
        "norm", "attention norm", "temperature", "stem", "outputs", "pixels", "augmentation",
    ]  # fmt: skip


def test_the_notes_keep_kernels_and_first_temperatures_apart() -> None:
    notes = [r for r in PUBLISHED if r.dataset == "cifar100-like" and r.conv == "fmdconv"]
    assert [r.kernels for r in notes if r.start is None] == [1, 2, 4, 6, 8, 16]
    assert [(r.kernels, r.start) for r in notes if r.start] == [(4, 40), (4, 52), (4, 61), (4, 100)]
    text = shown()
    assert "76.01-76.10" in text
    assert "76.31" in text
    assert "R fmdconv K=4 T=61" in text


def test_the_authors_network_has_their_parameters_and_operations() -> None:
    """45.20 M parameters and 1,862 million multiply-accumulates, as published."""
    config = authors()
    with torch.device("meta"):
        model = network(config.model, num_classes=10)
    cost = model_cost(model, (3, 224, 224))
    assert (round(cost.parameters / 1e6, 2), round(cost.forward_macs / 1e6)) == (45.20, 1862)
