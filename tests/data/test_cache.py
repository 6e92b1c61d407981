"""Prepared datasets: equal to what was loaded, made once, shared, and rebuilt when damaged."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from powerless import powerless
from safetensors.torch import save_file

from fedfmd.data import cache as cache_module
from fedfmd.data.cache import cache_folder, prepare
from fedfmd.data.datasets import load_dataset
from fedfmd.data.idx import FILES
from fedfmd.data.prepared import open_prepared, save_dataset
from fedfmd.data.requests import DataRequest
from fedfmd.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _prepare(seed: int = 0, **options: Any) -> Path:
    return prepare(
        DataRequest(
            name="embedded", root=Path("data"), train_samples=200, test_samples=50, seed=seed, **options
        )
    )


ROOT = Path(__file__).parents[2]


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_an_opened_file_equals_the_loaded_dataset() -> None:
    opened = open_prepared(_prepare())
    loaded = load_dataset("embedded", root=Path(), train_samples=200, test_samples=50)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(opened, name), getattr(loaded, name))
        assert getattr(opened, name).dtype == getattr(loaded, name).dtype
    for name in ("name", "classes", "mean", "std", "input_shape"):
        assert getattr(opened, name) == getattr(loaded, name)


def test_the_second_time_nothing_is_written() -> None:
    first = _prepare()
    before = first.stat()
    assert _prepare() == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with the number of a user whom it does not know."""
    for name in ("FEDFMD_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises(UserError, match="no such home folder; set FEDFMD_CACHE to a folder"):
        cache_folder()


def test_a_home_folder_that_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.root = '~nobody-of-that-name/x': there is no such home"):
        prepare(DataRequest(name="imagefolder", root=Path("~nobody-of-that-name/x"), image_size=16))


CLOSED = """
from pathlib import Path
from fedfmd.data.cache import prepare
from fedfmd.data.requests import DataRequest
prepare(DataRequest(name="fashion-mnist", root=Path({root!r})))
"""


def test_files_that_cannot_be_read_are_no_fault_of_the_cache(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).touch(mode=0)
    code = CLOSED.format(root=str(tmp_path))
    done = subprocess.run([*powerless(), sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith(f"UserError: {raw / FILES[0]}: cannot be read: Permission denied\n")


def test_other_arguments_make_another_file() -> None:
    assert len({_prepare(), _prepare(seed=1), _prepare(classes=100)}) == 3


def test_a_changed_source_file_makes_another_file(tmp_path: Path) -> None:
    from PIL import Image

    for folder in ("train/a", "train/b", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / folder / "0.png")
    first = prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16))
    assert prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16)) == first
    Image.new("RGB", (20, 20), (200, 9, 9)).save(tmp_path / "train" / "a" / "0.png")
    os.utime(tmp_path / "train" / "a" / "0.png", (1, 1))
    second = prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16))
    assert second != first
    assert open_prepared(second).train_images[0, 0, 0, 0] == 200


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b"",
        lambda b: b"\xff" * 100,
        lambda b: b[:-5000] + bytes([b[-5000] ^ 1]) + b[-4999:],
    ],
    ids=["cut", "empty", "noise", "one bit"],
)
def test_a_damaged_file_is_rebuilt(damage: Callable[[bytes], bytes]) -> None:
    path = _prepare()
    path.write_bytes(damage(path.read_bytes()))
    assert _prepare() == path
    loaded = load_dataset("embedded", root=Path(), train_samples=200, test_samples=50)
    opened = open_prepared(path)
    assert np.array_equal(opened.train_images, loaded.train_images)
    assert np.array_equal(opened.test_labels, loaded.test_labels)


def test_a_start_reads_the_images_folders_but_neither_images_nor_prepared_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to a file is seen by its name, size and time; a file that was checked is not read."""
    from PIL import Image

    for folder in ("train/a", "train/b", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / folder / "0.png")
    first = prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16))
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "is_sound", lambda path: pytest.fail(f"{path} is read again"))
        patch.setattr(cache_module, "_key", lambda request: pytest.fail("images are sorted again"))
        assert prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16)) == first
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "a" / "1.png")
    renamed = prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16))
    (tmp_path / "train" / "a" / "notes.txt").write_text("")
    assert prepare(DataRequest(name="imagefolder", root=tmp_path, image_size=16)) == renamed != first


def test_a_manifest_that_is_no_manifest_is_passed_over(cache: Path) -> None:
    path = _prepare()
    (manifest,) = cache.glob("*.json")
    for text in ("", "[]", "{}", '{"file": 3}', '{"file": "x", "checked": [], "sources": ""}'):
        manifest.write_text(text)
        assert _prepare() == path


def test_a_file_that_is_not_a_prepared_dataset_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, other)
    for path in (other, tmp_path / "absent"):
        with pytest.raises(UserError, match=str(path)):
            open_prepared(path)
    cut = tmp_path / "cut"
    cut.write_bytes(_prepare().read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{cut}: no prepared dataset, or a damaged one"):
        open_prepared(cut)


def test_two_processes_prepare_the_same_file_at_the_same_time(cache: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from fedfmd.data.cache import prepare
        from fedfmd.data.prepared import open_prepared
        from fedfmd.data.requests import DataRequest
        print("ready", flush=True)
        sys.stdin.readline()
        path = prepare(DataRequest(name="embedded", root=Path("data"), train_samples=4000, test_samples=500))
        print(path.stat().st_ino, int(open_prepared(path).train_images.sum()))
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    # One file, made once: both see the same inode, and no temporary file is left.
    assert len(answers) == 1
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".lock", ".safetensors"]


def test_opening_imports_neither_torchvision_nor_a_decoder_nor_flower() -> None:
    path = _prepare()
    heavy = ("torchvision", "PIL", "flwr", "flwr_datasets", "datasets", "ray", "matplotlib", "pyarrow")
    code = f"""
        import sys
        from pathlib import Path
        from fedfmd.data.augment import Augment
        from fedfmd.data.prepared import open_prepared
        Augment.for_dataset(open_prepared(Path({str(path)!r})))
        print([name for name in {heavy!r} if name in sys.modules])
    """
    assert _run(code) == "[]"


@pytest.mark.parametrize(
    "command",
    [
        [
            "inspect",
            str(ROOT / "configs" / "quickstart.toml"),
            "--set",
            "data.train_samples=400",
            "--set",
            "partition.clients=4",
        ],
        ["classes", "cat", "dog"],
    ],
    ids=["inspect", "classes"],
)
def test_who_only_looks_at_prepared_images_does_not_wait_for_pytorch(
    command: list[str], tmp_path: Path
) -> None:
    """It takes longer to import than everything else that these commands do."""
    code = f"""
        import runpy, sys
        sys.argv = ["fedfmd", "data", *{command!r}, "--out", {str(tmp_path / "out.png")!r}]
        try:
            runpy.run_module("fedfmd", run_name="__main__")
        except SystemExit as end:
            assert not end.code
        print("torch" in sys.modules)
    """
    _run(code)  # draws the images
    assert _run(code).splitlines()[-1] == "False"
    assert (tmp_path / "out.png").stat().st_size


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_an_opened_file_is_mapped_not_copied() -> None:
    path = prepare(DataRequest(name="embedded", root=Path("data"), train_samples=5000, test_samples=50))
    code = f"""
        import re
        from pathlib import Path
        from fedfmd.data.prepared import open_prepared
        dataset = open_prepared(Path({str(path)!r}))
        dataset.train_images.sum()
        maps = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
        of_file = [text for text in maps if {path.name!r} in text]
        amount = lambda key: sum(int(re.search(key + r":\\s+(\\d+)", text)[1]) for text in of_file)
        print(amount("Rss") > 14000, amount("Private_Dirty"))
    """
    assert _run(code) == "True 0"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FEDFMD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fedfmd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fedfmd"


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set FEDFMD_CACHE to another folder"):
        _prepare()


def test_the_embedded_set_is_one_file_wherever_the_command_runs(tmp_path: Path) -> None:
    first, second = (
        prepare(DataRequest(name="embedded", root=root, train_samples=20, test_samples=5))
        for root in (tmp_path, Path())
    )
    assert first == second


def test_cifar_with_a_file_missing_or_foreign_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not the published file")
    with pytest.raises(UserError, match=r"data_batch_2.*run: fedfmd data fetch cifar10"):
        prepare(DataRequest(name="cifar10", root=tmp_path))


def test_missing_data_is_told_before_anything_is_written(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fedfmd data fetch cifar10"):
        prepare(DataRequest(name="cifar10", root=tmp_path))
    assert not cache.exists()


def test_saving_replaces_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "set"
    for samples in (30, 20):
        save_dataset(load_dataset("embedded", root=Path(), train_samples=samples, test_samples=5), path)
        assert len(open_prepared(path).train_labels) == samples
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
