"""Runs are copied out of a server until their end is there, and never over another run."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedfmd.deployment.results import copy_runs
from fedfmd.errors import UserError


def write(folder: Path, seconds: float, rounds: int, status: str | None) -> Path:
    """Make a run whose first round took so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text("")
    rows = [{"round": number, "host_seconds": seconds * number} for number in range(rounds + 1)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status:
        (folder / "summary.json").write_text(json.dumps({"status": status, "seconds": seconds * rounds}))
    return folder


def test_a_run_is_copied_until_its_end_is_there(tmp_path: Path) -> None:
    there, into = tmp_path / "server", tmp_path / "runs"
    into.mkdir()
    write(there / "a", 1.5, 2, None)
    assert copy_runs(there, into) == [into / "a"]
    write(there / "a", 1.5, 3, "stopped")
    assert copy_runs(there, into) == [into / "a"]
    assert copy_runs(there, into) == []
    (into / "a" / "report.html").write_text("of the run that stopped")
    (into / "a" / "mine.txt").write_text("kept")
    (there / "a" / "summary.json").unlink()  # it goes on
    write(there / "a", 1.5, 4, None)
    assert copy_runs(there, into) == [into / "a"]
    assert sorted(path.name for path in (into / "a").iterdir()) == ["config.toml", "mine.txt", "rounds.jsonl"]
    write(there / "a", 1.5, 5, "finished")
    assert copy_runs(there, into) == [into / "a"]
    assert json.loads((into / "a" / "summary.json").read_text())["status"] == "finished"


@contextmanager
def room_for_files_of(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a full disk."""
    before, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


def test_a_copy_that_broke_off_is_made_again(tmp_path: Path) -> None:
    """Its end is not there before all the rest is, and a ledger cut in its first rows is no other run's."""
    there, into = tmp_path / "server", tmp_path / "runs"
    run = write(there / "a", 1.5, 200, "finished")
    into.mkdir()
    for most in (10, 50, 1000):
        with (
            room_for_files_of(most),
            pytest.raises(UserError, match=r"--out .*: a cannot be copied: File too large"),
        ):
            copy_runs(there, into)
        assert not (into / "a" / "summary.json").exists()
    assert copy_runs(there, into) == [into / "a"]
    assert {path.name: path.read_bytes() for path in (into / "a").iterdir()} == {
        path.name: path.read_bytes() for path in run.iterdir()
    }
    assert copy_runs(there, into) == []


def test_another_run_of_the_name_is_left_alone(tmp_path: Path) -> None:
    """Every deployment calls its run ``run`` unless told otherwise."""
    there, into = tmp_path / "server", tmp_path / "runs"
    write(there / "run", 1.5, 3, "finished")
    write(there / "also", 1.5, 1, "finished")
    mine = write(into / "run", 1.25, 3, None)
    before = (mine / "rounds.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"--out .*runs: .*run is another run of that name"):
        copy_runs(there, into)
    assert [path.name for path in into.iterdir()] == ["run"]
    assert (mine / "rounds.jsonl").read_bytes() == before
