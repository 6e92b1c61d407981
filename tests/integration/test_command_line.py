"""Bad input at the command line: exit code 2, one clear line, no traceback, nothing written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import rows, run_inline, tiny_config
from waiting import wait_until

from fedfmd.cli import app as cli
from fedfmd.cli.voice import UNREAD, console
from fedfmd.config.experiment import dump_config
from fedfmd.records.rundir import RunDirectory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a good config and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(dump_config(tiny_config(backend={"kind": "inline"})))
    return tmp_path


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run what the ``fedfmd`` script runs; gives its exit code."""
    monkeypatch.setattr(sys, "argv", ["fedfmd", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


BAD_INPUT = {
    "unknown key": (["--set", "server.roundz=3"], "server.roundz"),
    "unknown section": (["--set", "serer.rounds=3"], "did you mean server?"),
    "wrong type": (["--set", "client.epochs=many"], "client.epochs = 'many'"),
    "no kernel": (["--set", "model.kernels=0"], "model.kernels = 0"),
    "negative rate": (["--set", "client.learning_rate=-0.1"], "client.learning_rate = -0.1"),
    "cohort above population": (["--set", "server.cohort=9"], "partition.clients = 8"),
    "more clients than samples": (
        ["--set", "partition.scheme=quantity", "--set", "partition.clients=500"],
        "partition.clients = 500",
    ),
    "malformed override": (["--set", "rounds"], "SECTION.KEY=VALUE"),
    "no workers": (["--workers", "0"], "backend.workers = 0"),
    "missing dataset": (
        ["--set", "data.name=cifar10", "--set", "data.root=none"],
        "fedfmd data fetch cifar10",
    ),
    "unwritable output": (["--out", "/proc/nowhere/run"], "/proc/nowhere/run"),
    "output below a file": (["--out", "good.toml/run"], "good.toml/run"),
    "output of no UTF-8": (["--out", "bad\udcff"], "is no name in UTF-8"),
}


@pytest.mark.parametrize(("options", "words"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert run_main(monkeypatch, "simulate", "good.toml", *options) == 2
    text = capfd.readouterr()
    assert words in text.err
    assert text.err.startswith("error: ")
    assert len(text.err.splitlines()) == 1
    assert "Traceback" not in text.err + text.out
    assert sorted(p.name for p in folder.iterdir()) == ["good.toml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("export run --out net.onnx --threads 1000000", "--threads = 1000000: at most"),
        ("export run --out net.onnx --table none/t.json", "--table none/t.json: must be a file in a folder"),
        ("profile --threads 1000000", "--threads = 1000000: at most"),
        ("profile --out none/p.json", "--out none/p.json: must be a file in a folder"),
        ("data inspect good.toml --out net.xyz", "--out net.xyz: cannot draw that format; allowed are .png"),
        ("data fetch cifar10 --root good.toml", "--root good.toml: cannot be made a folder"),
        ("report =b", "=b: no such run directory"),
    ],
)
def test_a_wrong_argument_is_one_line_before_any_work(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    assert run_main(monkeypatch, *arguments.split()) == 2
    text = capfd.readouterr()
    assert words in text.err
    assert len(text.err.splitlines()) == 1
    assert not text.out
    assert sorted(p.name for p in folder.iterdir()) == ["good.toml"]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "data", "classes", "a", "b", "--out", "/sys/classes.txt") == 1
    text = capfd.readouterr().err
    assert text.startswith("stopped: /sys/")
    assert text.endswith("; make room or choose another folder, then try again\n")
    assert len(text.splitlines()) == 1


def test_a_missing_config_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    assert run_main(monkeypatch, "simulate", "none.toml") == 2
    assert capfd.readouterr().err == "error: none.toml: no such config file\n"


def test_a_corrupted_dataset_is_named_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        (raw / f"{name}-ubyte").write_bytes(b"\x00\x00\x08\x03 torn")
    options = ["--set", "data.name=fashion-mnist", "--set", "data.root=data", "--out", "run"]
    assert run_main(monkeypatch, "simulate", "good.toml", *options) == 2
    text = capfd.readouterr().err
    assert str(raw) in text
    assert len(text.splitlines()) == 1
    assert not (folder / "run").exists()


def test_an_existing_folder_is_refused_and_stays_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "mine").write_text("x")
    assert run_main(monkeypatch, "simulate", "good.toml", "--out", "run") == 2
    assert "exists already" in capfd.readouterr().err
    assert [p.name for p in (folder / "run").iterdir()] == ["mine"]


def test_a_finished_run_and_a_folder_that_is_none_cannot_be_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    done = run_inline(folder / "done", server={"rounds": 1})
    before = rows(done, "rounds.jsonl")
    assert run_main(monkeypatch, "simulate", "--resume", done.path) == 0
    assert (done.path / "report.html").exists(), "all that a kill after the last round had left undone"
    for path, words in ((done.path, "is finished"), (folder, "no run directory")):
        assert run_main(monkeypatch, "simulate", "--resume", path) == 2
        assert words in capfd.readouterr().err
    assert rows(done, "rounds.jsonl") == before


def test_names_in_a_run_at_which_something_else_lies_are_said_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """A link whose target was not copied; a folder in the place of a ledger."""
    done = run_inline(folder / "done", server={"rounds": 1}).path
    (done / "evaluations.jsonl").unlink()
    (done / "evaluations.jsonl").symlink_to("elsewhere/evaluations.jsonl")
    assert run_main(monkeypatch, "report", done) == 0
    (done / "clients.jsonl").rename(done / "kept")
    (done / "clients.jsonl").mkdir()
    capfd.readouterr()
    assert run_main(monkeypatch, "simulate", "--resume", done, "--rounds", "2") == 1
    text = capfd.readouterr().err
    assert text.startswith(f"stopped: {done / 'clients.jsonl'}: Is a directory; bring back")
    assert len(text.splitlines()) == 1


def test_the_script_itself_runs_and_reports(folder: Path) -> None:
    """The installed command, from start to report; and its exit code for a mistake."""
    script = Path(sys.executable).with_name("fedfmd")
    good = subprocess.run(
        [script, "simulate", "good.toml", "--set", "server.rounds=1", "--out", "run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert "report: run/report.html" in good.stdout
    assert RunDirectory.open(folder / "run").finished()
    bad = subprocess.run([script, "simulate", "none.toml"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stderr) == (2, "error: none.toml: no such config file\n")


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(folder: Path) -> None:
    """As `fedfmd simulate | head -1`, also with standard error in the pipe; what only lists ends in peace."""
    for out, mixed in (("apart", False), ("mixed", True)):
        run = subprocess.Popen(
            [sys.executable, "-m", "fedfmd", *TINY_RUN[:-1], out],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if mixed else subprocess.PIPE,
            text=True,
        )
        assert run.stdout is not None
        assert run.stdout.readline().startswith("run directory: ")
        run.stdout.close()
        said = run.stderr.read() if run.stderr is not None else UNREAD
        assert run.wait() == 0, said
        assert said.count(UNREAD) == 1
        assert "Error" not in said
        assert RunDirectory.open(folder / out).finished()
        assert (folder / out / "report.html").exists()
    for command in (["runs"], ["runs", "--json"], ["simulate", "--help"]):
        read, write = os.pipe()
        os.close(read)
        listed = [sys.executable, "-m", "fedfmd", *command]
        done = subprocess.run(listed, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        assert done.stderr == ""


@pytest.mark.parametrize("hung_up", [False, True], ids=["disowned", "hung-up"])
def test_a_closed_terminal_is_no_error_of_the_run(folder: Path, hung_up: bool) -> None:
    """A run that does not hear of it goes on; the other ends by the signal, and says how to continue."""
    heard = signal.SIG_DFL if hung_up else signal.SIG_IGN  # whatever the tests themselves were started with
    command = [sys.executable, "-m", "fedfmd", "simulate", "good.toml", "--out", "run", "--rounds"]
    ours, theirs = os.openpty()
    with (folder / "errors.txt").open("w") as errors:
        run = subprocess.Popen(
            [*command, "1000" if hung_up else "2"],
            stdout=theirs,
            stderr=errors,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, heard),
        )
    os.close(theirs)
    rounds = folder / "run" / "rounds.jsonl"
    assert wait_until(lambda: rounds.exists() and rounds.stat().st_size > 0, 60)
    os.close(ours)
    if hung_up:
        run.send_signal(signal.SIGHUP)
    code, said = run.wait(), (folder / "errors.txt").read_text()
    assert code == (128 + signal.SIGHUP if hung_up else 0), said
    assert said.count(UNREAD) == 1
    assert ("fedfmd simulate --resume run" in said) == hung_up
    assert "stopped" not in said


def test_a_run_whose_report_cannot_be_written_has_ended_and_says_how_to_get_it(folder: Path) -> None:
    script = [sys.executable, "-m", "fedfmd"]
    with subprocess.Popen([*script, *TINY_RUN], stderr=subprocess.PIPE, text=True) as run:
        assert wait_until((folder / "run").exists, 60)
        (folder / "run" / "tables").touch()
        _, said = run.communicate()
    assert run.returncode == 1
    assert said.splitlines()[-2:] == [
        "stopped: run/report.html: the report cannot be written: File exists",
        "continue with: fedfmd simulate --resume run",
    ]
    (folder / "run" / "tables").unlink()
    again = [*script, "simulate", "--resume", "run"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "report: run/report.html\n")


def test_from_the_moment_a_run_is_named_ctrl_c_says_how_to_continue_it(folder: Path) -> None:
    """Workers are awaited before its first round."""
    command = [sys.executable, "-m", "fedfmd", *TINY_RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "run directory: run\n"
        run.send_signal(signal.SIGINT)
        _, said = run.communicate()
    assert run.returncode == 130
    assert said.endswith("interrupted; continue with: fedfmd simulate --resume run\n")


def test_a_full_disk_under_the_output_ends_no_run_but_is_told_of_what_only_lists(folder: Path) -> None:
    done = {}
    for command in (TINY_RUN, ["runs"]):
        with Path("/dev/full").open("w") as full:
            done[command[0]] = subprocess.run(
                [sys.executable, "-m", "fedfmd", *command],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
    assert done["simulate"].returncode == 0, done["simulate"].stderr
    assert UNREAD in done["simulate"].stderr
    assert (folder / "run" / "report.html").exists()
    assert done["runs"].returncode == 1
    assert "stopped: No space left on device" in done["runs"].stderr


def test_a_terminal_without_unicode_sees_every_word(folder: Path) -> None:
    """An encoding that lacks a character of a note, a table or a path ends no run."""
    script = str(Path(sys.executable).with_name("fedfmd"))
    for encoding in ("ascii", "latin-1"):
        out = f"gr\u00fc\u00dfe\u2013{encoding}"
        done = subprocess.run(
            [script, "simulate", "good.toml", "--set", "server.rounds=1", "--out", out],
            capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"report: gr" in done.stdout
        assert b"/report.html" in done.stdout


def test_names_are_printed_as_they_are_and_commands_can_be_pasted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Brackets are no markup, colons no emoji, and a blank in a path needs quotes."""
    odd = "r[/x] [red]:fire:"
    assert run_main(monkeypatch, "simulate", "good.toml", "--rounds", "1", "--out", odd) == 0
    told = capfd.readouterr().out
    assert f"run directory: {odd}\n" in told
    assert f"report: {odd}/report.html\n" in told
    assert run_main(monkeypatch, "runs", ".") == 0
    listed = capfd.readouterr().out
    assert "r[/x]" in listed
    assert "[red]:fire:" in listed
    assert run_main(monkeypatch, "simulate", "good.toml", "--out", odd) == 2
    assert f"--resume '{odd}'" in capfd.readouterr().err
    assert run_main(monkeypatch, "new", "a b/mine") == 0
    assert "fedfmd simulate 'a b/mine/experiment.toml'\n" in capfd.readouterr().out


TINY_RUN = ["simulate", "good.toml", "--rounds", "2", "--out", "run"]


def test_quiet_prints_the_folder_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "quiet", False)  # and put back at the end
    assert run_main(monkeypatch, *TINY_RUN, "--quiet") == 0
    assert capfd.readouterr().out == "run\n"


def test_failed_clients_stand_in_the_log_and_are_told_when_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = 'faults.at=[{round = 2, client = 3, kind = "raise"}]'
    reason = "round 2: client 3 failed: InjectedFaultError"
    asked = ["--verbose", "--set", "server.cohort=8", "--set", fault]
    assert run_main(monkeypatch, *TINY_RUN, *asked) == 0
    assert reason in capfd.readouterr().err
    log = (folder / "run" / "log.txt").read_text()
    assert reason in log
    assert [line.split(" ", 1)[1] for line in log.splitlines() if "top-1" in line][1:] == [
        f"round {n}: {done} of 8 clients, top-1 {100 * RunDirectory(folder / 'run').rounds()[n]['top1']:.2f}%"
        for n, done in ((1, 8), (2, 7))
    ]
