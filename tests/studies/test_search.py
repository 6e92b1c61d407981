"""Search: laws of the ladder, rules for ties and divergence, and a whole search, broken off and repeated."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from fedfmd.cli.actions.plan import plan_shown
from fedfmd.config.study import SearchConfig
from fedfmd.errors import RunError, UserError
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.studies.child import bring_to_end
from fedfmd.studies.plan import Study, load_study
from fedfmd.studies.runner import RunOutcome
from fedfmd.studies.search import (
    Tried,
    _ranked,
    _tried,
    candidates,
    check_search,
    find_best,
    ladder,
    plan_search,
    tuned,
)
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.study import tuning_words
from fedfmd.units import quantity

STUDY = """name = "s"
seeds = [0]
axes = { "model.conv" = ["static", "fmdconv"] }
[search]
space = { "client.learning_rate" = [1e-9, 0.01, 1e30] }
halving = 2
[experiment]
data = { train_samples = 240, test_samples = 60 }
partition = { scheme = "sampled", clients = 8, samples_per_client = 30, validation = 0.2 }
model = { name = "resnet8", width = 0.25, kernels = 2, norm = "bn", stem = "imagenet" }
client = { batch_size = 10, optimizer = "adamw", augment = false }
server = { rounds = 4, cohort = 4 }
"""


def study(folder: Path, text: str = STUDY) -> Study:
    (folder / "study.toml").write_text(text)
    return load_study(folder / "study.toml")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "search-cache"))


@pytest.mark.parametrize(
    ("count", "halving", "sizes"), [(8, 3, (8, 3)), (9, 3, (9, 3)), (3, 2, (3, 2)), (2, 4, (2,))]
)
def test_a_rung_is_longer_by_as_much_as_it_is_smaller(count, halving, sizes):
    found = ladder(count, halving)
    assert found.sizes == sizes
    assert found.shares[-1] == 1.0
    assert all(b == halving * a for a, b in zip(found.shares, found.shares[1:], strict=False))


def test_the_cost_of_a_ladder_counts_a_candidate_that_goes_on_once():
    assert ladder(9, 3).cost == pytest.approx(9 / 3 + 3 * (1 - 1 / 3))


def test_candidates_are_a_fixed_list():
    every = SearchConfig(space={"a": [1, 2], "b": [3, 4]})
    assert candidates(every) == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]
    some = SearchConfig(space={"a": list(range(50))}, candidates=5)
    assert candidates(some) == candidates(some)
    assert len(candidates(some)) == 5
    assert candidates(some) != candidates(some.model_copy(update={"seed": 7}))


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_one():
    def one(number, top1, loss):
        return Tried("a", number, {}, 0, 1, top1, loss, 1.0, "")

    tried = [one(0, 0.5, 1.0), one(1, None, None), one(2, 0.6, 2.0), one(3, 0.6, 1.5), one(4, 0.6, 1.5)]
    assert [found.candidate for found in _ranked(tried)] == [3, 4, 2, 0]


def run_here(folder: Path, started: list[str], most: int | None = None):
    """Run candidates one after another in this process; stop in the middle after ``most`` of them."""

    def run_all(rung: Study) -> list[RunOutcome]:
        for run in rung.runs:
            if most is not None and len(started) >= most:
                raise KeyboardInterrupt
            started.append(f"{run.folder} to {run.config.server.rounds}")
            path = folder / "runs" / run.folder
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                bring_to_end(path, run.config, RunDirectory(path))
            except RunError:
                continue
        return []

    return run_all


def test_a_candidate_that_gave_up_has_cost_what_it_spent(tmp_path):
    """Its allowance counts it: a rate at which all clients fail is found by trying it."""
    run = study(tmp_path).runs[0]
    folder = tmp_path / "runs" / run.folder
    folder.mkdir(parents=True)
    rows = [{"round": 0, "cumulative": {"macs": 0}}, {"round": 1, "cumulative": {"macs": 70}}]
    (folder / filenames.ROUNDS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _tried("static", 0, {}, 0, run, tmp_path).macs == 70
    stopped = {"status": "stopped", "cumulative": {"macs": 100, "downlink_bytes": 5}}
    (folder / filenames.SUMMARY).write_text(json.dumps(stopped))
    tried = _tried("static", 0, {}, 0, run, tmp_path)
    assert (tried.macs, tried.validation_top1) == (100, None)


@pytest.mark.slow
def test_a_search_finds_what_learns_and_goes_on_with_it(tmp_path):
    found = study(tmp_path)
    check_search(found)
    started: list[str] = []
    tunings = find_best(found, tmp_path, run_here(tmp_path, started))
    for tuning in tunings:
        last = [one for one in tuning.tried if one.rung == 1]
        best = max(last, key=lambda one: (validated(tmp_path, one), -(one.validation_loss or 0)))
        assert (tuning.chosen, len(last)) == (best.keys, 2)
    by_arm = {tuning.arm: tuning for tuning in tunings}
    assert all(len(tuning.tried) == 3 + 2 for tuning in tunings)
    wild = [one for one in tunings[0].tried if one.keys["client.learning_rate"] == 1e30]
    assert [one.validation_top1 for one in wild] == [None]
    # The same MACs for both arms: FMDConv's rounds are dearer, so it has fewer of them.
    most = [max(one.macs for one in tuning.tried if one.macs) for tuning in by_arm.values()]
    assert max(most) / min(most) < 1.7
    rates = [(tuning.chosen or {})["client.learning_rate"] for tuning in tunings]
    assert [run.config.client.learning_rate for run in tuned(found, tunings).runs] == rates
    assert 1e30 not in rates
    assert [run.config.seed for run in tuned(found, tunings).runs] == [0, 0]

    first = (tmp_path / filenames.TUNINGS).read_text()
    other = tmp_path / "other"
    other.mkdir()
    started.clear()
    with pytest.raises(KeyboardInterrupt):
        find_best(found, other, run_here(other, started, most=7))  # in the middle of the last rung
    find_best(found, other, run_here(other, started))
    assert (other / filenames.TUNINGS).read_text() == first


def test_candidates_that_are_compared_early_are_warned_of(tmp_path):
    short = STUDY.replace("[search]", "[search]\nmacs = 1e8").replace("rounds = 4", "rounds = 40")
    tunings = find_best(study(tmp_path, short), tmp_path, run_here(tmp_path, []))
    judged = max(one.rounds for one in tunings[0].tried)
    assert judged < 20
    assert f"Candidates are compared after {judged} of 40 rounds" in tuning_words(tunings)[-1]
    whole = [replace(one, judged_rounds=20) for one in tunings]
    assert not any("Candidates" in line for line in tuning_words(whole))


def test_a_search_that_is_done_is_read_without_the_images(tmp_path, monkeypatch):
    images = tmp_path / "images"
    for part, name, i in product(("train", "val"), "ab", range(20)):
        (images / part / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 99 * (name == "b"), 0)).save(images / part / name / f"{i}.png")
    text = STUDY.replace(
        "train_samples = 240, test_samples = 60", f'name = "imagefolder", image_size = 8, root = "{images}"'
    )
    text = text.replace('["static", "fmdconv"]', '["fmdconv"]').replace(
        "samples_per_client = 30", "samples_per_client = 4"
    )
    text = text.replace("rounds = 4", "rounds = 2").replace("1e-9, 0.01, 1e30", "0.01, 0.02")
    before = find_best(study(tmp_path, text), tmp_path, run_here(tmp_path, []))
    shutil.rmtree(images)
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "empty"))
    assert find_best(study(tmp_path, text), tmp_path, lambda rung: []) == before
    with pytest.raises(UserError, match="images"):
        plan_search(study(tmp_path, text))


def test_a_plan_says_what_a_search_will_do(tmp_path):
    long = STUDY.replace("rounds = 4", "rounds = 40").replace("1e30", "0.02")
    found = study(tmp_path, long.replace("[search]", "[search]\nmacs = 1e8"))
    written = StringIO()
    plan_shown(PlainConsole(file=written, width=200), tmp_path / "study.toml", [], None, False)
    said = written.getvalue()
    planned = plan_search(found)
    assert planned is not None
    tunings = find_best(found, tmp_path, run_here(tmp_path, []))
    done = sum(tuning.macs for tuning in tunings)
    assert planned.macs == pytest.approx(done, rel=0.02)
    lasts = sorted({rounds[-1] for rounds in planned.rounds.values()})
    last = " to ".join(map(str, lasts))
    assert f"then 2 candidates for {last} rounds; {quantity(planned.macs, 'MAC')} in all" in said
    assert f"Candidates are compared after {lasts[0]} of 40 rounds" in said


def validated(folder: Path, one: Tried) -> float:
    """The validation top-1 of a candidate as its own ledger has it."""
    rows = RunDirectory.open(folder / "runs" / one.folder).rounds()
    return next(row["validation_top1"] for row in rows if row["round"] == one.rounds)


def test_an_optimum_at_the_edge_is_warned_of(tmp_path):
    found = study(
        tmp_path, STUDY.replace("1e-9, 0.01, 1e30", "1e-9, 0.01").replace('"static", "fmdconv"', '"fmdconv"')
    )
    tunings = find_best(found, tmp_path, run_here(tmp_path, []))
    assert tunings[0].edges == ("client.learning_rate",)
    assert any("at the edge of its list" in line for line in tuning_words(tunings))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("validation = 0.2", "validation = 0.0"), "needs partition.validation above 0"),
        (('"client.learning_rate" = [1e-9', '"client.learning_rat" = [1e-9'), "did you mean learning_rate?"),
        (('"client.learning_rate" = [1e-9', '"model.conv" = [1e-9'), "is an axis as well"),
        (("halving = 2", 'by = ["model.width"]'), "search.by = 'model.width': is no factor"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path, change, expected):
    with pytest.raises(UserError) as caught:
        check_search(study(tmp_path, STUDY.replace(*change)))
    assert expected in str(caught.value)


def test_arms_alike_in_a_factor_share_a_search(tmp_path):
    text = STUDY.replace('["static", "fmdconv"] }', '["fmdconv"], "client.epochs" = [1, 2] }')
    found = study(tmp_path, text.replace("halving = 2", 'halving = 3\nby = ["model.conv"]'))
    started: list[str] = []
    tunings = find_best(found, tmp_path, run_here(tmp_path, started))
    assert len(started) == 3
    assert [tuning.arm for tuning in tunings] == [arm.name for arm in found.arms]
    assert tunings[0].chosen == tunings[1].chosen
    told = [line for line in tuning_words(tunings) if "3 candidates for" in line]
    assert len(told) == 1  # said of each arm, one search would look like two
    assert told[0].startswith("All arms: client.learning_rate = ")
