"""A client's own images in one file: what is read, what is refused, and by what all clients see them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from powerless import powerless
from typer.testing import CliRunner

from fedfmd.cli.data import app
from fedfmd.data.agreement import Agreement, Normalisation
from fedfmd.data.dataset import Dataset
from fedfmd.data.packs import PackSource, described, open_pack, pack
from fedfmd.data.prepared import open_prepared
from fedfmd.data.statistics import channel_statistics, channel_sums, statistics_of
from fedfmd.errors import UserError

AGREED = Agreement(("bird", "cat", "dog"), 16)


def photos(folder: Path, **counts: int) -> Path:
    """Make class folders with images of one colour each, which is the label's."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        colour = 40 * (1 + AGREED.classes.index(name)) if name in AGREED.classes else 0
        for place in range(count):
            pixels = np.full((20, 24, 3), colour, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def packed(source: Path | str, out: Path, **options: object) -> Dataset:
    return pack(PackSource(str(source), **options), AGREED, None, out)  # type: ignore[arg-type]


def colours(dataset: Dataset) -> list[int]:
    return (dataset.train_images[:, 0, 8, 8] // 40 - 1).tolist()


def test_labels_are_the_agreed_ones_whichever_classes_a_client_has(tmp_path: Path) -> None:
    made = packed(photos(tmp_path / "mine", dog=2, cat=3), tmp_path / "mine.safetensors")
    read = open_pack(tmp_path / "mine.safetensors")
    assert colours(read) == read.train_labels.tolist() == [1, 1, 1, 2, 2]
    assert read.classes == AGREED.classes
    assert (read.input_shape, read.mean) == ((3, 16, 16), ())
    assert read.origin == made.origin
    assert read.origin["train"] == {"cat": 3, "dog": 2}


def test_a_pack_is_told_apart_by_what_is_in_it(tmp_path: Path) -> None:
    first = packed(photos(tmp_path / "a", cat=2, dog=1), tmp_path / "a.safetensors").origin["sha256"]
    again = packed(photos(tmp_path / "b", cat=2, dog=1), tmp_path / "b.safetensors").origin["sha256"]
    other = packed(photos(tmp_path / "c", cat=1, dog=2), tmp_path / "c.safetensors").origin["sha256"]
    assert first == again != other


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    folder = photos(tmp_path / "mine", cat=2)
    (folder / ".DS_Store").touch()
    (folder / "cat" / "notes.txt").touch()
    line = described(packed(folder, tmp_path / "out.safetensors"))
    assert line.startswith("2 training and 0 test images of 1 of 3 classes, 16 x 16 pixels; left out: ")
    assert "1 hidden" in line
    assert "1 with the ending .txt" in line
    assert "\n" not in line


def test_images_that_cannot_be_read_are_not_left_out_in_silence(tmp_path: Path) -> None:
    (photos(tmp_path / "mine", cat=2) / "cat" / "more").mkdir(mode=0)
    (tmp_path / "classes.txt").write_text(AGREED.text)
    pack_them = ["-m", "fedfmd", "data", "pack", "mine", "--classes", "classes.txt"]
    done = subprocess.run(
        [*powerless(), sys.executable, *pack_them], cwd=tmp_path, capture_output=True, text=True
    )
    (tmp_path / "mine" / "cat" / "more").chmod(0o700)
    assert done.returncode == 2
    assert done.stderr.endswith("error: mine/cat/more: cannot be read: Permission denied\n")


def test_folders_to_train_and_test_on(tmp_path: Path) -> None:
    photos(tmp_path / "mine" / "train", cat=2, dog=2)
    photos(tmp_path / "mine" / "val", dog=1)
    made = packed(tmp_path / "mine", tmp_path / "out.safetensors")
    assert (made.train_labels.tolist(), made.test_labels.tolist()) == ([1, 1, 2, 2], [2])


def test_a_table_names_images_from_its_own_folder(tmp_path: Path) -> None:
    photos(tmp_path / "mine", bird=1, cat=2)
    table = tmp_path / "mine" / "images.csv"
    table.write_text(
        "\ufefffile,label,part\ncat/1.png,cat,train,,\n,,,,,\n,\nbird/0.png, bird ,\ncat/0.png,cat,test\n"
    )
    made = packed(table, tmp_path / "out.safetensors")
    assert (made.train_labels.tolist(), made.test_labels.tolist()) == ([1, 0], [1])
    assert colours(made) == [1, 0]


class Letters(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """A set of somebody's own, with classes in another order."""

    classes = ("dog", "bird")

    def __init__(self, train: bool, shades: int = 2):
        self.count = shades if train else 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        label = place % 2
        return Image.new("L", (9, 9), 120 if label == 0 else 40), label


def test_a_set_by_name_is_called_by_the_agreed_labels(tmp_path: Path) -> None:
    made = packed(f"{__name__}:Letters", tmp_path / "out.safetensors", options={"shades": 3})
    assert made.train_images.shape == (3, 3, 16, 16)
    assert colours(made) == made.train_labels.tolist() == [2, 0, 2]
    assert made.test_labels.tolist() == [2]


REFUSED = {
    "no such thing": (lambda d: "nowhere", "nowhere: there is no such folder, CSV file or data set"),
    "unknown class": (lambda d: photos(d / "x", cat=1, zebra=1), "'zebra' is not among the agreed classes"),
    "empty": (lambda d: photos(d / "x", cat=0), "holds no images"),
    "no classes": (lambda d: (d / "x").mkdir() or d / "x", "holds no class folders"),
    "another size": (lambda d: "embedded", "its images have 32 x 32 pixels, and agreed is image_size = 16"),
    "damaged image": (
        lambda d: (photos(d / "x", cat=1) / "cat" / "bad.png").write_text("no image") and d / "x",
        "bad.png: damaged image: ",
    ),
    "unknown label": (lambda d: table(d, "file,label\na.png,horse\n"), ":2: label = 'horse': not among"),
    "missing image": (lambda d: table(d, "file,label\na.png,cat\n"), ":2: file = 'a.png': there is no file"),
    "no column": (lambda d: table(d, "path,label\na.png,cat\n"), "has no column 'file'"),
    "another column": (
        lambda d: table(d, "file,label,split\na.png,cat,test\n"),
        "column 'split': is not known; allowed: file, label, part",
    ),
    "no fields": (lambda d: table(d, "file,label\na.png\n"), ":2: has not as many fields"),
    "no rows": (lambda d: table(d, "file,label\n,\n , \n"), "holds no images to train on"),
    "another part": (lambda d: table(d, "file,label,part\na.png,cat,valid\n"), ":2: part = 'valid'"),
}


def table(folder: Path, text: str) -> Path:
    (folder / "images.csv").write_text(text)
    return folder / "images.csv"


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path: Path, make: object, said: str) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError) as refusal:
        packed(make(tmp_path), out)  # type: ignore[operator]
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat\ndog\n", "image_size = PIXELS"),
        ("image_size = big\ncat\ndog\n", "image_size = PIXELS"),
        ("image_size = 4\ncat\ndog\n", "must be 8 to 512"),
        ("image_size = 32\ncat\n", "names 1 classes"),
        ("image_size = 32\ncat\ndog\ncat\n", "'cat': is there twice"),
        ("image_size = 32\ncat\na/b\n", "what a folder can be called"),
    ],
)
def test_an_agreement_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=said) as refusal:
        Agreement.read(tmp_path / "classes.txt")
    assert str(refusal.value).startswith(str(tmp_path))


@pytest.mark.parametrize("document", ["[]", "{}", '{"mean": [0.5], "std": [1]}', "nothing",
                                      '{"mean": [1, 0, 2], "std": [1, 1, 1]}',
                                      '{"mean": [0, 0, 0], "std": [0, 1, 1]}'])  # fmt: skip
def test_statistics_that_are_none(tmp_path: Path, document: str) -> None:
    (tmp_path / "stats.json").write_text(document)
    with pytest.raises(UserError, match=r"stats\.json"):
        Normalisation.read(tmp_path / "stats.json")


def test_sums_of_parts_are_those_of_the_whole() -> None:
    """To the bit, however the images are spread: no image has to leave a part."""
    images = torch.randint(0, 256, (50, 3, 9, 7), dtype=torch.uint8, generator=torch.manual_seed(1))
    pixels, sums, squares = 0, [0, 0, 0], [0, 0, 0]
    for part in images.split([1, 0, 30, 19]):
        added = channel_sums(part.numpy())
        pixels += part.numel() // 3
        sums, squares = (
            [a + b for a, b in zip(*pair, strict=True)] for pair in zip((sums, squares), added, strict=True)
        )
    assert statistics_of(pixels, sums, squares) == channel_statistics(images.numpy())
    scaled = images.double() / 255
    mean, std = (torch.tensor(figures) for figures in channel_statistics(images.numpy()))
    torch.testing.assert_close(mean, scaled.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, scaled.permute(1, 0, 2, 3).flatten(1).std(1, correction=0).float())


def test_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder to a pack, and what the pack says of itself."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "mine", bird=1, cat=2, dog=1)
    (tmp_path / "stats.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))
    for command, said in (
        ("classes --like mine --image-size 16", "classes.txt: 3 classes, 16 x 16 pixels"),
        ("pack mine --classes classes.txt --stats stats.json", "client.safetensors: 4 training and 0 test"),
        ("show client.safetensors", "normalised by 0.5000 ± 0.2500"),
    ):
        result = CliRunner().invoke(app, command.split())
        assert result.exit_code == 0, result.output
        assert said in result.output
    assert open_prepared(tmp_path / "client.safetensors").std == (0.25, 0.25, 0.25)
    with pytest.raises(UserError, match="no prepared dataset, or a damaged one"):
        open_pack(tmp_path / "stats.json")


def test_what_would_not_count_of_a_source_is_refused(tmp_path: Path) -> None:
    folder, out = photos(tmp_path / "mine", cat=2), tmp_path / "mine.safetensors"
    with pytest.raises(
        UserError, match=r"^--root: counts only for a data set by name, and .*mine is a folder"
    ):
        packed(folder, out, root=tmp_path)
    with pytest.raises(UserError, match=r"^--set colour: counts only for a data set by name"):
        packed(folder, out, options={"colour": 1})
    for name in ("embedded", "torchvision.datasets:FakeData"):
        with pytest.raises(UserError, match=f"--set colour: the data set {name} has no such argument"):
            pack(PackSource(name, options={"colour": 1}), Agreement(("a", "b"), 32), None, out)
    assert not out.exists()
