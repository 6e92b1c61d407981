"""Studies for real, tiny: killed, continued, refused, and with a run that fails."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from fedfmd.cli.actions.study import study_shown
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import changed, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.results.catalogue import catalogue
from fedfmd.studies import runner
from fedfmd.studies.child import bring_to_end
from fedfmd.studies.plan import PlannedRun, load_study
from fedfmd.studies.runner import (
    Ledger,
    Listener,
    _start,
    _stop,
    claimed,
    keep_study,
    least_used_gpu,
    run_study,
)
from fedfmd.terminal.consoles import PlainConsole

STUDY = """name = "tiny"
seeds = [0, 1]

[[arms]]
name = "static"
set = { "model.conv" = "static" }

[[arms]]
name = "fmdconv"

[experiment]
data = { train_samples = 240, test_samples = 60 }
partition = { scheme = "sampled", clients = 8, samples_per_client = 30 }
model = { name = "resnet8", width = 0.25, kernels = 2 }
client = { batch_size = 10 }
server = { rounds = 2, cohort = 4 }
"""
RUNS = ("static-seed-0", "fmdconv-seed-0", "static-seed-1", "fmdconv-seed-1")
WILD = """
[[arms]]
name = "wild"
set = { "client.learning_rate" = 1e30 }

[experiment]"""
SAME = ("comparison_macs.md", "comparison_bytes.tex", "comparison_round.md")
"""Tables without measured time, which two runs of one config share to the letter."""


def write_study(folder: Path, text: str = STUDY) -> Path:
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fedfmd", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def shown(config: Path | None, out: Path | None = None, resume: Path | None = None, jobs: int = 2) -> str:
    """Run a study from this process; gives what it printed."""
    text = io.StringIO()
    study_shown(PlainConsole(file=text, width=200), config, out, resume, jobs)
    return text.getvalue()


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def tables(folder: Path) -> dict[str, str]:
    return {name: (folder / "tables" / name).read_text() for name in SAME}


def children(folder: Path) -> list[int]:
    """Find the processes that run the study's runs: they hold its lock file open."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if process.name.isdigit() and str(folder / ".lock") in links and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def rounds(folder: Path, run: str) -> int:
    ledger = folder / "runs" / run / "rounds.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The study that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = " ".join(shown(write_study(folder), folder / "out").split())
    assert "* by the means." in said  # what the table's column Front means
    assert "note: fmdconv" in said
    return folder / "out"


def test_a_study_leaves_tables_figures_and_a_page(undisturbed):
    outcomes = json.loads((undisturbed / "outcomes.json").read_text())
    assert [(o["folder"], o["status"]) for o in outcomes] == [(run, "finished") for run in RUNS]
    assert (undisturbed / "report.html").stat().st_size > 40_000
    for name in ("budget_macs", "pareto_macs", "differences_macs"):
        assert (undisturbed / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (undisturbed / "figures" / f"{name}.svg").read_text()
    assert {"comparison.csv", "curves.csv", "budget_curves.csv", "runs.csv", *SAME} <= {
        path.name for path in (undisturbed / "tables").iterdir()
    }


@pytest.mark.slow
def test_killed_in_the_middle_it_continues_to_the_same_tables(undisturbed, tmp_path):
    """The first start has one job, the second two: the number changes no bit of a result either."""
    out = tmp_path / "out"
    process = start(write_study(tmp_path), "--out", out, "--jobs", 1)
    assert wait_until(lambda: rounds(out, RUNS[1]) >= 2, 120)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert wait_until(lambda: not children(out))
    model = out / "runs" / RUNS[0] / "model.safetensors"
    written = model.stat().st_mtime_ns
    assert not (out / "runs" / RUNS[3]).exists()
    output = shown(None, resume=out)
    assert "kept static, seed 0" in output
    assert "start fmdconv, seed 1: 2 rounds" in output
    assert model.stat().st_mtime_ns == written
    assert tables(out) == tables(undisturbed)
    for run in RUNS:
        assert rounds(out, run) == 3
        one, other = ((f / "runs" / run / "model.safetensors").read_bytes() for f in (out, undisturbed))
        assert one == other


def test_a_run_that_went_on_by_itself_counts_with_the_rounds_of_the_study(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "out")
    planned = load_study(folder / "study.toml", folder=folder).runs[0]
    path = folder / "runs" / planned.folder
    bring_to_end(path, changed(applied(planned.config), {"server.rounds": 3}), RunDirectory(path))
    assert rounds(folder, planned.folder) == 4
    shown(None, resume=folder)
    assert tables(folder) == tables(undisturbed)
    assert (
        "It went on to round 3; what came after round 2 is left out here."
        in (folder / "report.html").read_text()
    )


def test_a_changed_study_is_refused_in_the_same_folder(undisturbed, tmp_path):
    changed = write_study(tmp_path, STUDY.replace("batch_size = 10", "batch_size = 15"))
    before = (undisturbed / "study.toml").read_text()
    with pytest.raises(UserError, match=r"client\.batch_size = 10, the study now says 15"):
        shown(changed, undisturbed)
    assert (undisturbed / "study.toml").read_text() == before


def test_a_study_that_is_resumed_with_changes_is_held_against_its_runs(undisturbed):
    before = (undisturbed / "study.toml").read_text()
    with pytest.raises(UserError, match=r"client\.batch_size = 10, the study now says 15"):
        study_shown(PlainConsole(file=io.StringIO()), None, None, undisturbed, 1, ["client.batch_size=15"])
    assert (undisturbed / "study.toml").read_text() == before


def test_a_study_that_another_process_works_on_is_refused_and_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_PATIENCE_SECONDS", 0.1)
    folder = tmp_path / "out"
    with claimed(folder):
        keep_study(load_study(write_study(tmp_path)), folder)
        before = (folder / "study.toml").read_text()
        with pytest.raises(UserError, match="another process is working on this study"):
            shown(write_study(tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [2]")), folder)
        assert (folder / "study.toml").read_text() == before


def test_rounds_are_counted_as_they_are_written_and_again_after_a_cut(tmp_path):
    run = load_study(write_study(tmp_path)).runs[0]
    ledger, file = Ledger(tmp_path, run), tmp_path / "runs" / run.folder / "rounds.jsonl"
    assert ledger.rounds_done() == 0
    file.parent.mkdir(parents=True)
    told = []
    for text in ("{}\n", "{}\n{}\n", "{}\n{}\n{}", "{}\n{}\n{}\n", "{}\n{}\n"):
        file.write_text(text)
        told.append(ledger.rounds_done())
    assert told == [0, 1, 1, 2, 1]


@pytest.mark.parametrize("cut", ["torn", "empty"])
@pytest.mark.parametrize("damaged", [RUNS[:1], RUNS[1::2]])
def test_runs_with_a_damaged_ledger_are_told_and_the_others_compared(undisturbed, tmp_path, damaged, cut):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    for run in damaged:
        ledger = out / "runs" / run / "rounds.jsonl"
        ledger.write_text("" if cut == "empty" else ledger.read_text()[:-200])
    first = out / "runs" / damaged[0]
    lacks = rf"{first}: .*rounds\.jsonl lacks \d of the 2 rounds.* {len(damaged)} of 4 runs are damaged"
    with pytest.raises(RunError, match=lacks) as error:
        shown(None, resume=out)
    assert "\n" not in str(error.value)
    page = (out / "report.html").read_text()
    assert f"{len(damaged)} of 4 runs failed" in page
    assert f"{RUNS[2]},finished" in (out / "tables" / "runs.csv").read_text().replace("kept", "finished")


def test_a_failed_run_is_told_and_the_others_are_kept(undisturbed, tmp_path):
    """An arm that diverges, added to a finished study: the study grows, nothing is repeated."""
    grown = write_study(tmp_path, STUDY.replace("\n[experiment]", WILD))
    with pytest.raises(RunError, match=f"2 of 6 runs failed; .* fedfmd study --resume {undisturbed}"):
        shown(grown, undisturbed)
    outcomes = json.loads((undisturbed / "outcomes.json").read_text())
    assert {o["arm"]: o["status"] for o in outcomes} == {
        "static": "kept",
        "fmdconv": "kept",
        "wild": "failed",
    }
    assert all("round 1" in o["reason"] for o in outcomes if o["arm"] == "wild")
    page = (undisturbed / "report.html").read_text()
    assert "2 of 6 runs failed" in page
    assert "wild, seed 0, failed: " in page
    assert "wild,1,wild-seed-1,failed" in (undisturbed / "tables" / "runs.csv").read_text()


def test_an_interrupted_study_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    text = STUDY.replace("rounds = 2", "rounds = 200")
    process = start(write_study(tmp_path, text), "--out", out, "--jobs", 1)
    assert wait_until(lambda: rounds(out, RUNS[0]) >= 2, 120)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130
    assert f"fedfmd study --resume {out}" in output
    assert not children(out)


def test_what_is_no_study_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no study\.toml"):
        shown(None, resume=tmp_path)


def test_a_study_s_file_is_not_overwritten_by_its_folder(tmp_path):
    """``--resume`` is for what a study has made, not for the folder that its file is in."""
    file = tmp_path / "study.toml"
    (tmp_path / "experiment.toml").write_text("[server]\nrounds = 1\n")
    file.write_text(text := '# mine\nname = "s"\nbase = "experiment.toml"\n')
    with pytest.raises(UserError, match=f"no study folder, .*; run: fedfmd study {file}"):
        shown(None, resume=tmp_path)
    with pytest.raises(UserError, match="give another --out"):
        shown(file, out=tmp_path)
    assert file.read_text() == text
    with pytest.raises(UserError, match="give a study file"):
        shown(None)


def test_runs_on_gpus_are_spread_over_them() -> None:
    config = parse_config({"backend": {"kind": "inline", "device": "cuda"}})
    run = PlannedRun("arm", 0, "arm-seed-0", config)
    busy: list[str | None] = []
    for _ in range(5):
        busy.append(least_used_gpu(run, ["2", "5"], busy))
    assert busy == ["2", "5", "2", "5", "2"]
    assert least_used_gpu(run, ["2", "5"], [None, "2", None]) == "5"
    assert least_used_gpu(run, [], []) is None
    assert least_used_gpu(PlannedRun("arm", 0, "arm-seed-0", parse_config({})), ["2"], []) is None


class Stopped(Listener):
    """Ctrl-C as the first run begins."""

    def on_start(self, run: PlannedRun, rounds_done: int) -> None:
        raise KeyboardInterrupt


def test_a_study_says_from_its_start_how_many_runs_it_has(tmp_path: Path) -> None:
    study, folder = load_study(write_study(tmp_path)), tmp_path / "out"
    with claimed(folder) as claim:
        keep_study(study, folder)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, folder, claim, jobs=1, listener=Stopped())
    (listed,) = catalogue([tmp_path])
    assert (listed.kind, listed.status, listed.done, listed.wanted) == ("study", "interrupted", 0, len(RUNS))


def test_a_runs_process_sees_its_gpu_alone(tmp_path: Path) -> None:
    """Its config asks for one that this machine may not have; the variable is what is looked at."""
    study = load_study(write_study(tmp_path))
    run = study.runs[0]
    task = _start(run, tmp_path, 1, Listener(), "7")
    try:
        environment = Path(f"/proc/{task.process.pid}/environ")
        assert wait_until(environment.read_bytes), "empty while the process is being made"
        seen = environment.read_bytes().split(b"\0")
    finally:
        _stop([task])
    assert b"CUDA_VISIBLE_DEVICES=7" in seen
