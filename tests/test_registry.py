"""Parts of one's own: found by name in every process, recorded in the run, refused when they have changed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfmd
from fedfmd import registry
from fedfmd.config.experiment import load_config, make_config
from fedfmd.config.outlines import as_written
from fedfmd.config.parts import check_shared
from fedfmd.contracts import check_itself
from fedfmd.deployment.assignment import RefusedOrderError, read_assignment
from fedfmd.errors import InputWarning, UserError
from fedfmd.modules import look_in
from fedfmd.nn import build_model
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.rounds.resumption import take_changes

ROOT = Path(__file__).parents[1]
PARTS = """
import torch
from torch import nn
from fedfmd.registry import register


@register("norm", "scaled-here")
def scaled(channels):
    return nn.GroupNorm(1, channels)


class TwoLayers(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.conv = nn.Conv2d(in_channels, 4, 3, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)) + self.shift)
"""
CONFIG = """
[data]
train_samples = 100
test_samples = 20
[partition]
scheme = "iid"
clients = 4
[model]
name = "{module}:TwoLayers"
[server]
rounds = 2
cohort = 2
[backend]
kind = "{backend}"
[logging]
tensorboard = false
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A config and a module beside it, whose name no other test uses."""
    module = f"own_parts_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{module}.py").write_text(PARTS.replace("scaled-here", module))
    (tmp_path / "config.toml").write_text(CONFIG.format(module=module, backend="inline"))
    return tmp_path / "config.toml", module


def test_a_network_beside_the_config_runs_is_recorded_and_says_how_it_is_counted(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    config, module = own
    with pytest.warns(InputWarning, match="TwoLayers: MACs counted by PyTorch's FLOP counter"):
        directory = start_run(load_config(config), tmp_path / "run")
    (part,) = directory.foundations.read().registered
    assert (part.kind, part.name, part.folder) == ("network", f"{module}:TwoLayers", str(tmp_path))
    assert sys.path[-1] == str(tmp_path)
    assert execute(directory, InlineExecutor)["rounds"] == 2


def test_the_bill_and_the_trainer_agree_on_a_last_single_sample(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    """17 samples in batches of 8 are two steps with BatchNorm, which only the built network tells of."""
    config, _ = own
    changes: dict[str, Any] = {"data.train_samples": 34, "client.batch_size": 8, "policy.kind": "partial"}
    with pytest.warns(InputWarning):
        directory = start_run(
            load_config(config, changes | {"budget.macs_fraction": 0.95, "partition.clients": 2}),
            tmp_path / "run",
        )
    execute(directory, InlineExecutor)
    rows = directory.clients()
    assert [(row["status"], row["steps"], row["budget"].get("violations")) for row in rows] == 4 * [
        ("partial", 1, None)
    ]


def test_resume_refuses_a_part_that_has_changed_or_is_gone(own: tuple[Path, str], tmp_path: Path) -> None:
    config, module = own
    with pytest.warns(InputWarning):
        start_run(load_config(config), tmp_path / "run")
    source = tmp_path / f"{module}.py"
    text = source.read_text()
    source.write_text(text + "# changed\n")
    with pytest.raises(UserError, match=f"network '{module}:TwoLayers' of module {module} has changed"):
        RunDirectory.open(tmp_path / "run").recover()
    take_changes(RunDirectory.open(tmp_path / "run"), (), accept=True)
    accepted = RunDirectory.open(tmp_path / "run")
    accepted.recover()
    assert [note.kind for note in accepted.notes()] == ["parts"]
    accepted.unlock()
    source.unlink()
    del sys.modules[module]
    with pytest.raises(UserError, match=f"names module {module}, which is not installed"):
        RunDirectory.open(tmp_path / "run").recover()


def test_resume_refuses_a_part_whose_module_imports_another_that_has_changed(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    """Of the modules beside it, not of what is installed; whether it is imported at once, or when needed."""
    config, module = own
    helper = tmp_path / f"{module}_tools" / "deep.py"
    helper.parent.mkdir()
    helper.write_text("from . import deeper\n")
    deeper = helper.with_name("deeper.py")
    deeper.write_text("import torch\n\nRATE = 1\n")
    source = tmp_path / f"{module}.py"
    source.write_text(f"{source.read_text()}\n\ndef later():\n    from {module}_tools.deep import deeper\n")
    with pytest.warns(InputWarning):
        start_run(load_config(config), tmp_path / "run")
    (helper.parent / "other.py").write_text("RATE = 3\n")
    RunDirectory.open(tmp_path / "run").foundations.check()
    deeper.write_text("import torch\n\nRATE = 2\n")
    with pytest.raises(UserError, match=f"network '{module}:TwoLayers' of module {module} has changed"):
        RunDirectory.open(tmp_path / "run").foundations.check()


def test_another_module_of_the_name_than_that_beside_the_config_is_refused(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    config, module = own
    load_config(config)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text(config.read_text())
    (other / f"{module}.py").write_bytes((tmp_path / f"{module}.py").read_bytes())
    load_config(other / "config.toml")  # says the same
    (other / f"{module}.py").write_text("TwoLayers = dict\n")
    with pytest.raises(
        UserError, match=rf"which is .*{module}\.py in this process, and not .*other/{module}"
    ):
        load_config(other / "config.toml")
    load_config(config)
    (tmp_path / "calendar.py").write_text("def TwoLayers(): ...\n")
    with pytest.raises(
        UserError, match=r"names module calendar, which is .*lib.*calendar\.py in this process"
    ):
        load_config(config, {"model.name": "calendar:TwoLayers"})


@pytest.mark.parametrize("taken", ["code", "json"])  # a module, a package
def test_a_folder_of_modules_that_is_called_as_one_of_pythons_is_refused(
    own: tuple[Path, str], tmp_path: Path, taken: str
) -> None:
    config, _ = own
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "parts.py").write_text("def TwoLayers(): ...\n")
    said = rf"names module {taken}, which is .*lib.*{taken}.* in this process, and not {tmp_path}/{taken}: "
    with pytest.raises(UserError, match=said):
        load_config(config, {"model.name": f"{taken}.parts:TwoLayers"})


def test_a_module_that_is_not_meant_is_not_even_run(
    own: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python finds first what lies in the folder that it was started in, whatever it is."""
    config, module = own
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = elsewhere / "ran"
    (elsewhere / f"{module}.py").write_text(f"open({str(ran)!r}, 'w')\nTwoLayers = dict\n")
    monkeypatch.syspath_prepend(elsewhere)
    with pytest.raises(UserError, match=rf"which is .*elsewhere/{module}\.py in this process, and not"):
        load_config(config)
    assert not ran.exists()


DOORS = """
import sys
from pathlib import Path

import fedfmd
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.resumption import take_changes
from fedfmd.studies.plan import load_study

door, beside, run = sys.argv[1], *map(Path, sys.argv[2:])
if door == "study":
    found = load_study(beside.parent / "studies" / "study.toml").runs[0].config
elif door == "resume":
    directory = RunDirectory.open(run)
    take_changes(directory, ["server.rounds=3"], accept=False)
    found = directory.config
elif door == "config":
    found = RunDirectory.open(run).config
else:
    print(type(fedfmd.load_model(run)).__name__)
    sys.exit()
print(found.model.name.partition(":")[2])
"""


def test_every_door_finds_the_parts_beside_a_config_and_those_of_a_run(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    """Each in a process of its own, elsewhere: what one has found, another would have."""
    config, _ = own
    with pytest.warns(InputWarning):
        directory = start_run(load_config(config), tmp_path / "away" / "run")
    execute(directory, InlineExecutor)
    (tmp_path / "studies").mkdir()
    study = 'name = "s"\nbase = "../config.toml"\nseeds = [0]\n'
    (tmp_path / "studies" / "study.toml").write_text(study)
    for door in ("study", "resume", "config", "model"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", DOORS, door, str(config), str(directory.path)],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert (door, done.stdout.strip(), done.returncode) == (door, "TwoLayers", 0), done.stderr


LOOKS = """
import sys
from pathlib import Path

import fedfmd
from fedfmd.cli.app import app
from fedfmd.errors import UserError

run, mark = map(Path, sys.argv[1:])
for words in (["runs", run.parent], ["compare", run, run], ["report", run], ["runs", run, "--json"]):
    try:
        app([str(word) for word in words], standalone_mode=False)
    except SystemExit as end:
        assert not end.code, words
    assert not mark.exists(), words
try:
    fedfmd.load_model(run)
except UserError as error:
    print(error)
assert not mark.exists()
"""


def test_whoever_looks_at_a_run_imports_none_of_the_modules_that_it_names(
    own: tuple[Path, str], tmp_path: Path
) -> None:
    """Wherever they lie, in the run directory as well; who loads its model has to approve them."""
    config, module = own
    with pytest.warns(InputWarning):
        directory = start_run(load_config(config), tmp_path / "runs" / "strange")
    execute(directory, InlineExecutor)
    mark, source = tmp_path / "imported", config.with_name(f"{module}.py")
    source.write_text(f"open({str(mark)!r}, 'w').close()\n{source.read_text()}")
    (directory.path / source.name).write_text(source.read_text())
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOKS, str(directory.path), str(mark)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(f"model.safetensors: .*{source.name} .*fedfmd approve {directory.path}$", done.stdout)


def test_another_process_finds_what_this_one_has_registered(own: tuple[Path, str], tmp_path: Path) -> None:
    _, module = own
    look_in(tmp_path)
    registry.find("network", f"{module}:TwoLayers")
    origin = registry.origin("norm", module)
    assert origin is not None
    code = (
        "import json, sys; from fedfmd import registry; "
        "part = registry.bring(registry.Origin(**json.loads(sys.argv[1]))); print(part.version)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, json.dumps(origin.to_json())],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert done.stdout.strip() == origin.version


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"conv": "fmdcon"}, "is not known; allowed: .*odconv.*; did you mean fmdconv"),
        ({"norm": "no_such_module:norm"}, "names module no_such_module, which is not installed"),
        (
            {"conv": "parts/mine.py:TopConv"},
            "no module's name; for a file mine.py beside the config it is mine:TopConv",
        ),
        ({"norm": "./mine.py:norm"}, "names './mine.py', which is no module's name; .* mine:norm"),
        ({"norm": "mine.py:norm"}, "it is mine:norm"),
        ({"norm": ":norm"}, "names '', which is no module's name"),
        ({"name": "math:sine"}, "names sine, which module math does not have; did you mean sin"),
        ({"name": "math:pi"}, "names neither a class nor a function"),
        ({"name": "cnn", "conv": "static"}, "counts only with a model.name that takes conv"),
    ],
)
def test_what_is_no_part_is_refused_with_what_is(model: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config({"model": model})


def test_a_name_has_one_part() -> None:
    with pytest.raises(UserError, match=r"fedfmd has registered that name"):
        registry.register("conv", "fmdconv")(torch.nn.Conv2d)
    with pytest.raises(UserError, match="is no kind of part; allowed: conv, norm"):
        registry.register("layer", "mine")


def test_a_part_of_the_running_script_serves_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "main_part", torch.nn.Conv2d, raising=False)
    config = make_config({"model": {"conv": "__main__:main_part"}})
    with pytest.raises(UserError, match=r"model\.conv = '__main__:main_part': is registered in the script"):
        check_shared(config)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": {"name": "antigravity:Net"}}, "model.name"),
        ({"algorithms": {"antigravity:Net": {}}}, "algorithms"),
        ({"algorithms": {"antigravity:Net": {"mu": 1}}}, "algorithms"),
    ],
)
def test_a_real_client_imports_no_module_that_a_server_names(config: dict[str, Any], key: str) -> None:
    with pytest.raises(RefusedOrderError, match=f"{key}: a client imports no module"):
        read_assignment(json.dumps({"config": config, "run": "r", "version": fedfmd.__version__}))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(("channels", "side", "parameters"), [(3, 32, 62_006), (1, 28, 44_426)])
def test_the_small_network_has_the_published_sizes(channels: int, side: int, parameters: int) -> None:
    model = build_model("cnn", num_classes=10, in_channels=channels, image_size=side)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)


def test_a_kind_s_home_knows_all_parts_of_the_package() -> None:
    """In a process of its own: another test may have imported what the home should have."""
    package = Path(registry.__file__).parent
    said = {
        (kind, name)
        for file in package.rglob("*.py")
        for kind, name in re.findall(r'^ *@?register\("(\w+)", "([\w-]+)"', file.read_text(), re.MULTILINE)
    }
    assert len(said) > 20
    code = """
import json
from fedfmd.registry import HOMES, registered
print(json.dumps({kind: [*registered(kind)] for kind in HOMES}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = {(kind, name) for kind, names in json.loads(done.stdout).items() for name in names}
    assert said <= known


def test_what_is_written_of_the_built_in_parts_is_what_they_say() -> None:
    written = registry.OUTLINES.read_text()
    assert written == as_written(), "built_in.json is stale: run python -m fedfmd.config.outlines"


@pytest.mark.parametrize("kind", registry.HOMES)
def test_built_in_parts_can_be_called_as_their_kind_is(kind: str) -> None:
    own = {("data", "huggingface"): ["source"]}  # of the others, none needs an option
    assert registry.built_in(kind)
    for name in registry.built_in(kind):
        check_itself(kind, name, own.get((kind, name), ()))


def test_a_config_of_built_in_parts_is_read_and_refused_without_pytorch() -> None:
    code = """
import sys
from pathlib import Path
from fedfmd.config.experiment import load_config
from fedfmd.errors import UserError
load_config(Path(sys.argv[1]))
try:
    load_config(Path(sys.argv[1]), ["server.cohort=0"])
except UserError as error:
    print(error)
print("torch" in sys.modules)
"""
    config = ROOT / "configs" / "quickstart.toml"
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=True)
    refusal, imported = done.stdout.splitlines()
    assert "server.cohort" in refusal
    assert imported == "False"
