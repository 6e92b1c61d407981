"""Runs that begin from weights: of a model file of ours, and of a checkpoint under the authors' names."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fedfmd
from fedfmd.errors import InputWarning, UserError
from fedfmd.nn import build_model
from fedfmd.nn.checkpoints import to_authors_state_dict
from fedfmd.nn.starting import load_initial

TINY = {
    "data": {"train_samples": 40, "test_samples": 20},
    "partition": {"scheme": "sampled", "clients": 2, "samples_per_client": 10},
    "model": {"width": 0.25, "kernels": 2},
    "server": {"rounds": 1, "cohort": 2},
    "backend": {"kind": "inline"},
    "logging": {"tensorboard": False},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_runs_begin_where_another_ended(tmp_path: Path) -> None:
    """Federated and central: before any step, the network measures what the other ended with."""
    first = fedfmd.simulate(TINY, out=tmp_path / "first")
    begun = {"model.init": str(first.path), "seed": 0}
    second = fedfmd.simulate(TINY, overrides=begun, out=tmp_path / "second")
    assert second.rounds["test_loss"].iloc[0] == first.rounds["test_loss"].iloc[-1]
    still = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-30, "weight_decay": 0.0, "device": "cpu"}
    central = fedfmd.train(TINY | {"train": still}, overrides=begun, out=tmp_path / "central")
    ended, kept = (load_file(run.path / "model.safetensors") for run in (first, central))
    assert all(torch.allclose(tensor, kept[name]) for name, tensor in ended.items())


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    first = fedfmd.simulate(TINY, out=tmp_path / "first")
    with pytest.warns(InputWarning, match=r"of another shape: fc\.weight \(10, 16\) instead of \(12, 16\)"):
        run = fedfmd.simulate(
            TINY, overrides={"model.init": str(first.path), "model.outputs": 12}, out=tmp_path / "b"
        )
    assert [note.kind for note in run.directory.notes()] == ["init"]
    with pytest.raises(UserError, match="nothing in it fits the network"):
        fedfmd.simulate(
            TINY,
            overrides={"model.init": str(first.path), "model.name": "cnn", "model.outputs": 12},
            out=tmp_path / "c",
        )
    with pytest.raises(UserError, match=r"model.init = .nowhere.safetensors.: cannot be read: No such file"):
        fedfmd.simulate(TINY, overrides={"model.init": "nowhere.safetensors"}, out=tmp_path / "d")


@pytest.mark.parametrize("conv", ["fmdconv", "odconv"])
def test_a_checkpoint_under_the_authors_names_fits_but_for_other_classes(conv: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "conv": conv,
        "norm": "bn",
        "attention_norm": "bn",
        "width": 0.25,
        "kernels": 2,
    }
    theirs, ours = (build_model("resnet18", num_classes=n, **options) for n in (100, 10))
    state = {f"module.{name}": tensor for name, tensor in to_authors_state_dict(theirs).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best.pth.tar")
    told = load_initial(ours, tmp_path / "best.pth.tar")
    assert "fc.weight (100, 128) instead of (10, 128)" in told
    assert "not in it" not in told
    assert torch.equal(ours.state_dict()["conv1.weight"], theirs.state_dict()["conv1.weight"])


def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any image is read: a pipe would be waited for, and a device read for ever."""
    monkeypatch.setattr(
        "fedfmd.rounds.lifecycle.open_noted", lambda settings: pytest.fail("images were read")
    )
    os.mkfifo(tmp_path / "pipe.pth")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.pth", tmp_path / "pipe.safetensors", Path("/dev/zero")):
        with pytest.raises(
            UserError, match=rf"^model.init = '{path}': cannot be read: is no regular file; name a"
        ):
            fedfmd.simulate(TINY, overrides={"model.init": str(path)}, out=tmp_path / "run")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        fedfmd.simulate(TINY, overrides={"model.init": str(tmp_path / "none.pth")}, out=tmp_path / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "best.pth", "best.pth.tar"])
def test_a_file_of_something_else_names_key_and_file_however_large_it_is(name: str, tmp_path: Path) -> None:
    """Empty, cut off, and 5 GB that the disk does not have to hold: none is read whole."""
    model, file = build_model("resnet8", num_classes=10, width=0.25), tmp_path / name
    made = tmp_path / f"made-{name}"
    torch.save(model.state_dict(), made) if ".pth" in name else save_file(dict(model.state_dict()), made)
    cut = made.read_bytes()[:-2000]
    for content, size in ((b"", 0), (b"\0", 5 << 30), (b"{}", 5 << 30), (cut, len(cut))):
        with file.open("wb") as opened:
            opened.write(content)
            opened.truncate(size)
        with pytest.raises(UserError, match=rf"^model.init = '{file}': {file}: .*cannot be read"):
            load_initial(model, file)


def test_a_folder_without_a_model_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^model.init = '{tmp_path}': {tmp_path}: holds no model.safetensors"
    ):
        fedfmd.simulate(TINY, overrides={"model.init": str(tmp_path)}, out=tmp_path / "run")
