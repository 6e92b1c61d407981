"""Shared memory between processes: what one writes another reads, and nothing stays behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedfmd.flower import exchange
from fedfmd.flower.exchange import Exchange, Place, remove_exchange

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
from fedfmd.flower.exchange import Place
place = Place({place.vector!r}, {place.sum!r}, {place.elements})
vector = place.open_vector()
place.open_sum().copy_(vector.double() * 2)
vector.zero_()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert torch.equal(place.open_sum(), 2 * torch.arange(1000, dtype=torch.float64))
    assert torch.equal(place.open_vector(), torch.arange(1000.0))  # a worker's vector is its own


def test_what_a_killed_process_left_is_removed_and_what_lives_stays(folder: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = f"{exchange.PREFIX}-{os.getuid()}"
    for name in (f"{own}-{dead.pid}", f"{own}-1", "somebody-else"):
        (folder / name).mkdir()
    assert Exchange.create(10, [1]) is not None
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [f"{own}-1", f"{own}-{os.getpid()}", "somebody-else"]
    )
    remove_exchange(os.getpid())
    assert not (folder / f"{own}-{os.getpid()}").exists()


def test_too_little_memory_is_noticed_before_it_is_used(folder: Path) -> None:
    assert Exchange.create(1 << 58, [1]) is None
    assert not list(folder.iterdir())


def test_a_place_crosses_as_plain_data() -> None:
    place = Place("vector", "sum", 3)
    assert Place(**vars(place)) == place
