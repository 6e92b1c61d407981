"""The list of runs and their comparison, on real runs of every state."""

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from powerless import powerless

from fedfmd import simulate
from fedfmd.cli.actions.runs import list_runs, show_comparison
from fedfmd.errors import InputWarning, RunError, UserError
from fedfmd.files import take_lock
from fedfmd.pages.report import write_report
from fedfmd.results.catalogue import Entry, arranged, catalogue, differing_keys, entry, selected
from fedfmd.results.differences import compare_runs
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.listing import runs_table

CONFIG = {
    "name": "tiny",
    "data": {"train_samples": 120, "test_samples": 40},
    "partition": {"scheme": "sampled", "clients": 6, "samples_per_client": 10},
    "model": {"width": 0.25, "kernels": 2},
    "server": {"rounds": 2, "cohort": 3},
    "backend": {"kind": "inline", "threads": 1},
    "logging": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two runs, one that was killed after round 1, one with a damaged config, and a study of two."""
    root = tmp_path_factory.mktemp("catalogue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        simulate(CONFIG, out=root / "runs" / "dynamic")
        simulate(CONFIG, overrides={"model.conv": "static"}, out=root / "runs" / "static")
    killed = shutil.copytree(root / "runs" / "dynamic", root / "runs" / "killed")
    (killed / "summary.json").unlink()
    rows = (killed / "rounds.jsonl").read_text().splitlines(keepends=True)
    (killed / "rounds.jsonl").write_text("".join(rows[:2]) + rows[2][:40])
    damaged = shutil.copytree(root / "runs" / "static", root / "runs" / "damaged")
    for config in ("config.toml", ".config.toml"):
        (damaged / config).write_text("name = ")
    (root / "runs" / "notes").mkdir()
    study = root / "studies" / "two"
    for name in ("dynamic", "static"):
        shutil.copytree(root / "runs" / name, study / "runs" / name)
    (study / "study.toml").touch()
    (study / "outcomes.json").write_text(json.dumps([{}, {}]))
    return root


def test_a_stopped_run_is_listed_with_what_it_spent(tmp_path: Path) -> None:
    """Every client of its first round fails, again and again: no row of a round says what that cost."""
    with pytest.raises(RunError, match="fewer than"):
        simulate(CONFIG, overrides={"faults": {"probability": 1.0, "kinds": ["nan"]}}, out=tmp_path / "run")
    (listed,) = catalogue([tmp_path / "run"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert listed.status == "stopped"
    assert listed.done == 0
    assert listed.macs == summary["cumulative"]["macs"] > 0
    assert listed.bytes == sum(summary["cumulative"][f"{way}link_bytes"] for way in ("down", "up"))


def test_each_run_is_listed_once_with_its_state(folder: Path) -> None:
    found = {one.folder.name: one for one in catalogue([folder / "runs", folder / "runs" / "static"])}
    assert {name: one.status for name, one in found.items()} == {
        "dynamic": "finished",
        "static": "finished",
        "killed": "interrupted",
        "damaged": "damaged",
    }
    assert (found["killed"].done, found["killed"].wanted) == (1, 2)
    assert found["static"].value("model.conv") == "static"


def test_a_folder_that_cannot_be_read_is_listed_and_hides_no_other(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "static", tmp_path / "static")
    (tmp_path / "theirs").mkdir(mode=0)
    command = [*powerless(), sys.executable, "-m", "fedfmd", "runs", "--json", str(tmp_path)]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert {one["name"]: one["status"] for one in listed} == {"tiny": "finished", "theirs": "damaged"}


def test_figures_are_those_of_the_ledger(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "runs" / "static" / "rounds.jsonl").open()]
    one = entry(folder / "runs" / "static")
    assert one.top1 == rows[-1]["top1"]
    assert one.macs == sum(row["macs"] for row in rows)
    assert one.bytes == sum(row["uplink_bytes"] + row["downlink_bytes"] for row in rows)


@pytest.mark.parametrize("lines", [0, 2])
def test_a_finished_run_whose_ledger_was_cut_is_damaged(folder: Path, tmp_path: Path, lines: int) -> None:
    cut = shutil.copytree(folder / "runs" / "static", tmp_path / "cut")
    rows = (cut / "rounds.jsonl").read_text().splitlines(keepends=True)
    (cut / "rounds.jsonl").write_text("".join(rows[:lines]))
    assert (entry(cut).status, entry(cut).done) == ("damaged", max(0, lines - 1))


def test_a_run_that_is_being_written_is_running(folder: Path) -> None:
    with take_lock(folder / "runs" / "killed" / ".lock"):
        assert entry(folder / "runs" / "killed").status == "running"
    assert entry(folder / "runs" / "killed").status == "interrupted"


def test_a_study_is_one_line_unless_it_is_named(folder: Path) -> None:
    (study,) = catalogue([folder / "studies"])
    assert (study.kind, study.status, study.done, study.wanted) == ("study", "finished", 2, 2)
    runs = catalogue([folder / "studies" / "two"])
    assert study.macs == sum(one.macs or 0 for one in runs)
    assert {one.kind for one in runs} == {"federated"}


def test_runs_are_filtered_and_sorted_by_fields_and_keys(folder: Path) -> None:
    runs = catalogue([folder / "runs"])
    assert [one.folder.name for one in selected(runs, ["model.conv=static"])] == ["static"]
    assert {one.folder.name for one in selected(runs, ["status=finished", 'model.conv="fmdconv"'])} == {
        "dynamic"
    }
    rates = [rate for one in runs if (rate := one.value("client.learning_rate")) is not None]
    assert set(rates) == {0.05}
    for written in ("0.05", "5e-2", "0.050"):
        assert len(selected(runs, [f"client.learning_rate={written}"])) == len(rates)
    assert selected(runs, ["client.learning_rate=0.5"]) == []
    upwards = [one.folder.name for one in arranged(runs, "macs")]
    assert upwards.index("static") < upwards.index("dynamic")
    assert upwards[-1] == "damaged"
    for wrong in ("model.cnv=static", "model.conv"):
        with pytest.raises(UserError, match="--where"):
            selected(runs, [wrong])
    with pytest.raises(UserError, match="--sort"):
        arranged(runs, "accuracy")
    with pytest.raises(
        UserError, match=r"--key model\.cnv: no run has such a key; did you mean model\.conv\?"
    ):
        list_runs(PlainConsole(), [folder / "runs"], sort="macs", where=[], keys=["model.cnv"], as_json=False)


def test_differences_are_those_of_the_configs_and_no_others(folder: Path) -> None:
    pair = [entry(folder / "runs" / name) for name in ("dynamic", "static")]
    assert "model.conv" in differing_keys(pair)
    assert all(key.startswith(("model.", "temperature.", "diagnostics.")) for key in differing_keys(pair))
    comparison = compare_runs([one.folder for one in pair])
    assert comparison.keys["model.conv"] == ("fmdconv", "static")
    macs = next(one for one in comparison.figures if one.key == "macs")
    assert macs.change == pytest.approx(pair[1].macs / pair[0].macs - 1)  # type: ignore[operator]
    for folders in (
        [pair[0].folder],
        [pair[0].folder, folder],
        [pair[0].folder, folder / "runs" / "damaged"],
    ):
        with pytest.raises(UserError):
            compare_runs(folders)


def test_runs_of_one_config_on_other_code_images_or_parts_are_not_called_alike(
    folder: Path, tmp_path: Path
) -> None:
    mine, theirs = folder / "runs" / "static", tmp_path / "theirs"
    shutil.copytree(mine, theirs)
    same = compare_runs([mine, theirs])
    assert (same.keys, same.grounds) == ({}, {})
    environment = json.loads((theirs / "environment.json").read_text())
    environment["packages"]["torch"] = "0.4.1"
    (theirs / "environment.json").write_text(json.dumps(environment))
    parts = json.loads((theirs / "parts.json").read_text()) if (theirs / "parts.json").is_file() else {}
    own = {"kind": "conv", "name": "m:C", "module": "m", "folder": "/f", "version": "a" * 64}
    (theirs / "parts.json").write_text(json.dumps(parts | {"images": "b" * 64, "registered": [own]}))
    found = compare_runs([mine, theirs])
    assert found.keys == {}
    assert set(found.grounds) == {"torch", "images", "conv 'm:C'"}
    assert found.grounds["torch"][1] == "0.4.1"
    assert found.grounds["conv 'm:C'"] == (None, 12 * "a")
    assert found.to_json()["grounds"]["images"][1] == 12 * "b"
    text = io.StringIO()
    show_comparison(PlainConsole(file=text, width=100), [mine, theirs], as_json=False)
    assert "no key differs" in text.getvalue()
    assert "0.4.1" in text.getvalue()


def test_device_time_is_listed_where_clients_have_devices(folder: Path) -> None:
    plain = replace(entry(folder / "runs" / "static"), device_seconds=None)
    timed = replace(plain, device_seconds=12.0)
    assert heads([plain]) == ["Run", "Status", "Done", "Top-1", "MACs", "Bytes"]
    assert heads([plain, timed]) == ["Run", "Status", "Done", "Top-1", "MACs", "Bytes", "Device"]


def heads(entries: list[Entry]) -> list[str]:
    return [str(column.header) for column in runs_table(entries, width=80).columns]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_commands_keep_to_the_width_of_the_terminal(folder: Path, columns: int) -> None:
    compare, profile = (
        ["compare", "runs/dynamic", "runs/static"],
        ["profile", "--name", "resnet8", "--no-measure"],
    )
    for arguments in (["runs", "."], compare, profile):
        done = subprocess.run(
            [sys.executable, "-m", "fedfmd", *arguments],
            cwd=folder,
            env={"COLUMNS": str(columns), "PYTHONPATH": ":".join(sys.path), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert max(map(len, done.stdout.splitlines())) <= columns
        assert "fmdconv" in done.stdout or arguments[0] == "runs"
        assert "dynamic" in done.stdout.replace("\n", "") or arguments == profile
        if arguments == compare:
            assert re.search(r"model\.conv +fmdconv +static", done.stdout)
            assert re.search(r"MACs +[\d.]+ [MG]MAC +[\d.]+ [MG]MAC +[+-][\d.]+%", done.stdout)


def test_runs_whose_names_are_too_long_for_columns_get_letters(folder: Path, tmp_path: Path) -> None:
    long = tmp_path / "dirichlet-0.5-fmdconv-k4-width-0.25-seed-0"
    shutil.copytree(folder / "runs" / "dynamic", long)
    shutil.copytree(folder / "runs" / "static", tmp_path / "static")
    for width, lettered in ((60, True), (200, False)):
        text = io.StringIO()
        console = PlainConsole(file=text, width=width)
        show_comparison(console, [long, tmp_path / "static"], as_json=False)
        told = text.getvalue()
        assert (f"A = {long.name}\nB = static\n" in told) == lettered
        assert (told.count(long.name) == 1) == lettered
        assert re.search(r"model\.conv +fmdconv +static", told)


def test_a_report_of_a_folder_leaves_out_what_is_no_run(folder: Path, tmp_path: Path) -> None:
    everything = [folder / "runs" / name for name in ("notes", "dynamic", "static")]
    with pytest.warns(InputWarning, match=r"notes: left out"):
        page = write_report(everything, tmp_path / "report")
    assert "2 federated runs compared" in page.read_text()


def test_values_of_keys_are_short_and_in_one_line(tmp_path: Path) -> None:
    configs = ({"data.root": "a\nb"}, {"data.root": "x" * 50})
    runs = [
        Entry(folder=tmp_path / str(i), name="r", kind="federated", status="finished", config=config)
        for i, config in enumerate(configs)
    ]
    column = next(c for c in runs_table(runs, 60, ["data.root"]).columns if c.header == "data.root")
    assert list(column.cells) == ["a b", "x" * 23 + "…"]
