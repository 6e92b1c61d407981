"""Shared memory between processes: what one writes another reads, and nothing stays behind."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedfmd.workers import exchange
from fedfmd.workers.exchange import Exchange, Place

pytestmark = pytest.mark.skipif(not exchange.SHARED_MEMORY.exists(), reason="no shared memory here")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(exchange, "SHARED_MEMORY", tmp_path)
    return tmp_path


def test_another_process_reads_the_vector_and_writes_the_sum() -> None:
    shared = Exchange.create(1000, [7])
    assert shared is not None
    shared.write(torch.arange(1000.0))
    place = shared.place(7)
    code = f"""
from fedfmd.workers.exchange import Place
place = Place({place.vector!r}, {place.sum!r}, {place.elements})
vector = place.open_vector()
place.open_sum().copy_(vector.double() * 2)
vector.zero_()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert torch.equal(place.open_sum(), 2 * torch.arange(1000, dtype=torch.float64))
    assert torch.equal(place.open_vector(), torch.arange(1000.0))  # a worker's vector is its own


def test_the_server_sees_what_every_order_leaves() -> None:
    shared = Exchange.create(1000, [7, 8])
    assert shared is not None
    for round in range(3):
        shared.write(torch.full((1000,), float(round)))
        for node in (7, 8):
            place = shared.place(node)
            place.open_sum().copy_(place.open_vector() + node)
        assert [shared.sum(node)[-1] for node in (7, 8)] == [round + 7, round + 8]


def test_it_is_given_back(folder: Path) -> None:
    shared = Exchange.create(10, [1])
    assert shared is not None
    shared.write(torch.zeros(10))
    assert shared.sum(1).sum() == 0
    assert len(list(folder.iterdir())) == 1
    assert str(folder) in Path("/proc/self/maps").read_text()
    shared.close()
    assert not list(folder.iterdir())
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_too_little_memory_is_noticed_before_it_is_used(folder: Path) -> None:
    assert Exchange.create(1 << 58, [1]) is None
    assert not list(folder.iterdir())


def test_a_place_crosses_as_plain_data() -> None:
    place = Place("vector", "sum", 3)
    assert Place(**vars(place)) == place
