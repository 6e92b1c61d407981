"""Sealed files: what was written comes back, and any damage is noticed."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fedfmd.sealed import DamagedFileError
from fedfmd.tensors import read_tensors, write_tensors

TENSORS = {
    "state": torch.arange(7.0),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "half": torch.ones(2, 2, dtype=torch.bfloat16),
}
ABOUT = {"mean": [0.25, 0.5], "round": 3}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "file"
    write_tensors(path, TENSORS, ABOUT, "kind-1")
    return path.read_bytes()


def test_it_comes_back_as_it_was_and_any_reader_of_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, TENSORS, ABOUT, "kind-1")
    tensors, about = read_tensors(path, "kind-1")
    assert about == ABOUT
    for read in (tensors, load_file(path)):
        assert read.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_equal_contents_are_equal_bytes(content: bytes, tmp_path: Path) -> None:
    write_tensors(tmp_path / "again", dict(reversed(TENSORS.items())), ABOUT, "kind-1")
    assert (tmp_path / "again").read_bytes() == content


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed_or_changes_nothing(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    """A bit of padding, or the case of a digit in the header's numbers, may change nothing that is read."""
    damaged = bytearray(content)
    damaged[place % len(content)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(damaged)
    try:
        tensors, about = read_tensors(path, "kind-1")
    except DamagedFileError:
        return
    assert about == ABOUT
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_damaged(content: bytes, tmp_path: Path, length: int) -> None:
    (tmp_path / "cut").write_bytes(content[:length])
    with pytest.raises(DamagedFileError):
        read_tensors(tmp_path / "cut", "kind-1")


def test_another_kind_of_file_is_named_and_a_missing_one_is_missing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"'kind-1', not 'kind-2'"):
        read_tensors(tmp_path / "file", "kind-2")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent", "kind-1")


def test_a_pipe_is_no_sealed_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFileError, match=r"^is no regular file$"):
        read_tensors(tmp_path / "pipe", "kind")
    with pytest.raises(DamagedFileError, match=r"^is a folder$"):
        read_tensors(tmp_path, "kind")
