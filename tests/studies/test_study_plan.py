"""Study files: what they make, and how they say what is wrong with them."""

from pathlib import Path

import pytest

from fedfmd.building import temperature_schedule
from fedfmd.cli.actions.plan import _wall_words
from fedfmd.errors import UserError
from fedfmd.machine.processes import available_cores
from fedfmd.studies.arms import CONTROLS
from fedfmd.studies.plan import Study, load_study

CONFIGS = Path(__file__).parents[2] / "configs"
MANY = list(range(100))
EXPERIMENT = "[experiment]\nserver = { rounds = 2, cohort = 4 }\npartition = { clients = 8 }\n"


def study(tmp_path: Path, text: str, experiment: str = EXPERIMENT) -> Study:
    file = tmp_path / "study.toml"
    file.write_text(f"{text}\n{experiment}")
    return load_study(file)


def test_arms_times_axes_times_seeds(tmp_path):
    found = study(
        tmp_path,
        """name = "grid"
seeds = [3, 5]
arms = [{ name = "static", set = { "model.conv" = "static" } }, { name = "dynamic" }]
[axes]
"model.width" = [0.25, 1.0]
client.epochs = [1, 2, 3]""",
    )
    assert len(found.arms) == 2 * 2 * 3
    assert found.arms[0].name == "static width=0.25 epochs=1"
    assert len(found.runs) == 24
    assert len({run.folder for run in found.runs}) == 24
    last = found.runs[-1].config
    assert (last.model.conv, last.model.width, last.client.epochs, last.seed) == ("fmdconv", 1.0, 3, 5)
    assert found.runs[0].config.model.conv == "static"
    assert [run.seed for run in found.runs[:12]] == [3] * 12
    assert found.baseline == found.arms[0].name


def test_keys_of_an_algorithm_of_ones_own_are_spelled_as_on_the_command_line(tmp_path):
    (tmp_path / "damped_updates.py").write_text(
        "from fedfmd.algorithms import Algorithm, Section\n"
        "class Options(Section):\n    factor: float = 1.0\n    power: float = 1.0\n"
        "class Damped(Algorithm):\n    Options = Options\n"
        "    def weight(self, weight, staleness):\n        return weight\n"
    )
    found = study(
        tmp_path,
        """name = "own"
seeds = [0]
set = { 'algorithms."damped_updates:Damped".power' = 2.0 }
arms = [{ name = "plain" }, { name = "damped", set = { 'algorithms."damped_updates:Damped".factor' = 0.5 } }]
[axes]
'algorithms."damped_updates:Damped".factor' = [0.1, 0.2]""",
    )
    tables = [run.config.algorithms for run in found.runs]
    assert tables == [
        {"damped_updates:Damped": {"power": 2.0, "factor": factor}} for factor in (0.1, 0.2, 0.5)
    ]


def test_an_arm_keeps_the_value_that_it_sets_itself(tmp_path):

    found = study(
        tmp_path,
        """name = "own"
seeds = [0]
arms = [{ name = "all" }, { name = "narrow", set = { "model.width" = 0.5 } }]
[axes]
"model.width" = [0.25, 1.0]
"client.epochs" = [1, 2]""",
    )
    assert [arm.name for arm in found.arms[4:]] == ["narrow epochs=1", "narrow epochs=2"]
    assert {run.config.model.width for run in found.runs[4:]} == {0.5}


def test_runs_keep_the_base_and_are_loops_in_one_process(tmp_path):
    found = study(tmp_path, 'name = "one"\nset = { "client.batch_size" = 7 }')
    assert [arm.name for arm in found.arms] == ["base"]
    config = found.runs[0].config
    assert (config.server.rounds, config.client.batch_size, config.backend.kind) == (2, 7, "inline")
    assert [run.config.seed for run in found.runs] == [0, 1, 2]


def test_a_base_file_is_found_beside_the_study(tmp_path):
    (tmp_path / "base.toml").write_text("[server]\nrounds = 9\n")
    found = study(tmp_path, 'name = "based"\nbase = "base.toml"', "")
    assert {run.config.server.rounds for run in found.runs} == {9}


def test_a_written_study_is_the_same_study(tmp_path):
    first = study(
        tmp_path, 'name = "s"\nseeds = [4]\ncontrols = ["full"]\naxes = { "model.kernels" = [1, 2] }'
    )
    (tmp_path / "copy.toml").write_text(first.dump())
    assert load_study(tmp_path / "copy.toml").runs == first.runs


def test_all_controls_vary_the_chosen_arm(tmp_path):
    found = study(
        tmp_path,
        """name = "controlled"
seeds = [0]
controls = true
controls_of = "narrow"
set = { "budget.macs_fraction" = 0.5, "policy.kind" = "width" }
arms = [{ name = "plain" }, { name = "narrow", set = { "model.width" = 0.5 } }]""",
    )
    assert [arm.name for arm in found.arms] == ["plain", "narrow", *CONTROLS]
    by_arm = {run.arm: run.config for run in found.runs}
    assert {by_arm[name].control for name in CONTROLS} == set(CONTROLS)
    assert {by_arm[name].model.width for name in CONTROLS} == {0.5}
    assert by_arm["narrow"].control == "none"


def test_a_control_that_an_arm_is_already_is_that_arm_and_told(tmp_path):
    found = study(tmp_path, 'name = "s"\ncontrols = ["full"]\n[axes]\n"model.kernels" = [1, 2]')
    assert [arm.name for arm in found.arms] == ["kernels=1", "kernels=2"]
    assert found.notes[0] == "The control 'full kernels=1' is the arm 'kernels=1', run once."


CROSSED = """name = "crossed"
seeds = [0]
controls = true
[axes]
"model.conv" = ["static", "fmdconv"]
"policy.kind" = ["drop", "width"]
"budget.macs_fraction" = [0.25, 0.5]"""


def test_a_control_is_crossed_with_what_it_leaves_open_and_made_once(tmp_path):
    found = study(tmp_path, CROSSED)
    names = [arm.name for arm in found.arms]
    assert len(names) == 8 + 0 + 4 + 4 + 4 + 4  # of 8 + 5 * 8
    # Leaving out who cannot do the full work is the policy `drop`, which an axis has.
    assert not [name for name in names if name.startswith("exclude-weak")]
    # The smallest and the full model for all are policies: each with every convolution and budget.
    assert [name for name in names if name.startswith("full")] == [
        f"full conv={conv} macs_fraction={share}"
        for conv in ("static", "fmdconv")
        for share in ("25%", "50%")
    ]
    # A static network is its own static control.
    static = [name for name in names if name.startswith("static-equal-macs")]
    assert len(static) == 4
    assert all("conv=fmdconv" in name for name in static)
    assert found.design.points["full conv=static macs_fraction=25%"]["policy.kind"] == "none"
    assert found.arms == load_again(tmp_path, found).arms


def load_again(tmp_path, found):
    (tmp_path / "again.toml").write_text(found.dump())
    return load_study(tmp_path / "again.toml")


def test_arms_in_which_the_axes_do_not_count_are_refused_with_the_rule_that_mends_it(tmp_path):
    text = """name = "twice"
seeds = [0]
%s
[axes]
"model.conv" = ["static", "fmdconv"]
"model.kernels" = [1, 2, 4]"""
    with pytest.raises(UserError) as caught:
        study(tmp_path, text % "")
    told = str(caught.value)
    assert "arms 'conv=static kernels=1' and 'conv=static kernels=2' are the same experiment" in told
    skip = told[told.index("skip = ") :]
    assert [arm.name for arm in study(tmp_path, text % skip).arms] == [
        "conv=static kernels=1",
        "conv=fmdconv kernels=1",
        "conv=fmdconv kernels=2",
        "conv=fmdconv kernels=4",
    ]
    with pytest.raises(UserError, match=r"arms 'a' and 'b' are the same experiment.*; leave one out"):
        study(tmp_path, 'name = "s"\narms = [{ name = "a" }, { name = "b" }]')


SMOKE = """name = "long"
seeds = [0, 1, 2]
set = { "server.rounds" = 9 }
arms = [{ name = "static", set = { "model.conv" = "static" } }, { name = "dynamic" }]
[axes]
"model.width" = [0.25, 0.5, 1.0]
"""


def test_a_study_is_changed_without_a_copy_of_its_file(tmp_path):
    """Keys of the file, and keys of the experiment in every arm; what is written is the changed study."""
    study(tmp_path, SMOKE)
    changes = ["name=short", "seeds=[7]", "axes.model.width=[0.5]", "server.rounds=2", "compare.axis=bytes"]
    found = load_study(tmp_path / "study.toml", changes)
    assert found.name == "short"
    assert [(run.arm, run.seed) for run in found.runs] == [("static width=0.5", 7), ("dynamic width=0.5", 7)]
    assert {run.config.server.rounds for run in found.runs} == {2}
    assert found.config.compare.axis == "bytes"
    assert load_again(tmp_path, found).runs == found.runs
    arms = load_study(tmp_path / "study.toml", {"arms.static.set.client.epochs": 2}).runs
    assert [run.config.client.epochs for run in arms[:6]] == [2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "axes"),
    [
        ('axes={"client.epochs"=[1, 2]}', {"client.epochs": [1, 2]}),
        ("axes.client.epochs=[1, 2]", {"model.width": [0.25, 0.5, 1.0], "client.epochs": [1, 2]}),
        ("axes={}", {}),
    ],
)
def test_a_table_takes_the_place_of_a_study_s_and_a_longer_key_changes_that_one(tmp_path, change, axes):
    study(tmp_path, SMOKE)
    assert load_study(tmp_path / "study.toml", [change]).config.axes == axes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.width=0.5", "--set model.width=0.5: does not count in every arm: it is an axis; give axes."),
        ("model.conv=se", "arm 'static' sets it; give arms.static.set.model.conv=..."),
        ("model={ conv = 'se' }", "does not count in every arm: it is an axis; give axes.model.width=[...]"),
        ("seed=3", "seed: the study itself sets this key"),
        ("server.round=3", "unknown key server.round; did you mean rounds?"),
        ("seeds=[1, 1]", "seeds = 1: is given twice"),
        ("seeds", "must look like SECTION.KEY=VALUE"),
    ],
)
def test_a_change_that_does_not_count_is_refused(tmp_path, change, expected):
    study(tmp_path, SMOKE)
    with pytest.raises(UserError) as caught:
        load_study(tmp_path / "study.toml", [change])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "s"\nseed = [1]', "unknown key seed; did you mean seeds?"),
        ('name = "s"\nseeds = [1, 1]', "seeds = 1: is given twice"),
        ('name = "s"\n[compare]\naxes = "macs"', "unknown key compare.axes; did you mean axis?"),
        ('name = "s"\n[compare]\naxis = "watts"', "compare.axis = 'watts': must be 'macs'"),
        ('name = "s"\n[compare]\naxis = "energy_joules"', "arm 'base' has devices.kind = 'none'"),
        ('name = "s"\n[compare]\nbaseline = "b"', "compare.baseline = 'b': is no arm (arms: base)"),
        ('name = "s"\naxes = { "model.kernels" = [] }', "axes.model.kernels = []: must have at least 1 item"),
        (
            f'name = "s"\naxes = {{ "a" = {MANY}, "b" = {MANY} }}',
            "30,000 runs, at most 10,000; leave values out",
        ),
        (
            f'name = "s"\nsearch = {{ space = {{ a = {MANY}, b = {MANY}, c = {MANY} }} }}',
            "search.space: has 1,000,000 combinations, at most 100,000; leave values out",
        ),
        ('name = "s"\n[compare]\nresamples = 1e12', "compare.resamples = 1000000000000.0: must be less than"),
        ('name = "s"\naxes = { "model.kernels" = [0] }', "arm 'kernels=0': model.kernels = 0: must be"),
        ('name = "s"\narms = [{ name = "a", set = { "model.kernel" = 2 } }]', "did you mean kernels?"),
        ('name = "s"\nset = { "seed" = 2 }', "seed: the study itself sets this key"),
        ('name = "s"\nset = { "server.rounds.x" = 2 }', "server.rounds.x: rounds is a value"),
        ('name = "s"\narms = [{ name = "a b" }, { name = "a-b" }]', "arm 'a b': its name is too like"),
        ('name = "s"\ncontrols = ["weak"]', "controls"),
        ('name = "s"\ncontrols = ["none"]', "controls = 'none': is no control"),
        ('name = "s"\ncontrols = ["full", "full"]', "controls = 'full': is given twice"),
        (
            'name = "s"\nset = { "model.conv" = "static" }\ncontrols = ["static-equal-macs"]',
            "controls = 'static-equal-macs': every network that it would vary is static already",
        ),
        ('name = "s"\nbase = "b.toml"', "give either base = 'FILE' or a section [experiment]"),
        ('name = "../s"', "name = '../s'"),
        ("seeds = [0]", "name: is missing"),
        ('name = "s', "not valid TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        study(tmp_path, text)
    assert str(tmp_path / "study.toml") in str(caught.value)
    assert expected in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.toml: no such study file"):
        load_study(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match=r"base = 'nowhere\.toml': no such file"):
        study(tmp_path, 'name = "s"\nbase = "nowhere.toml"', "")


@pytest.mark.parametrize(
    ("other", "kind"), [('name = "o"\nseeds = [0]', "is a study"), ("[[models]]", "is a list of models")]
)
def test_a_base_that_is_no_experiment_is_named(tmp_path, other, kind):
    (tmp_path / "other.toml").write_text(other)
    command = "study" if "study" in kind else "profile"
    run = f"run: fedfmd {command} {tmp_path}/other.toml"
    with pytest.raises(UserError, match=f"base = 'other.toml': {tmp_path}/other.toml: {kind}.*; {run}$"):
        study(tmp_path, 'name = "s"\nbase = "other.toml"\naxes = {"model.kernels" = [2, 3]}', "")


@pytest.mark.parametrize("file", [*sorted(CONFIGS.glob("study-*.toml")), CONFIGS / "cifar10-budgets.toml"])
def test_the_studies_that_come_along_are_sound(file, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert len(load_study(file).runs) >= 9


def test_the_study_of_temperatures_changes_one_temperature_at_a_time(monkeypatch):
    """Against `fixed`, `kernel_only` differs in the softmax alone, `sigmoid_only` in the sigmoids alone."""
    monkeypatch.chdir(CONFIGS.parent)
    study = load_study(CONFIGS / "study-temperature.toml")
    configs = {run.config.temperature.mode: run.config for run in study.runs}
    rounds = range(study.runs[0].config.server.rounds)
    by_mode = {}
    for mode, config in configs.items():
        schedule = temperature_schedule(config.temperature, config.server.horizon_rounds)
        by_mode[mode] = [schedule(t) for t in rounds]
    kernel = {mode: [t.kernel for t in values] for mode, values in by_mode.items()}
    channel = {mode: [t.channel for t in values] for mode, values in by_mode.items()}
    assert set(by_mode) == {"both", "kernel_only", "sigmoid_only", "fixed"}
    assert kernel["fixed"] == kernel["sigmoid_only"] == [34] * len(rounds)
    assert channel["fixed"] == channel["kernel_only"] == [1] * len(rounds)
    assert kernel["kernel_only"] == kernel["both"] == channel["sigmoid_only"] == channel["both"]
    assert kernel["both"] == [34, 16, *[1] * 13]  # DyConv's 11 of 100 epochs, in a run of 15 rounds


@pytest.mark.parametrize(("target", "told"), [(0.1, "at or below chance"), (0.05, "at or below chance")])
def test_a_target_that_guessing_meets_is_refused_before_any_run(tmp_path, target, told):
    file = tmp_path / "study.toml"
    file.write_text(f'name = "s"\n[experiment]\nname = "e"\n[compare]\ntargets = [{target}]\n')
    with pytest.raises(UserError, match=rf"study\.toml: compare\.targets = {target}: .*{told}"):
        load_study(file)


GRID = """name = "grid"
%s
[axes]
"model.conv" = ["static", "fmdconv"]
"client.learning_rate_milestones" = [[1], [2]]"""


def test_a_skip_that_leaves_out_nothing_is_refused_with_the_levels(tmp_path):
    """A typing error in it would be paid for with runs."""
    rule = 'skip = [{ "model.conv" = "%s", "client.learning_rate_milestones" = %s }]'
    assert len(study(tmp_path, GRID % rule % ("static", [2])).arms) == 3
    for wrong in (("statik", [2]), ("static", [3])):
        with pytest.raises(
            UserError, match=r"leaves out no arm \(levels: model\.conv: static, fmdconv; "
        ) as told:
            study(tmp_path, GRID % rule % wrong)
        assert str(told.value).count("\n") == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('controls = ["foo"]', r"^\S+study\.toml: controls\.0 = 'foo': must be 'none', 'exclude-weak'"),
        (
            'figure = { costs = ["foo"] }',
            r"^\S+study\.toml: figure\.costs\.0 = 'foo': must be 'round', 'macs'",
        ),
        ("figure = { panel = [3] }", r"^\S+study\.toml: figure\.panel\.0 = 3: must be a valid string"),
    ],
)
def test_a_key_of_several_types_is_told_by_its_own_name_in_one_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as told:
        study(tmp_path, f'name = "s"\n{text}')
    assert str(told.value).count("\n") == 0


def test_a_plan_counts_on_no_more_runs_at_a_time_than_have_cores_for_their_workers(tmp_path):
    workers = f"backend = {{ workers = {available_cores()} }}\n"
    found = study(tmp_path, 'name = "wide"\nseeds = [0, 1]', EXPERIMENT + workers)
    (said,) = _wall_words(found, found.config.seeds, {}, None)
    assert said.startswith("all runs, 1 at a time: ")
