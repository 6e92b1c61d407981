"""A finished run whose ledgers or summary are not what it wrote is told from one whose are, at every door."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

import fedfmd
from fedfmd.errors import InputWarning, UserError
from fedfmd.pages.report import write_report
from fedfmd.results.catalogue import entry
from fedfmd.results.differences import compare_runs
from fedfmd.results.runs import load_run
from fedfmd.results.trials import comparable

TINY = {
    "data": {"train_samples": 80, "test_samples": 20},
    "partition": {"scheme": "iid", "clients": 4, "holdout": 0.25},
    "model": {"name": "resnet8", "width": 0.25, "conv": "static", "stem": "imagenet"},
    "server": {"rounds": 2, "cohort": 2},
    "evaluation": {"clients": "all"},
    "backend": {"kind": "inline"},
    "logging": {"tensorboard": False},
}
LEDGERS = ("rounds.jsonl", "clients.jsonl", "evaluations.jsonl")
FILES = (*LEDGERS, "summary.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(folder.parent / "cache"))
        fedfmd.simulate(TINY, out=folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def edit(file: Path) -> None:
    """Change one digit: the file has the length that it had."""
    text = file.read_text()
    at = text.rindex("0.")
    file.write_text(f"{text[:at]}9{text[at + 1 :]}")
    assert len(file.read_text()) == len(text)


def test_an_untouched_run_is_whole(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        fedfmd.load_run(run)
        write_report([run])
    assert comparable(load_run(run))
    assert entry(run).status == "finished"
    assert set(json.loads((run / "summary.json").read_text())["ledgers"]) == set(LEDGERS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_edited_is_told_by_reports_studies_and_python(run: Path, name: str) -> None:
    edit(run / name)
    found = load_run(run)
    assert found.changed == (name,)
    assert any(note.startswith(f"{name} was changed since the run ended") for note in found.notes)
    assert not comparable(found)
    with pytest.warns(InputWarning, match=f"{name} was changed since the run ended"):
        fedfmd.load_run(run)
    with pytest.warns(InputWarning, match=f"{name} was changed since the run ended"):
        page = write_report([run])
    assert f"{name} was changed since the run ended" in page.read_text()


@pytest.mark.parametrize("name", ["rounds.jsonl", "summary.json"])
def test_a_list_and_a_comparison_do_not_show_figures_of_an_edited_file_as_sound(
    run: Path, finished: Path, name: str
) -> None:
    edit(run / name)
    assert entry(run).status == "damaged"
    with pytest.raises(UserError, match=rf"run/{name}: was changed since the run ended"):
        compare_runs([finished, run])


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_of_another_length_is_damaged(run: Path, name: str) -> None:
    (run / name).write_text((run / name).read_text() + "\n")
    assert entry(run).status == "damaged"
    assert load_run(run).changed == (name,)


@pytest.mark.parametrize("becomes", ["learning_rate = 0.5", "learning_rate = ["], ids=["other", "no TOML"])
def test_a_config_that_was_edited_afterwards_is_not_taken_for_the_runs(
    run: Path, finished: Path, becomes: str
) -> None:
    """Reports, lists and comparisons show what the rounds were computed with."""
    file = run / "config.toml"
    edited = file.read_text().replace("learning_rate = 0.05", becomes)
    assert edited != file.read_text()
    file.write_text(edited)
    found = load_run(run)
    assert found.config["client"]["learning_rate"] == 0.05
    assert any("config.toml was edited" in note for note in found.notes)
    assert "config.toml was edited" in write_report([run]).read_text()
    assert (entry(run).status, entry(run).value("client.learning_rate")) == ("finished", 0.05)
    assert compare_runs([finished, run]).keys == {}


def test_a_comparison_says_which_rounds_are_lost(run: Path, finished: Path) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="the ledger lacks 1 of the rounds"):
        compare_runs([finished, run])


def test_a_run_of_an_older_version_has_no_marks_and_is_read(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["ledgers"], summary["crc32"]
    (run / "summary.json").write_text(json.dumps(summary))
    edit(run / "rounds.jsonl")
    assert load_run(run).changed == ()
    assert entry(run).status == "finished"


def test_more_rounds_have_marks_of_their_own(run: Path) -> None:
    fedfmd.resume(run, overrides={"server.rounds": 3})
    assert load_run(run).changed == ()
    edit(run / "clients.jsonl")
    assert load_run(run).changed == ("clients.jsonl",)


def test_epochs_of_centralised_training_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    config = {key: TINY[key] for key in ("data", "model")} | {"train": {"epochs": 1, "batch_size": 20}}
    folder = fedfmd.train(config, out=tmp_path / "run").path
    assert entry(folder).status == "finished"
    edit(folder / "epochs.jsonl")
    assert entry(folder).status == "damaged"
    with pytest.warns(InputWarning, match=r"epochs\.jsonl was changed since the run ended"):
        fedfmd.load_run(folder)
    with pytest.warns(InputWarning, match=r"epochs\.jsonl was changed since the run ended"):
        write_report([folder])
