"""The tables and the picture of a partition."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedfmd.data.datasets import load_dataset
from fedfmd.data.partition import make_partition
from fedfmd.errors import UserError
from fedfmd.pages.partition import check_format, draw_partition
from fedfmd.terminal.data import partition_tables


def _text(*, classes: int, clients: int, scheme: str, width: int = 80) -> str:
    dataset = load_dataset("embedded", root=Path(), train_samples=1000, test_samples=10, classes=classes)
    partition = make_partition(dataset.train_labels, scheme=scheme, clients=clients, seed=0)
    console = Console(file=io.StringIO(), width=width)
    console.print(partition_tables(dataset, partition))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80])
def test_the_tables_hold_the_true_counts_and_fit_the_terminal(width: int) -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=1000, test_samples=10)
    partition = make_partition(dataset.train_labels, scheme="label-dirichlet", clients=8, seed=0)
    text = _text(classes=10, clients=8, scheme="label-dirichlet", width=width)
    rows = [line.split() for line in text.splitlines()]
    for client, counts in enumerate(partition.label_counts(dataset.train_labels, 10)):
        cells = [str(n) if n else "·" for n in counts]
        assert [str(client), str(counts.sum()), str((counts > 0).sum()), *cells] in rows
    assert partition.sha256 in "".join(text.split())
    assert "0 disc, 1 ring" in text


def test_many_clients_and_many_classes_are_cut_short() -> None:
    text = _text(classes=100, clients=500_000, scheme="sampled")
    assert "20 of 500,000 clients" in text
    assert "499999" in text
    assert "100 in all" in text
    assert len(text.splitlines()) < 100


@pytest.mark.parametrize(("classes", "clients"), [(10, 3), (100, 150)])
def test_a_picture_is_drawn(classes: int, clients: int, tmp_path: Path) -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=1000, test_samples=10, classes=classes)
    partition = make_partition(dataset.train_labels, scheme="quantity", clients=clients, seed=0, min_size=1)
    draw_partition(dataset, partition, tmp_path / "who.png")
    with Image.open(tmp_path / "who.png") as picture:
        assert picture.size == (1440, 960)
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 100


def test_an_svg_names_labels_and_scheme(tmp_path: Path) -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=200, test_samples=10)
    partition = make_partition(dataset.train_labels, scheme="quantity", clients=5, seed=0)
    draw_partition(dataset, partition, tmp_path / "who.svg")
    text = (tmp_path / "who.svg").read_text()
    for words in ("crescent", "embedded, quantity, alpha 0.5, seed 0", "client (5 of 5)"):
        assert words in text


def test_an_unknown_image_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--figure .*who.txt: .* \.png, \.svg, \.pdf"):
        check_format("--figure", tmp_path / "who.txt")


def test_test_images_among_the_training_images_are_counted() -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=100, test_samples=10)
    assert dataset.repeated_tests() == 0
    leaked = replace(dataset, test_images=np.concatenate([dataset.test_images, dataset.train_images[7:10]]))
    assert leaked.repeated_tests() == 3
    console = Console(file=io.StringIO(), width=80)
    partition = make_partition(leaked.train_labels, scheme="iid", clients=5, seed=0)
    console.print(partition_tables(leaked, partition))
    assert isinstance(console.file, io.StringIO)
    assert "3 test images are training images, too" in console.file.getvalue()
