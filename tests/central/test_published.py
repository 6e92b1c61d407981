"""The table beside the published results says what cannot be compared."""

import io

from rich.console import Console
from tiny_training import tiny_config

from fedfmd.central.published import PUBLISHED, comparison_table, differences

SUMMARY = {
    "final_top1": 0.9, "final_top5": 0.99, "seconds_per_epoch": 2.0, "train_samples": 60_000,
    "test_samples": 10_000, "epochs": 100, "processes": 1, "device": "a GPU", "threads": 1,
}  # fmt: skip


def shown(**changes: dict) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(comparison_table(tiny_config(**changes), SUMMARY))
    return text.getvalue()


def test_every_result_on_another_dataset_is_labelled_so() -> None:
    text = shown(data={"name": "fashion-mnist"})
    assert text.count("DATASET") == len(PUBLISHED)
    assert "90.00" in text
    assert "another recipe" in text


def test_the_same_dataset_and_network_differ_in_nothing_named() -> None:
    config = tiny_config(
        data={"name": "cifar10", "train_samples": None, "test_samples": None},
        model={"name": "resnet18", "width": 1.0, "kernels": 4},
    )
    assert differences(config, PUBLISHED[0]) == []
    assert differences(config, PUBLISHED[3]) == ["DATASET", "conv"]


def test_the_defaults_are_the_published_recipe() -> None:
    recipe = {"epochs": 100, "batch_size": 64, "learning_rate": 0.1}
    assert "the published recipe" in shown(train=recipe).replace("\n", " ")
