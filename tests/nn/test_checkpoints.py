"""The authors' names, both ways: golden layers, whole networks, torchvision's static ResNet, bad files."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from fedfmd.errors import UserError
from fedfmd.nn import build_model
from fedfmd.nn.checkpoints import (
    load_authors_checkpoint,
    load_authors_state_dict,
    to_authors_state_dict,
)


def paper_model(conv: str, name: str = "resnet8") -> torch.nn.Module:
    return build_model(name, conv=conv, num_classes=10, norm="bn", attention_norm="bn").eval()


def randomise(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand_like(value) + 0.5)


@pytest.mark.parametrize("conv", ["fmdconv", "odconv", "static"])
def test_a_state_survives_the_way_there_and_back(conv: str) -> None:
    model, other = paper_model(conv), paper_model(conv)
    randomise(model)
    load_authors_state_dict(other, to_authors_state_dict(model))
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), other(x))


def test_the_exported_names_are_those_of_the_authors_network() -> None:
    state = to_authors_state_dict(paper_model("fmdconv", "resnet18"))
    # Shapes read off the authors' FMD_ResNet.
    assert state["layer1.0.conv1.attention.fc.weight"].shape == (16, 64, 1, 1)
    assert state["layer1.0.conv1.attention.bn.running_mean"].shape == (16,)
    assert state["layer2.0.conv1.attention.filter_fc.bias"].shape == (128,)
    assert state["layer4.1.conv2.attention2.fc1.weight"].shape == (129, 512, 1, 1)
    assert state["layer4.1.conv2.attention2.fc2.weight"].shape == (4, 129, 1, 1)
    assert state["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1)
    assert state["layer3.0.downsample.1.num_batches_tracked"].dtype == torch.int64
    assert state["bn1.weight"].shape == (64,)
    assert state["fc.weight"].shape == (10, 512)


def test_a_static_network_gives_what_torchvision_gives() -> None:
    theirs = resnet18(num_classes=10).eval()
    ours = build_model("resnet18", conv="static", num_classes=10, norm="bn", stem="imagenet").eval()
    load_authors_state_dict(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))
    theirs.load_state_dict(to_authors_state_dict(ours), strict=True)


def test_the_prefix_of_data_parallel_training_is_dropped(tmp_path: Path) -> None:
    model, other = paper_model("odconv"), paper_model("odconv")
    state = {f"module.{key}": value for key, value in to_authors_state_dict(model).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pth.tar")
    load_authors_checkpoint(other, tmp_path / "model.pth.tar")
    assert torch.equal(model.state_dict()["fc.weight"], other.state_dict()["fc.weight"])


def test_missing_unexpected_and_reshaped_entries_are_named_and_nothing_is_loaded() -> None:
    model = paper_model("fmdconv")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in to_authors_state_dict(model).items()}
    del state["layer1.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(3)
    state["fc.bias"] = torch.zeros(7)
    with pytest.raises(UserError) as error:
        load_authors_state_dict(model, state)
    message = str(error.value)
    assert "missing: layer1.0.bn1.weight;" in message
    assert "unexpected: layer9.weight;" in message
    assert "fc.bias (7,) instead of (10,)" in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_group_norm_model_refuses_the_authors_batch_norm() -> None:
    state = to_authors_state_dict(paper_model("fmdconv"))
    with pytest.raises(UserError, match=r"unexpected: bn1\.running_mean"):
        load_authors_state_dict(build_model("resnet8", num_classes=10), state)


@pytest.mark.parametrize("conv", ["dyconv", "condconv"])
def test_convolutions_without_published_names_are_refused(conv: str) -> None:
    with pytest.raises(UserError, match="no authors' names"):
        to_authors_state_dict(paper_model(conv))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pth: cannot be read"):
        load_authors_checkpoint(paper_model("static"), path)


def test_a_file_without_a_state_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth: holds no state"):
        load_authors_checkpoint(paper_model("static"), tmp_path / "empty.pth")


def test_a_file_that_runs_code_is_not_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "object.pth")
    with pytest.raises(UserError, match=r"object\.pth: cannot be read"):
        load_authors_checkpoint(paper_model("static"), tmp_path / "object.pth")
