"""Clients that images come with: folders of their own, and no subfolder that is one by accident."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from fedfmd.config.experiment import ExperimentConfig, load_config, parse_config
from fedfmd.data.configured import partition_data, prepare_data
from fedfmd.data.folders import list_folders
from fedfmd.data.prepared import open_prepared
from fedfmd.devices.budgets import told_device
from fedfmd.errors import UserError
from fedfmd.pages.report import load_run
from fedfmd.pages.run.payload import partition_picture
from fedfmd.rounds.lifecycle import start_run
from fedfmd.studies.starter import make_starter
from fedfmd.terminal.data import partition_tables

HELD = {"ann": {"cat": 4, "dog": 2}, "bob": {"dog": 3}, "cy": {"cat": 2, "owl": 5}}
"""Images by client and class."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for client, classes in HELD.items():
        fill(tmp_path / "train" / client, classes, shade=10 * len(client))
    fill(tmp_path / "val", {"cat": 1, "dog": 1, "owl": 1})
    return tmp_path


def fill(folder: Path, classes: Mapping[str, int], shade: int = 0) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (shade, i, len(name))).save(folder / name / f"{i}.png")


def config(root: Path, **partition: object) -> ExperimentConfig:
    return parse_config(
        {
            "data": {"name": "imagefolder", "root": str(root), "image_size": 8},
            "partition": {"scheme": "natural", "clients": 3, **partition},
            "server": {"cohort": 3},
            "devices": {"kind": "tiers", "tiers": [{"name": "weak", "budget": {"macs_fraction": 0.25}}]},
        }
    )


def test_clients_keep_the_names_of_their_folders(root: Path, tmp_path: Path) -> None:
    """In the prepared file, the manifest and the report; who has what is the same partition without them."""
    settings = config(root, holdout=0.3)
    data = open_prepared(prepare_data(settings))
    assert data.owner_names == ("ann", "bob", "cy")
    run = start_run(settings, tmp_path / "run")
    manifest = run.read_json("partition.json")
    assert manifest["client_names"] == ["ann", "bob", "cy"]
    unnamed = partition_data(settings, data.train_labels, data.owners)
    assert manifest["sha256"] == unnamed.sha256
    picture = partition_picture(load_run(run.path))
    assert picture is not None
    assert picture["clients"] == ["ann", "bob", "cy"]


def test_a_new_study_takes_the_folders_in_train_for_clients(root: Path, tmp_path: Path) -> None:
    """Where the classes of the test images lie in them; else they are classes."""
    make_starter(tmp_path / "hospitals", root)
    settings = load_config(tmp_path / "hospitals" / "experiment.toml")
    assert (settings.partition.scheme, settings.partition.clients, settings.server.cohort) == (
        "natural",
        3,
        3,
    )
    fill(tmp_path / "flat" / "train", {"cat": 20, "dog": 20})
    fill(tmp_path / "flat" / "val", {"cat": 1, "dog": 1})
    make_starter(tmp_path / "plain", tmp_path / "flat")
    assert load_config(tmp_path / "plain" / "experiment.toml").partition.scheme == "dirichlet"


def test_clients_that_are_taken_for_classes_are_recognised(root: Path) -> None:
    with pytest.raises(UserError, match=r'its folders are clients: set partition.scheme = "natural"'):
        list_folders(root)
    (root / "val" / "bird").mkdir()
    with pytest.raises(UserError, match=r"train has no such class$"):
        list_folders(root)


def test_the_first_level_of_folders_are_the_clients(root: Path) -> None:
    settings = config(root, holdout=0.3)
    data = open_prepared(prepare_data(settings))
    partition = partition_data(settings, data.train_labels, data.owners)
    assert data.classes == ("cat", "dog", "owl")
    for client, classes in enumerate(HELD.values()):
        own, kept = partition.indices(client), partition.holdout(client)
        assert len(own) + len(kept) == sum(classes.values())
        assert len(kept) == partition.holdout_size(client) >= 1
        labels = [data.classes[label] for part in (own, kept) for label in data.train_labels[part]]
        assert {name: labels.count(name) for name in classes} == classes
    assert partition.about["scheme"] == "natural"


def test_under_any_other_scheme_subfolders_belong_to_their_class(root: Path) -> None:
    train, _, classes = list_folders_of(root)
    assert classes == ("ann", "bob", "cy")
    assert len(train.files) == 16
    assert train.owners is None


def list_folders_of(root: Path):  # type: ignore[no-untyped-def]
    for name in ("cat", "dog", "owl"):
        (root / "val" / name).rename(root / "val" / {"cat": "ann", "dog": "bob", "owl": "cy"}[name])
    return list_folders(root)


def test_another_number_of_clients_is_refused_with_the_right_one(root: Path) -> None:
    settings = config(root, clients=5)
    data = open_prepared(prepare_data(settings))
    with pytest.raises(UserError, match=r"images are of 3 clients; set partition.clients = 3"):
        partition_data(settings, data.train_labels, data.owners)
    with pytest.raises(UserError, match=r"'natural': needs data.name other than 'embedded'"):
        parse_config({"partition": {"scheme": "natural"}})


def test_the_table_of_clients_says_tier_budget_and_holdout(root: Path) -> None:
    settings = config(root, holdout=0.3)
    data = open_prepared(prepare_data(settings))
    partition = partition_data(settings, data.train_labels, data.owners)
    console = Console(width=160, record=True)
    console.print(partition_tables(data, partition, lambda client: told_device(settings, client)))
    lines = [line.split() for line in console.export_text().splitlines()]
    heading = next(line for line in lines if line[:1] == ["client"])
    assert heading[-2:] == ["device", "budget"]
    assert heading[2:4] == ["held", "out"]
    assert heading[5:8] == ["cat", "dog", "owl"]
    first = next(line for line in lines if line[:2] == ["0", "ann"])
    assert first[:5] == ["0", "ann", "4", "2", "2"]
    assert sum(line[-3:] == ["weak", "macs_fraction", "25%"] for line in lines) == 3


def test_a_client_whose_images_all_go_to_the_server_is_named(tmp_path: Path) -> None:
    for client in ("ann", "bob", "cy"):
        fill(
            tmp_path / "train" / client,
            {"cat": 1 if client == "cy" else 9, "dog": 9 if client != "cy" else 1},
        )
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    data = open_prepared(prepare_data(config(tmp_path)))
    said = set[str]()
    for seed in range(30):
        settings = config(tmp_path, validation=0.5).model_copy(update={"seed": seed})
        try:
            found = partition_data(settings, data.train_labels, data.owners)
            assert found.sizes.min() > 0
        except UserError as error:
            said.add(str(error))
    assert said == {
        "partition.validation = 0.5: takes all images of client 2; set a smaller share, or another seed"
    }
