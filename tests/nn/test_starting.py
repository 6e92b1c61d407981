"""Runs that begin from weights: of a model file of ours, and of a checkpoint under the authors' names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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
    with pytest.raises(UserError, match="no such run directory or model file"):
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
