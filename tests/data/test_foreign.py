"""Sets that other code reads: a torch Dataset beside the config, one of torchvision, one of Hugging Face."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedfmd.config.experiment import make_config
from fedfmd.data.configured import partition_data, prepare_data
from fedfmd.data.dataset import Dataset
from fedfmd.data.prepared import open_prepared
from fedfmd.errors import UserError
from fedfmd.modules import look_in
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run

OWN = """
import numpy as np
import torch
from PIL import Image

KINDS = {
    "grey": lambda grey: Image.fromarray(grey),
    "deep": lambda grey: Image.fromarray(grey.astype(np.uint16) * 257),
    "deep array": lambda grey: grey.astype(np.uint16) * 257,
    "float image": lambda grey: Image.fromarray(grey.astype(np.float32) / 255),
    "transparent": lambda grey: Image.merge("LA", (Image.fromarray(grey), Image.new("L", (8, 8), 0))),
    "last of four": lambda grey: np.stack([grey] * 4, 2),
    "first of four": lambda grey: np.stack([grey] * 4),
    "some in colour": lambda grey: Image.fromarray(grey).convert("RGB" if grey[0, 0] % 2 else "L"),
}


class Stripes(torch.utils.data.Dataset):
    classes = ("dark", "light")

    def __init__(self, train, side=8, kind="uint8"):
        self.count, self.side, self.kind = (40 if train else 10), side, kind
        if kind == "no tests" and not train:
            self.count = 0

        if kind == "twice":
            self.classes = ("dark", "dark")
        if kind == "one":
            self.classes = ("dark",)
        if kind == "count":
            self.classes = 2
        if kind == "odd classes":
            self.classes = 0.5

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        label = place % 2
        if self.kind == "half":
            return torch.zeros(3, self.side, self.side), label / 2
        if self.kind == "seven":
            return torch.zeros(3, self.side, self.side), place % 7
        if self.kind == "one":
            return torch.zeros(3, self.side, self.side), 0
        if self.kind == "many":
            return torch.zeros(3, self.side, self.side), 10**9
        if self.kind in KINDS:
            return KINDS[self.kind](np.random.default_rng(place).integers(0, 256, (8, 8), np.uint8)), label
        if self.kind == "float":
            return torch.full((3, self.side, self.side), 1.0 * label), label
        if self.kind == "sizes":
            return torch.zeros((1, self.side + label, self.side), dtype=torch.uint8), label
        return torch.full((self.side, self.side, 3), 255 * label, dtype=torch.uint8).numpy(), label
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_stripes.py").write_text(OWN)
    look_in(folder)


def read(name: str, **options: object) -> Dataset:
    given = {"data": {"name": name}, "options": {"data": options}}
    return open_prepared(prepare_data(make_config(given)))


def test_a_dataset_of_a_users_own_trains(tmp_path: Path) -> None:
    config = make_config(
        {
            "data": {"name": "own_stripes:Stripes", "train_samples": 20},
            "options": {"data": {"side": 16}},
            "partition": {"scheme": "sampled", "clients": 2, "samples_per_client": 10},
            "model": {"name": "cnn"},
            "server": {"rounds": 1, "cohort": 2},
            "backend": {"kind": "inline"},
            "logging": {"tensorboard": False},
        }
    )
    run = start_run(config, tmp_path / "run")
    assert execute(run, InlineExecutor)["rounds"] == 1
    assert [part.kind for part in run.foundations.read().registered] == ["data"]


def test_floats_bytes_and_their_order_of_dimensions_are_one_image() -> None:
    plain, floats = (read("own_stripes:Stripes", kind=kind) for kind in ("uint8", "float"))
    assert plain.train_images.shape == (40, 3, 8, 8)
    assert np.array_equal(plain.train_images, floats.train_images)
    assert plain.classes == ("dark", "light")
    assert np.bincount(plain.train_labels).tolist() == [20, 20]


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its images differ in size"):
        read("own_stripes:Stripes", kind="sizes")
    given = {
        "data": {"name": "own_stripes:Stripes", "image_size": 16},
        "options": {"data": {"kind": "sizes"}},
    }
    assert open_prepared(prepare_data(make_config(given))).input_shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("half", r"item 1: is no \(image, label\): ValueError: label 0.5: labels must be 0, 1, 2"),
        ("seven", "classes: names 2, and there is the label 6; name one per label"),
        ("twice", "classes: names 'dark' twice"),
        ("one", "has 1 class; there is nothing to learn"),
        (
            "many",
            r"item 0: is no \(image, label\): ValueError: label 1000000000: labels must be .* below 100,000",
        ),
        ("no tests", "has no test images"),
        ("odd classes", "classes: neither names nor how many: TypeError: 'float' object is not iterable"),
    ],
)
def test_labels_and_classes_that_do_not_fit_are_refused(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=f"data.name = 'own_stripes:Stripes': {message}"):
        read("own_stripes:Stripes", kind=kind)


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("deep", "50 16-bit or floating-point grey scaled to 8 bits"),
        ("deep array", "50 16-bit or floating-point grey scaled to 8 bits"),
        ("float image", "50 16-bit or floating-point grey scaled to 8 bits"),
        ("last of four", ""),
        ("first of four", ""),
        ("some in colour", ""),
    ],
)
def test_images_in_memory_become_what_their_files_would(kind: str, note: str) -> None:
    """16 bits are scaled, channels come first, and grey ones among coloured ones are repeated."""
    grey, found = read("own_stripes:Stripes", kind="grey"), read("own_stripes:Stripes", kind=kind)
    assert grey.train_images.shape == (40, 1, 8, 8)
    channels = {"last of four": 4, "first of four": 4, "some in colour": 3}.get(kind, 1)
    assert found.input_shape == (channels, 8, 8)
    assert np.array_equal(found.train_images, grey.train_images.repeat(channels, axis=1))
    assert found.note == (f"own_stripes:Stripes: {note}" if note else "")


def test_transparent_images_in_memory_stand_on_white() -> None:
    found = read("own_stripes:Stripes", kind="transparent")
    assert (found.train_images == 255).all()
    assert "50 transparent, composited on white" in found.note


def test_a_set_may_say_how_many_classes_it_has() -> None:
    assert read("own_stripes:Stripes", kind="count").classes == ("0", "1")


def test_an_option_that_the_set_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"options\.data\.colour: the data 'own_stripes:Stripes' has no such"):
        read("own_stripes:Stripes", colour=1)


def test_a_set_of_hugging_face_is_read_from_arrow_files(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
            "writer": datasets.Value("int64"),
        }
    )
    for split, count in (("train", 6), ("test", 2)):
        pictures = [Image.fromarray(np.full((8, 8, 3), 40 * i, dtype=np.uint8)) for i in range(count)]
        table = {"picture": pictures, "kind": [i % 2 for i in range(count)], "note": ["x"] * count}
        table["writer"] = [(11, 2, 100)[i % 3] for i in range(count)]
        made = datasets.Dataset.from_dict(table, features=features)
        made.save_to_disk(str(tmp_path / "saved" / split))
        (arrow,) = (tmp_path / "saved" / split).glob("*.arrow")
        target = tmp_path / "set" / "data" / f"{split}.arrow"
        target.parent.mkdir(parents=True, exist_ok=True)
        arrow.rename(target)
    dataset = read("huggingface", source=str(tmp_path / "set"))
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_images[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert dataset.test_labels.tolist() == [0, 1]
    assert dataset.owners is None
    given = {"data.name": "huggingface", "partition.scheme": "natural", "partition.clients": 3}
    given |= {"server.cohort": 3, "options.data": {"source": str(tmp_path / "set"), "client": "writer"}}
    config = make_config({}, given)
    owned = open_prepared(prepare_data(config))
    assert owned.owners is not None
    assert owned.owners.tolist() == [1, 0, 2, 1, 0, 2]  # 2, 11, 100
    partition = partition_data(config, owned.train_labels, owned.owners)
    assert [partition.indices(c).tolist() for c in range(3)] == [[1, 4], [0, 3], [2, 5]]
    with pytest.raises(UserError, match=r"needs to know whose each image is: options\.data\.client"):
        prepare_data(make_config({}, given | {"options.data": {"source": str(tmp_path / "set")}}))
    with pytest.raises(
        UserError, match=r"options\.data\.image = 'nothing': must name one of the columns 'picture'"
    ):
        read("huggingface", source=str(tmp_path / "set"), image="nothing")


def test_any_option_of_ones_own_may_be_called_source(tmp_path: Path) -> None:
    (tmp_path / "modules" / "own_source.py").write_text(
        "from own_stripes import Stripes\n\n\ndef one(train, source): return Stripes(train, side=source)\n"
    )
    assert read("own_source:one", source=12).input_shape == (3, 12, 12)
