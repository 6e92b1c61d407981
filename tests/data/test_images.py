"""Images as people have them: what each kind becomes, what is left out, and what is said about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import ExifTags, Image

from fedfmd.data.cache import prepare
from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import load_dataset
from fedfmd.data.folders import list_folders
from fedfmd.data.partition import make_partition
from fedfmd.data.prepared import open_prepared
from fedfmd.data.requests import DataRequest
from fedfmd.errors import UserError
from fedfmd.images.reading import ANIMATED, BACKGROUND, DEEP, TRANSPARENT, TURNED, read_image
from fedfmd.pages.partition import draw_partition

SIDE = 16
RNG = np.random.default_rng(0)
COARSE = RNG.integers(0, 256, (2, 2), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
"""Four patches of 8 x 8 pixels: no way of resizing changes them."""
COLOUR = RNG.integers(0, 256, (2, 2, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def read(path: Path) -> np.ndarray:
    """Return what the file becomes, uint8 (height, width, 3)."""
    return read_image(path, SIDE)[0]


def tree(root: Path, *, train: tuple[str, ...] = ("cat/0.png", "dog/0.png")) -> Path:
    for part, names in (("train", train), ("val", ("cat/0.png", "dog/0.png"))):
        for name in names:
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(COLOUR).save(path)
    return root


def load(root: Path) -> Dataset:
    return load_dataset("imagefolder", root=root, image_size=SIDE)


def grey(values: np.ndarray) -> np.ndarray:
    return values[:, :, None].repeat(3, 2)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_looks_like_its_8_bit_twin(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(COARSE.astype(np.uint16) * 257).save(path)
    assert (read(path) == grey(COARSE)).all()
    assert read_image(path, SIDE)[1] == [DEEP]


def test_floating_point_grey_is_of_0_to_1_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(COARSE.astype(np.float32) / 255).save(path)
    assert (read(path) == grey(COARSE)).all()
    for values in (COARSE.astype(np.float32) + 1, np.full((16, 16), np.nan, np.float32)):
        Image.fromarray(values).save(path)
        with pytest.raises(UserError, match=f"{path}: grey values .* allowed are 0 to 1"):
            read(path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_the_colours_that_a_viewer_shows(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    assert (read(path) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparent_pixels_show_the_background(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "palette":
        Image.new("P", (20, 20), 0).save(path, transparency=0)
    else:
        Image.new(kind, (20, 20), 0).save(path)
    assert (read(path) == BACKGROUND).all()
    assert read_image(path, SIDE)[1] == [TRANSPARENT]
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    half.save(path)
    assert abs(int(read(path)[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{ending}"
    options: dict[str, dict[str, Any]] = {
        "jpg": {"quality": 100, "subsampling": 0},
        "webp": {"lossless": True},
    }
    Image.fromarray(COLOUR).save(path, exif=exif, **options.get(ending, {}))
    expected = turns[orientation](COLOUR).astype(int)
    assert np.abs(read(path) - expected).max() <= 4
    assert (TURNED in read_image(path, SIDE)[1]) == (orientation != 1)


def test_of_an_animation_the_first_frame_is_read_and_it_is_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path / "a.gif")[0, 0, 0] > 200
    assert ANIMATED in read_image(tmp_path / "a.gif", SIDE)[1]


def test_a_very_long_image_is_cut_to_its_centre_without_much_memory(tmp_path: Path) -> None:
    Image.new("L", (60_000, 1), 7).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 7).all()


def test_what_systems_and_tools_leave_behind_is_no_image_and_no_class(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for folder in (".ipynb_checkpoints", "__MACOSX", "cat/.AppleDouble", "cat/@eaDir"):
        (root / "train" / folder).mkdir()
        (root / "train" / folder / "x.png").write_bytes(b"")
    for name in ("._0.png", "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", "README"):
        (root / "train" / "dog" / name).write_bytes(b"\0")
    (root / "train" / "labels.csv").write_text("a,b")
    dataset = load(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0, 1]
    for words in ("read 2 training and 2 test images", "8 hidden", "1 with the ending .txt", "1 in no class"):
        assert words in dataset.note
    assert "1 without an ending" in dataset.note
    assert "\n" not in dataset.note


def test_subfolders_belong_to_their_class_and_endings_may_be_upper_case(tmp_path: Path) -> None:
    root = tree(
        tmp_path, train=("cat/0.png", "cat/2024/may/1.PNG", "dog/0.png", "dog/old/2.TIF", "dog/3.WebP")
    )
    dataset = load(root)
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.note == ""


def test_a_folder_that_links_to_one_above_is_not_walked_for_ever(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "train" / "cat" / "again").symlink_to(root / "train" / "cat")
    assert load(root).train_labels.tolist() == [0, 1]


def test_a_class_without_training_images_is_refused_and_one_without_test_images_is_said(
    tmp_path: Path,
) -> None:
    root = tree(tmp_path)
    (root / "train" / "eel").mkdir()
    with pytest.raises(UserError, match=r"train/eel: holds no images .*; a class needs some"):
        list_folders(root)
    Image.fromarray(COLOUR).save(root / "train" / "eel" / "0.bmp")
    assert "no test images of eel" in load(root).note


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "train" / "cat" / "9.png").symlink_to("/nonexistent")
    with pytest.raises(UserError, match=r"cat/9\.png: a link to a file that is not there"):
        list_folders(root)


def test_a_file_that_the_system_refuses_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read: No such file or directory$"):
        read(tmp_path / "gone.png")


def test_one_accent_is_one_class_however_it_is_spelt(tmp_path: Path) -> None:
    for part, spelt in (("train", normalize("NFD", "caf\u00e9")), ("val", normalize("NFC", "caf\u00e9"))):
        folder = tmp_path / part / spelt
        folder.mkdir(parents=True)
        Image.fromarray(COLOUR).save(folder / "0.png")
    (tmp_path / "train/bar").mkdir()
    Image.fromarray(COLOUR).save(tmp_path / "train/bar/0.png")
    assert load(tmp_path).classes == ("bar", "caf\u00e9")


def test_odd_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("$x_{$", "100%", "_rest", "a,b;c", "[red]x", "日本 語")
    root = tree(tmp_path, train=tuple(f"{name}/{i}.png" for name in (*names, "cat", "dog") for i in range(3)))
    dataset = load(root)
    assert set(names) < set(dataset.classes)
    partition = make_partition(dataset.train_labels, scheme="label-dirichlet", clients=2, seed=0)
    draw_partition(dataset, partition, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert "$x_{$" in text or "<svg" in text


def test_the_note_is_kept_with_the_prepared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    root = tree(tmp_path / "set")
    Image.fromarray(COARSE.astype(np.uint16) * 257).save(root / "train" / "cat" / "0.png")
    opened = open_prepared(prepare(DataRequest(name="imagefolder", root=root, image_size=SIDE)))
    assert opened.note == load(root).note
    assert DEEP in opened.note
    assert np.array_equal(opened.train_images, load(root).train_images)


def test_a_link_to_itself_is_named_and_one_to_a_folder_above_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    root = tree(tmp_path / "images")
    (root / "train" / "cat" / "up").symlink_to("..")
    (root / "train" / "cat" / "self").symlink_to("self")
    (root / "train" / "whole").symlink_to("whole")
    note = open_prepared(prepare(DataRequest(name="imagefolder", root=root, image_size=SIDE))).note
    assert "1 in no class folder, 1 without an ending" in note
    (root / "train" / "dog" / "x.png").symlink_to("x.png")
    with pytest.raises(UserError, match=r"dog/x\.png: a link to a file that is not there"):
        prepare(DataRequest(name="imagefolder", root=root, image_size=SIDE))


def test_two_folders_of_one_name_are_no_class(tmp_path: Path) -> None:
    both = [normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD")]
    root = tree(tmp_path, train=("cat/0.png", "dog/0.png", *(f"{name}/0.png" for name in both)))
    with pytest.raises(UserError, match=r"is called as another folder beside it.*'cafe\\u0301'"):
        list_folders(root)


def test_names_that_cannot_be_printed_are_escaped(tmp_path: Path) -> None:
    odd = ("caf\udce9", "two\nlines", "plain")
    root = tree(tmp_path, train=("cat/0.png", "dog/0.png", *(f"{name}/0.png" for name in odd)))
    assert list_folders(root)[2] == ("caf\\udce9", "cat", "dog", "plain", "two\\nlines")
