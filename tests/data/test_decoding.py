"""Many images by several processes: Pillow's pixels, in order, and errors that name a file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedfmd.data.datasets import load_dataset
from fedfmd.data.folders import list_folders, read_pictures
from fedfmd.errors import UserError
from fedfmd.images import decoding
from fedfmd.images.decoding import decode


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Make 40 JPEGs, enough for processes here, in chunks of a few."""
    monkeypatch.setattr(decoding, "FEW", 10)
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 7 * 3 * 16 * 16)
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.jpg" for i in range(40)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file, quality=60)
    return files


def test_pixels_are_pillows_to_the_bit(photos: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    pixels, remarks = decode(photos, 16, lambda done, total: seen.append((done, total)))
    for picture, file in zip(pixels, photos, strict=True):
        with Image.open(file) as image:
            assert np.array_equal(picture.transpose(1, 2, 0), np.asarray(image.convert("RGB")))
    assert not remarks
    assert seen[-1] == (40, 40)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_folder_is_listed_and_read_by_hand_as_a_run_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for part, label in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        folder = tmp_path / part / label
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20, 18, 3), np.uint8)).save(folder / "1.png")
    train, test, _ = list_folders(tmp_path)
    read = load_dataset("imagefolder", root=tmp_path, image_size=16)
    for listed, images in ((train, read.train_images), (test, read.test_images)):
        assert np.array_equal(read_pictures(listed.files, 16).numpy(), images)


def test_a_damaged_one_among_many_is_named(photos: list[Path]) -> None:
    photos[23].write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"23\.jpg: damaged image"):
        decode(photos, 16)


def test_a_decoder_that_dies_says_among_which_files(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "module_command", lambda module: ["false"])
    # Which of them is told first depends on the machine: all have died.
    with pytest.raises(UserError, match=r"\d\.jpg to .*\d\.jpg: the process that decodes these images died"):
        decode(photos, 16)
