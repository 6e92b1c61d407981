"""Modules that a run made elsewhere names run once they are approved, and no others with them."""

import importlib._bootstrap_external as bootstrap
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from fedfmd import approvals
from fedfmd.approvals import approvals_file, approve, approved
from fedfmd.sources import file_sha256

PART = """
from torch import nn

import {helper}

{helper}.mark({name!r})


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, stride=4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))
"""
HELPER = """
import os


def mark(name):
    open(os.environ["MARK"], "a").write(name)
"""
CONFIG = """
[data]
train_samples = 100
test_samples = 20
[partition]
scheme = "iid"
clients = 4
[model]
name = "{name}"
[server]
rounds = 1
cohort = 2
[backend]
kind = "inline"
[logging]
tensorboard = false
"""


class Desk:
    """A user with a state folder of his own, on a machine of her own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.mark = folder / "ran"
        folder.mkdir()

    def call(self, *words: object, code: int = 0) -> str:
        """Run a command; returns what it printed. What own modules ran is in ``self.ran``."""
        self.mark.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fedfmd", *map(str, words)],
            env={**os.environ, "XDG_STATE_HOME": str(self.folder / "state"), "MARK": str(self.mark)},
            capture_output=True, text=True, check=False, cwd=self.folder,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def ran(self) -> bool:
        """Whether the last command ran the module."""
        return self.mark.exists()


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Who has made a run with a module beside its config."""
    desk = Desk(tmp_path_factory.mktemp("owner") / "desk")
    (desk.folder / "part.py").write_text(PART.format(helper="aid", name="part"))
    (desk.folder / "aid.py").write_text(HELPER)
    (desk.folder / "e.toml").write_text(CONFIG.format(name="part:Net"))
    desk.call("simulate", "e.toml", "--out", "run")
    return desk


@pytest.fixture
def stranger(owner: Desk, tmp_path: Path) -> Desk:
    """Who gets a copy of that run, with its modules in it."""
    desk = Desk(tmp_path / "desk")
    for name in ("part.py", "aid.py"):
        (tmp_path / name).write_bytes((owner.folder / name).read_bytes())
    subprocess.run(["cp", "-r", owner.folder / "run", desk.folder / "run"], check=True)
    for name in ("part.py", "aid.py"):
        (desk.folder / "run" / name).write_bytes((owner.folder / name).read_bytes())
    (desk.folder / "run" / "parts.json").unlink()  # which says where they were
    return desk


def test_who_made_a_run_is_never_asked_about_it_not_even_after_a_change(owner: Desk) -> None:
    owner.call("simulate", "--resume", "run", "--set", "server.rounds=2")
    assert owner.ran
    (owner.folder / "part.py").write_text((owner.folder / "part.py").read_text() + "# edited\n")
    told = owner.call("simulate", "--resume", "run", "--set", "server.rounds=3", code=2)
    assert "has changed since the run began" in told
    owner.call("simulate", "--resume", "run", "--set", "server.rounds=3", "--accept")


@pytest.mark.parametrize(
    "words",
    [("simulate", "--resume", "run", "--set", "server.rounds=9"), ("export", "run", "--out", "x.onnx")],
)
def test_a_strangers_modules_run_after_they_are_approved_by_name_and_hash(
    stranger: Desk, words: tuple[str, ...]
) -> None:
    told = stranger.call(*words, code=2)
    assert not stranger.ran
    for name in ("part.py", "aid.py"):
        file = stranger.folder / "run" / name
        assert f"{file} (SHA-256 {file_sha256(file)})" in told
    assert told.rstrip().endswith("then: fedfmd approve run")
    assert "part.py" in stranger.call("approve", "run")
    assert "nothing that is not approved" in stranger.call("approve", "run")
    stranger.call(*words)
    assert stranger.ran
    (stranger.folder / "run" / "aid.py").write_text(HELPER + "# other\n")
    told = stranger.call("export", "run", "--out", "x.onnx", code=2)
    assert not stranger.ran
    assert "aid.py" in told
    assert "part.py (" not in told


def test_a_file_that_waits_to_be_imported_by_others_is_named_with_the_module(stranger: Desk) -> None:
    """The folder of a module is on Python's path, where libraries look for what they can do without."""
    stranger.call("approve", "run")
    (stranger.folder / "run" / "olefile").mkdir()
    (stranger.folder / "run" / "olefile" / "__init__.py").write_text("")
    assert "olefile/__init__.py" in stranger.call("export", "run", "--out", "x.onnx", code=2)


def test_what_was_approved_is_what_runs_whatever_bytecode_lies_beside_it(stranger: Desk) -> None:
    folder = stranger.folder / "run"
    evil = folder / "evil"
    evil.write_text("import os\nopen(os.environ['MARK'] + '-evil', 'w')\n" + (folder / "part.py").read_text())
    cache = bootstrap.cache_from_source(str(folder / "part.py"))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), cfile=cache, invalidation_mode=mode)
    evil.unlink()
    stranger.call("approve", "run")
    stranger.call("export", "run", "--out", "x.onnx")
    assert stranger.ran
    assert not stranger.mark.with_name("ran-evil").exists()


def test_a_run_calls_nothing_of_what_is_installed_but_what_was_named_before(stranger: Desk) -> None:
    config = CONFIG.format(name="cnn").replace("[data]", '[data]\nname = "subprocess:Popen"')
    for name in ("config.toml", ".config.toml"):
        text = config + f'[options.data]\nargs = "touch {stranger.mark}"\nshell = true\n'
        (stranger.folder / "run" / name).write_text(text)
    told = stranger.call("simulate", "--resume", "run", code=2)
    assert "data.name = 'subprocess:Popen': names subprocess:Popen, which no run of yours" in told
    assert not stranger.ran


def test_what_the_reader_names_needs_no_approval(stranger: Desk, tmp_path: Path) -> None:
    words = ("--set", "model.name=part:Net", "--set", "server.rounds=9")
    stranger.call("simulate", "--resume", "run", *words)
    assert stranger.ran


def test_where_no_state_can_be_kept_a_run_is_made_and_approving_says_the_cure(owner: Desk) -> None:
    state = owner.folder / "state"
    state.rename(owner.folder / "kept")
    state.write_text("")
    try:
        owner.call("simulate", "e.toml", "--out", "other")
        told = owner.call("approve", "other", code=2)
        assert "set XDG_STATE_HOME to a folder that can" in told
    finally:
        state.unlink()
        (owner.folder / "kept").rename(state)


def test_entries_are_kept_once_and_no_entry_makes_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert approved() == frozenset()
    approve(["a", "b", "a"])
    approve(["b", "c", "d\nsubprocess:Popen"])
    assert approvals_file().read_text() == "a\nb\nc\n"
    assert approvals_file().stat().st_mode & 0o077 == 0
    with approvals.doubting(tmp_path) as doubt, approvals.doubting(tmp_path / "inner"):
        assert approvals.doubted() is doubt
    assert approvals.doubted() is None
