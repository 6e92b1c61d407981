"""Reading real file formats, written here in miniature; missing and damaged files; statistics."""

import gzip
import hashlib
import pickle
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from fedfmd.data.augment import Augment
from fedfmd.data.datasets import load_dataset, read_cifar, read_dataset
from fedfmd.data.fetching import fetch
from fedfmd.data.idx import DEBIAN_FOLDER, FILES, find_fashion_mnist, read_idx
from fedfmd.data.requests import DataRequest
from fedfmd.data.statistics import channel_statistics
from fedfmd.errors import UserError
from fedfmd.nn.networks import build_model

RNG = np.random.default_rng(0)


# Statistics and choices


def test_statistics_are_those_of_all_pixels_by_channel() -> None:
    images = RNG.integers(0, 256, (70, 3, 9, 11), dtype=np.uint8)
    mean, std = channel_statistics(images)
    scaled = images / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_has_unit_deviation() -> None:
    mean, std = channel_statistics(np.full((3, 1, 4, 4), 51, dtype=np.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_subset_keeps_statistics_and_test_pictures() -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=50, test_samples=10)
    part = dataset.subset(np.array([4, 2]))
    assert np.array_equal(part.train_images, dataset.train_images[[4, 2]])
    assert np.array_equal(part.train_labels, dataset.train_labels[[4, 2]])
    assert part.test_images is dataset.test_images
    assert part.mean == dataset.mean


def test_a_set_keeps_the_fingerprint_that_runs_have_kept() -> None:
    """What version 0.1 wrote of these images, as tensors of PyTorch; another one would end their runs."""
    dataset = load_dataset("embedded", root=Path(), train_samples=50, test_samples=20, seed=1)
    assert dataset.fingerprint == "de53953dd84f8f3fb9ad409be96d0cd1b3e569dcb6f5add53429300dcf97b8a4"


def test_embedded_has_shapes_and_names() -> None:
    dataset = load_dataset("embedded", root=Path(), train_samples=200, test_samples=100, classes=100)
    assert (dataset.num_classes, dataset.in_channels, dataset.input_size) == (100, 3, (32, 32))
    assert len(dataset.test_labels) == 100
    other = load_dataset("embedded", root=Path(), train_samples=200, test_samples=100, classes=100, seed=1)
    assert not np.array_equal(dataset.train_images, other.train_images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "data.name = 'mnist': is not known; allowed: .*'embedded'"),
        ({"name": "embedded", "classes": 20}, "data.classes = 20: the embedded set has 10 or 100"),
        ({"name": "embedded", "train_samples": 0}, "data.train_samples = 0: must be at least 1"),
        ({"name": "cifar10", "image_size": 64}, "data.image_size = 64: cifar10 allows only 32"),
        ({"name": "fashion-mnist", "image_size": 30}, "fashion-mnist allows only 32 or 28"),
        ({"name": "imagefolder"}, "data.image_size = None: imagefolder needs"),
    ],
)
def test_impossible_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(**{"root": Path(), **arguments})  # type: ignore[arg-type]


# CIFAR


def _write_pickle(path: Path, content: dict[str, object]) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


def _cifar_batch(count: int, labels_key: str, classes: int) -> dict[str, object]:
    data = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, labels_key: (np.arange(count) % classes).tolist()}


def _tiny_cifar10(root: Path) -> type[CIFAR10]:
    """Write CIFAR-10's files with a few pictures; give torchvision's class with their checksums."""
    folder = root / CIFAR10.base_folder
    train = [_write_pickle(folder / name, _cifar_batch(20, "labels", 10)) for name, _ in CIFAR10.train_list]
    test = [_write_pickle(folder / "test_batch", _cifar_batch(10, "labels", 10))]
    names = [f"class {i}" for i in range(10)]
    meta = _write_pickle(folder / "batches.meta", {"label_names": names})
    about = {**CIFAR10.meta, "md5": meta[1]}
    return type("TinyCIFAR10", (CIFAR10,), {"train_list": train, "test_list": test, "meta": about})


def _tiny_cifar100(root: Path) -> type[CIFAR10]:
    folder = root / CIFAR100.base_folder
    train = [_write_pickle(folder / "train", _cifar_batch(200, "fine_labels", 100))]
    test = [_write_pickle(folder / "test", _cifar_batch(100, "fine_labels", 100))]
    meta = _write_pickle(folder / "meta", {"fine_label_names": [f"fine {i}" for i in range(100)]})
    about = {**CIFAR100.meta, "md5": meta[1]}
    return type("TinyCIFAR100", (CIFAR100,), {"train_list": train, "test_list": test, "meta": about})


def test_cifar10_reads_torchvisions_files(tmp_path: Path) -> None:
    source = _tiny_cifar10(tmp_path)
    dataset = read_cifar(DataRequest(name="cifar10", root=tmp_path), source)
    assert dataset.train_images.shape == (100, 3, 32, 32)
    assert dataset.train_images.flags.c_contiguous
    assert dataset.classes[3] == "class 3"
    first = pickle.loads((tmp_path / CIFAR10.base_folder / "data_batch_1").read_bytes())
    assert np.array_equal(dataset.train_images[7].flatten(), first["data"][7])
    assert dataset.train_labels[:20].tolist() == first["labels"]
    assert len(dataset.test_labels) == 10


def test_cifar100_reads_fine_labels(tmp_path: Path) -> None:
    source = _tiny_cifar100(tmp_path)
    dataset = read_cifar(DataRequest(name="cifar100", root=tmp_path, train_samples=60), source)
    assert dataset.num_classes == 100
    assert dataset.classes[99] == "fine 99"
    assert len(dataset.train_labels) == 60
    again = read_cifar(DataRequest(name="cifar100", root=tmp_path, train_samples=60), source)
    other = read_cifar(DataRequest(name="cifar100", root=tmp_path, train_samples=60, seed=1), source)
    assert np.array_equal(dataset.train_images, again.train_images)
    assert not np.array_equal(dataset.train_images, other.train_images)


def test_more_samples_than_there_are_is_refused(tmp_path: Path) -> None:
    source = _tiny_cifar10(tmp_path)
    with pytest.raises(UserError, match=r"data\.test_samples = 11: cifar10 has 10"):
        read_cifar(DataRequest(name="cifar10", root=tmp_path, test_samples=11), source)


def test_a_changed_byte_in_a_cifar_file_is_found_and_the_file_named(tmp_path: Path) -> None:
    source = _tiny_cifar10(tmp_path)
    path = tmp_path / CIFAR10.base_folder / "data_batch_4"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: damaged .MD5"):
        read_cifar(DataRequest(name="cifar10", root=tmp_path), source)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    _tiny_cifar10(tmp_path)
    with pytest.raises(
        UserError, match=r"data_batch_1: damaged .MD5 is not c99cafc152244af753f735de768cd75f"
    ):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_says_what_to_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run: fedfmd data fetch {name} --root {tmp_path}") as caught:
        load_dataset(name, root=tmp_path)
    assert str(tmp_path / "cifar-10") in str(caught.value)


# Fashion-MNIST


def _idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(">HBB", 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def _write_fashion(folder: Path, *, zipped: bool, train: int = 30, test: int = 10) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    values = {}
    for name in FILES:
        count = train if name.startswith("train") else test
        labels = (np.arange(count) % 10).astype(np.uint8)
        values[name] = labels if "labels" in name else RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        content = _idx(values[name])
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return values


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "."])
def test_fashion_mnist_is_read_zipped_or_not(place: str, zipped: bool, tmp_path: Path) -> None:
    values = _write_fashion(tmp_path / place, zipped=zipped)
    dataset = load_dataset("fashion-mnist", root=tmp_path)
    assert dataset.train_images.shape == (30, 1, 28, 28)
    assert dataset.input_shape == (3, 32, 32)
    assert np.array_equal(dataset.test_images[:, 0], values["t10k-images-idx3-ubyte"])
    assert np.array_equal(dataset.train_labels, values["train-labels-idx1-ubyte"])
    assert dataset.classes[9] == "Ankle boot"
    assert len(dataset.mean) == 1


def test_fashion_mnist_can_be_seen_as_it_is_stored(tmp_path: Path) -> None:
    """What NIID-Bench's network of 44,426 parameters gets."""
    _write_fashion(tmp_path, zipped=True)
    dataset = load_dataset("fashion-mnist", root=tmp_path, image_size=28)
    assert dataset.input_shape == (1, 28, 28)
    seen = Augment.for_dataset(dataset, enabled=False).eval_batch(torch.from_numpy(dataset.test_images))
    expected = (torch.from_numpy(dataset.test_images) / 255 - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(seen, expected)
    model = build_model("cnn", num_classes=10, in_channels=1, image_size=28)
    assert sum(p.numel() for p in model.parameters()) == 44_426
    assert model(seen).shape == (10, 10)


def test_fashion_mnist_is_looked_for_in_the_system_folder_last(tmp_path: Path) -> None:
    _write_fashion(tmp_path / "system", zipped=True)
    train, _ = find_fashion_mnist(tmp_path / "root", tmp_path / "system")
    assert train[0] == tmp_path / "system" / "train-images-idx3-ubyte.gz"
    _write_fashion(tmp_path / "root", zipped=False)
    train, _ = find_fashion_mnist(tmp_path / "root", tmp_path / "system")
    assert train[0] == tmp_path / "root" / "train-images-idx3-ubyte"


def test_missing_fashion_mnist_says_where_it_looked_and_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run: fedfmd data fetch fashion-mnist --root {tmp_path}") as caught:
        find_fashion_mnist(tmp_path, tmp_path / "system")
    for folder in (tmp_path / "FashionMNIST/raw", tmp_path / "system"):
        assert str(folder) in str(caught.value)


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    _write_fashion(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    short = gzip.compress(gzip.decompress(good)[:-5])
    labels_for_pictures = (tmp_path / "train-labels-idx1-ubyte.gz").read_bytes()
    for content in (good[:-20], bytes(flipped), short, b"", b"<html>404</html>", labels_for_pictures):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: damaged"):
            load_dataset("fashion-mnist", root=tmp_path)


def test_no_more_of_an_idx_file_is_unpacked_than_its_header_declares(tmp_path: Path) -> None:
    declared, bomb = _idx(np.zeros((30, 28, 28), dtype=np.uint8)), bytes(32_000_000)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(declared + bomb, 1))
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{path}: damaged: declares 23,520 values and holds more; remove it"):
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(bomb) / 8


@pytest.mark.parametrize("shape", [(0, 28, 28), (2**31, 28, 28)])
def test_an_idx_file_that_declares_nothing_or_too_much_is_refused(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, *shape) + bytes(1000))
    with pytest.raises(UserError, match=r"damaged: declares [0-9,]+ values, allowed are 1 to 100,000,000"):
        read_idx(path, 3)


def test_images_of_another_size_are_not_fashion_mnist(tmp_path: Path) -> None:
    _write_fashion(tmp_path, zipped=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(_idx(np.zeros((10, 32, 32), dtype=np.uint8)))
    with pytest.raises(UserError, match=f"{path}: damaged: images of 32 x 32, allowed is 28 x 28"):
        load_dataset("fashion-mnist", root=tmp_path)


def test_labels_must_fit_pictures_and_classes(tmp_path: Path) -> None:
    _write_fashion(tmp_path, zipped=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    for labels, message in (
        (np.zeros(29), "29 labels for 30 images"),
        (np.full(30, 10), "label 10, allowed"),
    ):
        path.write_bytes(_idx(labels.astype(np.uint8)))
        with pytest.raises(UserError, match=f"{path}: damaged: {message}"):
            load_dataset("fashion-mnist", root=tmp_path)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_real_one() -> None:
    dataset = load_dataset("fashion-mnist", root=Path("does-not-exist"))
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.mean == pytest.approx((0.2860,), abs=1e-4)
    assert dataset.std == pytest.approx((0.3530,), abs=1e-4)


def test_idx_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(_idx(np.zeros((2, 3), dtype=np.uint8)))
    assert read_idx(path, 2).shape == (2, 3)
    with pytest.raises(UserError, match="3 dimensions"):
        read_idx(path, 3)


# Folders


def _write_folders(root: Path, sizes: tuple[tuple[int, int], ...] = ((40, 40), (60, 30), (33, 80))) -> None:
    for part in ("train", "val"):
        for name, colour in (("blue", (0, 0, 250)), ("red", (250, 0, 0))):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number, size in enumerate(sizes):
                Image.new("RGB", size, colour).save(folder / f"{number}.{'png' if number else 'jpg'}")


def test_folders_are_decoded_resized_and_labelled_by_name(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    (tmp_path / "train" / "red" / "notes.txt").write_text("not a picture")
    seen: list[tuple[int, int]] = []
    request = DataRequest(name="imagefolder", root=tmp_path, image_size=16)
    dataset = read_dataset(request, lambda done, total: seen.append((done, total)))
    assert dataset.classes == ("blue", "red")
    assert dataset.train_images.shape == (6, 3, 16, 16)
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.input_shape == (3, 16, 16)
    red = dataset.train_images[dataset.train_labels == 1].mean((0, 2, 3))
    assert red[0] > 240
    assert red[1:].max() < 10
    assert seen == [(6, 12), (12, 12)]  # the training images in one go, then the test images


def test_the_shorter_edge_is_resized_and_the_centre_kept(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    picture = np.zeros((20, 60, 3), dtype=np.uint8)
    picture[:, 20:40] = 255
    Image.fromarray(picture).save(tmp_path / "train" / "blue" / "0.png")
    (tmp_path / "train" / "blue" / "0.jpg").unlink()
    dataset = load_dataset("imagefolder", root=tmp_path, image_size=10)
    assert dataset.train_images[0, :, :, 1:9].min() == 255


def test_a_choice_decodes_only_what_it_keeps(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    everything = load_dataset("imagefolder", root=tmp_path, image_size=16)
    seen: list[int] = []
    request = DataRequest(name="imagefolder", root=tmp_path, image_size=16, train_samples=3, test_samples=1)
    chosen = read_dataset(request, lambda done, total: seen.append(total))
    assert set(seen) == {4}
    assert len(chosen.train_labels) == 3
    assert len(everything.train_labels) == 6


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    for content in (b"not a jpeg", (tmp_path / "train/red/0.jpg").read_bytes()[:300]):
        path = tmp_path / "train" / "red" / "0.jpg"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: damaged image"):
            load_dataset("imagefolder", root=tmp_path, image_size=16)


def test_missing_empty_and_unknown_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/train is missing"):
        load_dataset("imagefolder", root=tmp_path, image_size=16)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/train holds no class folders"):
        load_dataset("imagefolder", root=tmp_path, image_size=16)
    for part in ("train", "val"):
        _write_folders(tmp_path / "one level off" / part / "all")
    with pytest.raises(
        UserError, match=r"level off/train: holds one class, 'all', and .* two or more classes"
    ):
        load_dataset("imagefolder", root=tmp_path / "one level off", image_size=16)
    _write_folders(tmp_path / "ok")
    (tmp_path / "ok/val/green").mkdir()
    with pytest.raises(UserError, match=r"val/green: .*/train has no such class"):
        load_dataset("imagefolder", root=tmp_path / "ok", image_size=16)
    (tmp_path / "ok/val").rename(tmp_path / "ok/test")
    with pytest.raises(UserError, match=r"ok/val is missing; is it .*/ok/test\? rename that, or link it"):
        load_dataset("imagefolder", root=tmp_path / "ok", image_size=16)


# Fetching


def test_fetch_of_the_embedded_set_has_nothing_to_do(tmp_path: Path) -> None:
    fetch("embedded", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fetch_of_folders_says_where_pictures_belong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"put images in {tmp_path}/train/CLASS"):
        fetch("imagefolder", tmp_path)


def test_fetch_without_a_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("cifar10", "fashion-mnist"):
        with pytest.raises(UserError, match=f"{name}: cannot be fetched into {tmp_path}") as caught:
            fetch(name, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
    ],
)
def test_an_archive_that_is_not_the_published_one_is_not_unpacked(
    name: str, place: str, tmp_path: Path
) -> None:
    root = tmp_path / "inner" / "data"
    archive = root / place
    archive.parent.mkdir(parents=True)
    for member in ("../../escaped", "cifar-10-batches-py/data_batch_1"):
        with tarfile.open(archive, "w:gz") as file:
            file.addfile(tarfile.TarInfo(member))
        with pytest.raises(UserError, match=f"{archive}: damaged .MD5 is not .*; remove it and fetch {name}"):
            fetch(name, root)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_what_was_unpacked_is_checked_when_it_is_fetched_again(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    _write_fashion(raw, zipped=False)
    fetch("fashion-mnist", tmp_path)
    path = raw / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path}: damaged: declares 7,840 values and holds 7,839"):
        fetch("fashion-mnist", tmp_path)


def test_fetch_into_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be made a folder: File exists; choose another"):
        fetch("cifar10", tmp_path / "file")
