"""The run directory: what was written is kept, what was cut off is cut back, nobody else writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import RunError, UserError
from fedfmd.files import write_atomic
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rows import ClientRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import SCHEMA_VERSION


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", ExperimentConfig(name="t"), {"python": "x"})


def rows(run: RunDirectory, name: str) -> list[dict]:
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


def test_config_and_environment_are_there_from_the_start(run: RunDirectory) -> None:
    assert run.config == ExperimentConfig(name="t")
    assert json.loads((run.path / "environment.json").read_text()) == {
        "schema": SCHEMA_VERSION,
        "python": "x",
    }
    assert not run.finished()


def test_an_existing_folder_is_refused_and_untouched(run: RunDirectory) -> None:
    before = sorted(p.name for p in run.path.iterdir())
    with pytest.raises(UserError, match="exists already"):
        RunDirectory.create(run.path, ExperimentConfig(), {})
    assert sorted(p.name for p in run.path.iterdir()) == before


def test_a_run_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with RunDirectory.making(tmp_path / "run", ExperimentConfig(), {}) as making:
        assert not (tmp_path / "run").exists()
        making.write_json("partition.json", {})
    assert (tmp_path / "run" / "partition.json").exists()
    with (
        pytest.raises(UserError, match="No space left"),
        RunDirectory.making(tmp_path / "b", ExperimentConfig(), {}),
    ):
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_starts_at_once_get_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ExperimentConfig(name="t")
    with RunDirectory.making(None, config, {}) as one, RunDirectory.making(None, config, {}) as other:
        pass
    assert {one.path, other.path} == {Path("runs/t"), Path("runs/t-2")}
    with pytest.raises(UserError, match="runs/t: exists already"):
        RunDirectory.create(Path("runs/t"), config, {})


def test_what_a_killed_start_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rows import ClientRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import SCHEMA_VERSION
with RunDirectory.making(Path({str(tmp_path / "other")!r}), ExperimentConfig(), {{}}):
    print("made", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        RunDirectory.create(tmp_path / "first", ExperimentConfig(), {})
        assert len(list(tmp_path.glob(".other.*.fedfmd-new"))) == 1
        process.kill()
        process.wait()
    RunDirectory.create(tmp_path / "second", ExperimentConfig(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_leftovers_of_killed_writers_are_removed_when_the_run_goes_on(run: RunDirectory) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run.checkpoints.folder.mkdir()
    left = run.checkpoints.folder / f".checkpoint.safetensors.{dead.pid}.tmp"
    living = run.path / f".report.html.{os.getppid()}.tmp"
    for path in (left, living):
        path.write_text("half")
    run.recover()
    run.unlock()
    assert not left.exists()
    assert living.exists()


def test_an_impossible_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        RunDirectory.create(tmp_path / "file" / "run", ExperimentConfig(), {})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        RunDirectory.open(tmp_path)


def test_a_checkpoint_comes_back_as_it_was(run: RunDirectory) -> None:
    state, moment = torch.randn(10), torch.randn(10, dtype=torch.float64)
    run.append_round({"round": 0}, [])
    run.save_checkpoint(
        Checkpoint(round=3, state=state, optimizer={"velocity": moment}, cumulative={"macs": 2**60})
    )
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.round, checkpoint.cumulative) == (3, {"macs": 2**60})
    assert torch.equal(checkpoint.state, state)
    assert torch.equal(checkpoint.optimizer["velocity"], moment)


def test_rewinding_drops_what_came_after_the_checkpoint(run: RunDirectory) -> None:
    run.append_round({"round": 1}, [{"round": 1, "client": 1}, {"round": 1, "client": 2}])
    run.save_checkpoint(Checkpoint(round=1, state=torch.zeros(1), optimizer={}))
    run.append_round({"round": 2}, [{"round": 2, "client": 3}])
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "to')
    assert [row["round"] for row in run.rounds()] == [1, 2]
    run.ledgers.cut(run.load_checkpoint().ledger_bytes)
    assert rows(run, "rounds.jsonl") == [{"round": 1}]
    assert rows(run, "clients.jsonl") == [{"round": 1, "client": 1}, {"round": 1, "client": 2}]


def test_rewinding_without_a_checkpoint_starts_over(run: RunDirectory) -> None:
    run.append_round({"round": 0}, [])
    run.ledgers.cut({})
    assert run.rounds() == []


def test_missing_rows_are_noticed(run: RunDirectory) -> None:
    run.append_round({"round": 1}, [])
    run.save_checkpoint(Checkpoint(round=1, state=torch.zeros(1), optimizer={}))
    os.truncate(run.path / "rounds.jsonl", 3)
    with pytest.raises(UserError, match="rows are missing"):
        run.ledgers.cut(run.load_checkpoint().ledger_bytes)


@pytest.mark.parametrize("name", ["rounds.jsonl", "clients.jsonl"])
def test_changed_rows_are_noticed(run: RunDirectory, name: str) -> None:
    run.append_round({"round": 1, "macs": 5}, [{"round": 1, "client": 1, "macs": 5}])
    run.save_checkpoint(Checkpoint(round=1, state=torch.zeros(1), optimizer={}))
    run.append_round({"round": 2, "macs": 5}, [{"round": 2, "client": 1, "macs": 5}])
    run.flush()
    assert RunDirectory.open(run.path).load_checkpoint() is not None
    file = run.path / name
    file.write_text(file.read_text().replace('"macs":5', '"macs":6', 1))
    with pytest.raises(UserError, match=rf"{name}: rows were changed since the checkpoint of round 1: "):
        RunDirectory.open(run.path).load_checkpoint()


def test_rows_that_were_changed_are_not_cut_off(run: RunDirectory) -> None:
    """A checkpoint before the change would serve; but the rows behind it can be brought back."""
    for round in (1, 2):
        run.append_round({"round": round, "macs": round}, [])
        run.save_checkpoint(Checkpoint(round=round, state=torch.zeros(1), optimizer={}))
    run.unlock()
    file, good = run.path / "rounds.jsonl", (run.path / "rounds.jsonl").read_text()
    file.write_text(good.replace('"macs":2', '"macs":3'))
    with pytest.raises(UserError, match="rows were changed"):
        RunDirectory.open(run.path).recover()
    file.write_text(good)
    checkpoint = RunDirectory.open(run.path).recover()
    assert checkpoint is not None
    assert checkpoint.round == 2


def test_a_checkpoint_of_an_older_version_has_no_checksums_and_serves(run: RunDirectory) -> None:
    run.append_round({"round": 1}, [])
    checkpoint = Checkpoint(
        round=1,
        state=torch.zeros(1),
        optimizer={},
        cumulative={},
        state_rounds={},
        memory={},
        ledger_bytes={name: mark.length for name, mark in run.ledgers.marks().items()},
    )
    run.checkpoints.save(checkpoint)
    assert run.load_checkpoint() is not None


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rounds.jsonl", '{"round": 0}\n{"round": 2}\n'),
        ("rounds.jsonl", '{"round": 1}\n{"round": 1}\n'),
        ("clients.jsonl", '{"round": 2, "client": 1}\n{"round": 1, "client": 1}\n'),
    ],
)
def test_rows_in_another_order_are_no_ledger(run: RunDirectory, name: str, lines: str) -> None:
    (run.path / name).write_text(lines)
    with pytest.raises(UserError, match=rf"{name}: line 2: damaged: round \d stands behind round \d; put"):
        run.ledgers.read(name, RoundRow if name == "rounds.jsonl" else ClientRow)


def test_a_damaged_checkpoint_is_a_clear_error(run: RunDirectory) -> None:
    run.save_checkpoint(Checkpoint(round=1, state=torch.zeros(1), optimizer={}))
    run.flush()
    run.checkpoints.last.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged checkpoint"):
        run.load_checkpoint()


def test_a_run_of_a_newer_version_is_left_to_it(run: RunDirectory) -> None:
    run.write_json("environment.json", {"schema": SCHEMA_VERSION + 1})
    with pytest.raises(UserError, match=r"environment\.json: schema 2: a newer fedfmd wrote this run"):
        run.recover()


@pytest.mark.parametrize("line", ["{", "[]", '{"round": -1}', '{"round": 1, "macs": "many"}', "[" * 10**5])
def test_a_damaged_ledger_is_refused_by_its_line(run: RunDirectory, line: str) -> None:
    (run.path / "rounds.jsonl").write_text(f'{{"round": 0}}\n{line}\n{{"rou')
    with pytest.raises(UserError, match=r"rounds\.jsonl: line 2: damaged: .*sound copy") as error:
        run.rounds()
    assert "\n" not in str(error.value)


def test_a_note_that_a_kill_tore_is_gone_with_the_next_one(run: RunDirectory) -> None:
    run.note("config", 1, "first")
    with (run.path / "notes.jsonl").open("a") as file:
        file.write('{"round": 2, "ki')
    run.note("config", 3, "second")
    run.note("config", 3, "second")
    assert [note.note for note in run.notes()] == ["first", "second"]


@pytest.mark.parametrize("content", ["[]", "{", '{"status": 3}', '{"status": "finished"}', "\xff"])
def test_a_damaged_summary_is_no_end(run: RunDirectory, content: str) -> None:
    (run.path / "summary.json").write_text(content, encoding="latin-1")
    assert not run.finished()


def test_not_a_number_is_never_written(run: RunDirectory) -> None:
    run.append_round({"round": 1, "test_loss": float("nan")}, [])
    assert (run.path / "rounds.jsonl").read_text().splitlines()[-1] == '{"round":1,"test_loss":null}'


def test_a_row_that_could_not_be_read_is_not_written(run: RunDirectory) -> None:
    with pytest.raises(
        RunError, match=r"rounds\.jsonl: a row cannot be kept: temperature_kernel: must be less"
    ):
        run.append_round({"round": 1, "temperature_kernel": 1e300}, [])
    assert run.rounds() == []


def test_only_one_process_writes(run: RunDirectory) -> None:
    code = f"""
from pathlib import Path
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rows import ClientRow, RoundRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import SCHEMA_VERSION
import time
run = RunDirectory.open(Path({str(run.path)!r}))
run.lock()
"""
    holder = f"{code}\nprint('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process"):
            run.lock()
        process.kill()
        process.wait()
    run.lock()
    run.unlock()


def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """kill -9 while a process replaces a file over and over: the file is always whole."""
    path = tmp_path / "f"
    code = f"""
from pathlib import Path
from fedfmd.files import write_atomic
n = 0
while True:
    write_atomic(Path({str(path)!r}), str(n % 10) * 300_000)
    n += 1
    if n == 5: print('going', flush=True)
"""
    for delay in (0.0, 0.005, 0.011, 0.017):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"going\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    """A run may be made anywhere, and beside it is what a person hides there."""
    mine = tmp_path / ".config.new"
    mine.mkdir()
    (mine / "kept").write_text("")
    os.utime(mine, (0, 0))
    RunDirectory.create(tmp_path / "run", ExperimentConfig(), {})
    assert (mine / "kept").exists()
