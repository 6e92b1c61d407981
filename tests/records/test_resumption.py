"""Going on with a run: for more rounds, with changes, and with parts of it lost or damaged."""

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from powerless import powerless
from torch import Tensor

import fedfmd
from fedfmd.algorithms import Algorithm, Collected
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.errors import UserError
from fedfmd.records.documents import Environment, Manifest, Note, RunSummary
from fedfmd.records.rows import repeatable
from fedfmd.records.rundir import LOST_STATE, RunDirectory
from fedfmd.registry import register
from fedfmd.results.runs import load_run
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.rounds.resumption import take_changes


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny(**changes: dict[str, Any]) -> ExperimentConfig:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 60, "test_samples": 20},
        "partition": {"scheme": "sampled", "clients": 4, "samples_per_client": 8},
        "model": {"name": "resnet8", "width": 0.25, "conv": "static", "stem": "imagenet"},
        "client": {"batch_size": 8, "augment": False},
        "server": {"rounds": 3, "cohort": 2},
        "backend": {"kind": "inline"},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return parse_config(document)


def run(path: Path, config: ExperimentConfig) -> RunDirectory:
    directory = start_run(config, path)
    execute(directory, InlineExecutor)
    return directory


def go_on(directory: RunDirectory, *overrides: str, accept: bool = False) -> RunDirectory:
    """Resume as a new process would, from what lies on the disk."""
    take_changes(directory, overrides, accept=accept)
    again = RunDirectory.open(directory.path)
    execute(again, InlineExecutor)
    return again


def results(directory: RunDirectory) -> tuple[bytes, list[dict[str, Any]]]:
    ledgers = (*directory.rounds(), *directory.clients(), *directory.evaluations())
    rows = [repeatable(row) for row in ledgers]
    return (directory.path / "model.safetensors").read_bytes(), rows


NAMES = (
    "velocity",
    "state",
    "version.1",
    "algorithm.drifting.a",
    "drifting.a",
    "optimizer/a",
    "a/b%2F",
    "ü",
    "",
)
"""What anybody may call a tensor of a state."""


def moved(state: dict[str, Tensor], mean: Tensor) -> Tensor:
    """Return the mean of moving sums of all updates so far, each kept under one of the names."""
    for place, name in enumerate(NAMES):
        kept = state.setdefault(name, torch.zeros_like(mean))
        kept.mul_(0.1 * place).add_(mean)  # in place, while the last checkpoint may still be written
    return sum(state.values(), torch.zeros_like(mean)) / len(NAMES)


@register("strategy", "drifting")
class DriftingStrategy:
    """A server optimiser whose step depends on all that it keeps."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def step(self, weights: Tensor, mean_update: Tensor) -> Tensor:
        return (weights.double() + moved(self.state, mean_update)).float()


@register("algorithm", "drifting")
class Drifting(Algorithm):
    """An algorithm whose part in the mean depends on all that it keeps."""

    name = "drifting"

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        mean.copy_(moved(self.state, mean))


@register("algorithm", "drifting.a")
class DriftingToo(Drifting):
    """Another, whose name and that of a tensor are those of the first."""

    name = "drifting.a"


STATEFUL: dict[str, dict[str, Any]] = {
    "server": {"strategy": "drifting"},
    "algorithms": {"drifting": {}, "drifting.a": {}},
}
BUFFERED: dict[str, dict[str, Any]] = {
    "server": {"mode": "buffered", "buffer": 1},
    "devices": {"kind": "tiers", "tiers": [{"name": "a"}]},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"server": {"strategy": "fedavgm"}},
        STATEFUL,
        STATEFUL | BUFFERED | {"server": STATEFUL["server"] | BUFFERED["server"]},
        {"client": {"scaffold": True, "momentum": 0.0}},
        {"evaluation": {"every": 2}},
        BUFFERED,
        {
            "partition": {"holdout": 0.3},
            "evaluation": {"clients": "all", "models": ["affordable", "finetuned", "local"]},
        },
    ],
    ids=[
        "momentum",
        "own states",
        "own states, buffered",
        "scaffold",
        "evaluated every second round",
        "buffered",
        "measured on clients",
    ],
)
def test_more_rounds_are_those_of_a_run_that_was_longer_from_the_start(
    tmp_path: Path, changes: dict[str, dict[str, Any]]
) -> None:
    """Round 3 of the short run is its last and is always evaluated; of the long one it is any other."""
    short = go_on(run(tmp_path / "short", tiny(**changes)), "server.rounds=5")
    server = {"rounds": 5, "cohort": 2, "horizon": 3} | changes.get("server", {})
    long = run(tmp_path / "long", tiny(**{**changes, "server": server}))
    assert results(short) == results(long)
    assert (short.config, short.notes()) == (long.config, [])


def test_a_finished_run_has_nothing_to_go_on_with_and_fewer_rounds_are_refused(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    take_changes(directory, (), accept=False)
    assert directory.finished()
    with pytest.raises(UserError, match=r"server\.rounds = 2: .* has 3 rounds already"):
        take_changes(directory, ["server.rounds=2"], accept=False)
    assert directory.config.server.rounds == 3


def test_a_changed_config_is_refused_with_its_keys_or_taken_and_noted(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    file = directory.path / "config.toml"
    file.write_text(file.read_text().replace("cohort = 2", "cohort = 3").replace("rounds = 3", "rounds = 4"))
    with pytest.raises(UserError, match=r"server\.cohort 2 -> 3; undo the change, or .* --accept"):
        go_on(directory)
    with pytest.raises(UserError, match=r"server\.cohort 2 -> 3"):
        execute(RunDirectory.open(directory.path), InlineExecutor)
    assert len(directory.rounds()) == 4
    go_on(directory, accept=True)
    assert [row["cohort"] for row in directory.rounds()] == [0, 2, 2, 2, 3]
    changed = Note(round=3, kind="config", note="config changed: server.cohort 2 -> 3")
    assert directory.notes() == [changed]
    assert f"After round 3: {changed.note}." in load_run(directory.path).notes


def test_a_changed_card_is_refused_or_taken_and_noted(tmp_path: Path) -> None:
    """And a trace of bandwidth, of which the card says where it is."""
    card, trace = tmp_path / "board.toml", tmp_path / "mbit"
    trace.write_text("0 8\n1 4\n")
    card.write_text(f'[device]\nname = "board"\nlike = "laptop"\n[device.link]\ndownlink_trace = "{trace}"\n')
    devices = {"kind": "tiers", "tiers": [{"name": "a", "like": str(card)}]}
    directory = run(tmp_path / "run", tiny(devices=devices))
    for file, text in ((trace, "0 8\n1 5\n"), (card, card.read_text().replace("laptop", "phone-low"))):
        file.write_text(text)
        with pytest.raises(UserError, match=rf"{file.name} has changed since the run began: .* --accept"):
            go_on(directory, "server.rounds=4")
        go_on(directory, f"server.rounds={len(directory.rounds())}", accept=True)
        assert f"parts changed: {file}" in directory.notes()[-1].note
    trace.unlink()
    with pytest.raises(UserError, match=r"mbit has changed since the run began: .* -> missing"):
        go_on(directory, "server.rounds=9")


def of_images(root: Path) -> ExperimentConfig:
    """Write a folder of images, and describe an experiment on them."""
    rng = np.random.default_rng(0)
    for part, label, i in product(("train", "val"), ("cat", "dog"), range(16)):
        file = root / part / label / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    samples = {"train_samples": None, "test_samples": None}
    return tiny(data={"name": "imagefolder", "root": str(root), "image_size": 32} | samples)


def test_other_images_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    directory = run(tmp_path / "run", of_images(root))
    go_on(directory, "server.rounds=4")
    Image.new("RGB", (32, 32)).save(root / "train/cat/3.png")
    with pytest.raises(
        UserError, match=r"the images have changed since the run began \(data.name = 'imagefolder'"
    ):
        go_on(directory, "server.rounds=5")


def test_a_run_moves_to_other_workers_and_its_images_to_another_folder(tmp_path: Path) -> None:
    """Nothing of what it computes depends on them, so nothing has to be accepted, and nothing is noted."""
    root, moved = tmp_path / "pictures", tmp_path / "elsewhere"
    directory = run(tmp_path / "run", of_images(root))
    unbroken = go_on(run(tmp_path / "unbroken", of_images(root)), "server.rounds=5")
    root.rename(moved)
    places = (f"data.root={moved}", "backend.workers=2")
    resumed = go_on(directory, "server.rounds=5", *places)
    assert results(resumed) == results(unbroken)
    assert (resumed.config.backend.workers, resumed.notes()) == (2, [])


def test_images_move_together_with_a_change_that_is_accepted(tmp_path: Path) -> None:
    root, moved = tmp_path / "pictures", tmp_path / "elsewhere"
    directory = run(tmp_path / "run", of_images(root))
    root.rename(moved)
    resumed = go_on(directory, "server.rounds=4", "server.cohort=3", f"data.root={moved}", accept=True)
    assert resumed.rounds()[-1]["cohort"] == 3
    assert [note.note for note in resumed.notes()] == ["config changed: server.cohort 2 -> 3"]


def test_a_folder_of_other_images_and_workers_beyond_the_machine_are_refused(tmp_path: Path) -> None:
    root, other = tmp_path / "pictures", tmp_path / "others"
    directory = run(tmp_path / "run", of_images(root))
    of_images(other)
    Image.new("RGB", (32, 32)).save(other / "train/cat/3.png")
    before = (directory.path / "config.toml").read_text()
    with pytest.raises(UserError, match=rf"the images have changed .*{other}"):
        go_on(directory, "server.rounds=5", f"data.root={other}")
    with pytest.raises(UserError, match=r"backend\.workers = 1000"):
        go_on(directory, "server.rounds=5", "backend.workers=1000")
    assert (directory.path / "config.toml").read_text() == before


@pytest.mark.parametrize("change", ["seed=7", "partition.clients=9", "model.width=0.5"])
def test_what_the_rounds_so_far_stand_on_cannot_be_taken(tmp_path: Path, change: str) -> None:
    directory = run(tmp_path / "run", tiny())
    with pytest.raises(UserError, match="start another run"):
        take_changes(directory, ["server.rounds=4", change], accept=True)
    assert directory.finished()


def test_a_change_that_the_checkpoint_cannot_take_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """FjORD's norms have statistics for each width, and SCAFFOLD's control is as long as the parameters."""
    directory = run(tmp_path / "run", tiny(model={"norm": "bn"}))
    before = (directory.path / "config.toml").read_text()
    widths = ["policy.kind=width", "policy.width_mode=ordered"]
    with pytest.raises(UserError, match=r"policy.kind.*: its checkpoint holds .* elements, where"):
        take_changes(directory, [*widths, "server.rounds=4"], accept=True)
    assert (directory.path / "config.toml").read_text() == before
    go_on(directory, "server.rounds=4")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-9])])
def test_a_damaged_checkpoint_costs_a_round_and_is_said(tmp_path: Path, damage: Any) -> None:
    scaffold = {"scaffold": True, "momentum": 0.0}
    server = {"rounds": 4, "cohort": 2, "horizon": 3}
    undisturbed = run(tmp_path / "undisturbed", tiny(client=scaffold, server=server))
    directory = run(tmp_path / "run", tiny(client=scaffold))
    damage(directory.checkpoints.last)
    again = go_on(directory, "server.rounds=4")
    assert results(again) == results(undisturbed)
    assert "going on from the checkpoint of round 2" in again.notes()[0].note


def test_no_checkpoint_left_begins_anew_and_only_damaged_ones_are_refused(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    before = results(directory)
    for file in (directory.checkpoints.last, directory.checkpoints.previous):
        flip(file)
    (directory.path / "summary.json").unlink()
    with pytest.raises(UserError, match=r"damaged checkpoint: .*; to begin anew at round 0, delete "):
        go_on(directory)
    shutil.rmtree(directory.checkpoints.folder)
    again = go_on(directory)
    assert results(again) == before
    assert "is missing; the run begins anew at round 0" in again.notes()[0].note


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_finished_run_writes_a_lost_model_again_and_nothing_else(tmp_path: Path, damage: Any) -> None:
    directory = run(tmp_path / "run", tiny())
    before = results(directory)
    damage(directory.path / "model.safetensors")
    with pytest.raises(UserError, match="--resume"):
        fedfmd.load_model(directory.path)
    fedfmd.resume(directory.path)
    assert results(directory) == before
    with pytest.raises(UserError, match="finished"):
        fedfmd.resume(directory.path)


def test_a_finished_run_without_model_and_checkpoints_does_not_begin_anew(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    (directory.path / "model.safetensors").unlink()
    shutil.rmtree(directory.checkpoints.folder)
    ledger = (directory.path / "rounds.jsonl").read_bytes()
    with pytest.raises(UserError, match="finished"):
        fedfmd.resume(directory.path)
    assert (directory.path / "rounds.jsonl").read_bytes() == ledger


def test_a_partition_that_lay_elsewhere_and_is_lost_is_made_anew(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    directory.partition_file.unlink()
    directory.partition_file.symlink_to(tmp_path / "lost")
    assert len(go_on(directory, "server.rounds=4").rounds()) == 5
    assert not directory.partition_file.is_symlink()


@pytest.mark.parametrize("folder", [".", "checkpoint"])
def test_a_run_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, folder: str) -> None:
    directory = run(tmp_path / "run", tiny())
    (directory.path / folder).chmod(0o555)
    opening = f"from fedfmd.records.rundir import *; RunDirectory(Path({str(directory.path)!r})).lock()"
    ended = subprocess.run([*powerless(), sys.executable, "-c", opening], capture_output=True, text=True)
    (directory.path / folder).chmod(0o755)
    assert f"{directory.path / folder}: cannot be read and written: Permission denied" in ended.stderr


def test_lost_client_states_are_said_once_and_begin_anew(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny(compression={"uplink": "topk"}, server={"rounds": 3, "cohort": 4}))
    lost, damaged, *_ = sorted(directory.state_folder.glob("*round-3*"))
    lost.unlink()
    flip(damaged)
    again = go_on(directory, "server.rounds=5")
    notes = [note for note in again.notes() if note.kind == LOST_STATE]
    assert len(notes) == 1
    assert "of client 0, 1;" in notes[0].note
    assert all(row["failed"] == 0 for row in again.rounds())


def test_a_lost_partition_is_made_again_if_it_is_the_same(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", tiny())
    before = directory.partition_file.read_bytes()
    flip(directory.partition_file)
    again = go_on(directory, "server.rounds=4")
    assert again.partition_file.read_bytes() == before
    assert again.notes()[0].note.endswith("made anew, the same")
    manifest = directory.path / "partition.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0'))
    flip(directory.partition_file)
    with pytest.raises(UserError, match=r"damaged partition: .*start the run anew"):
        go_on(directory, "server.rounds=5")


def test_what_a_run_writes_is_what_its_records_declare(tmp_path: Path) -> None:
    """No key that is unknown, no value of another type: the documents read back to the letter."""
    directory = run(tmp_path / "run", tiny())
    for name, kind in (
        ("environment.json", Environment),
        ("partition.json", Manifest),
        ("summary.json", RunSummary),
    ):
        kind.exactly(directory.read_json(name))


@pytest.mark.parametrize("place", [0, 5, -3])
def test_a_flipped_bit_in_a_ledger_is_one_clear_refusal_before_any_work(tmp_path: Path, place: int) -> None:
    directory = run(tmp_path / "run", tiny())
    ledger = directory.path / "rounds.jsonl"
    content = bytearray(ledger.read_bytes())
    content[content.index(b"\n") + 1 + place if place >= 0 else place] ^= 0x80
    ledger.write_bytes(content)
    (directory.path / "summary.json").unlink()
    with pytest.raises(UserError, match=r"rounds\.jsonl"):
        fedfmd.resume(directory.path)
    assert ledger.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is not valid JSON"),
        ('{"registered": [{}]}', "registered.0.kind: Field required"),
        ('{"registered": 3}', "registered: must be a valid"),
        (
            '{"registered": [{"kind": "x", "name": "a", "module": "b", "folder": null, "version": null}]}',
            "registered: 'x' is no kind of part",
        ),
        ('{"files": 3}', "files: must be"),
        ('{"files": ["a"]}', "files: must be"),
        ('{"images": 3}', "images: must be a valid string"),
    ],
)
def test_damaged_parts_are_one_clear_refusal(tmp_path: Path, content: str, fault: str) -> None:
    directory = run(tmp_path / "run", tiny())
    (directory.path / "parts.json").write_text(content)
    (directory.path / "summary.json").unlink()
    with pytest.raises(UserError) as error:
        fedfmd.resume(directory.path)
    assert str(error.value).startswith(f"{directory.path / 'parts.json'}: damaged: {fault}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "{}"])
def test_parts_that_are_gone_are_noted(tmp_path: Path, content: str | None) -> None:
    directory = run(tmp_path / "run", tiny())
    (directory.path / "parts.json").unlink()
    if content is not None:
        (directory.path / "parts.json").write_text(content)
    notes = go_on(directory, "server.rounds=4").notes()
    assert any("parts.json names no images" in note.note for note in notes)
