"""Squeeze-and-excitation: torchvision's layer, at the end of every residual branch and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation as Reference

import fedfmd
from fedfmd.costs.macs import Macs, model_cost
from fedfmd.errors import UserError
from fedfmd.nn import SqueezeExcitation, build_model
from fedfmd.registry import register


def test_it_is_torchvisions() -> None:
    ours, theirs = SqueezeExcitation(48).double(), Reference(48, 3).double()
    for mine, other in ((ours.fc1, theirs.fc1), (ours.fc2, theirs.fc2)):
        other.weight.data.copy_(mine.weight[:, :, None, None])
        nn.init.normal_(mine.bias)
        other.bias.data.copy_(mine.bias)
    x = torch.randn(2, 48, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 5, 15])
def test_few_channels_have_one_hidden_unit(channels: int) -> None:
    layer = SqueezeExcitation(channels)
    assert layer.fc1.out_features == 1
    assert layer(torch.ones(2, channels, 3, 3)).shape == (2, channels, 3, 3)


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 3), ("resnet50", 16), ("preresnet12", 5)])
def test_every_branch_ends_with_it(name: str, blocks: int) -> None:
    """With its attention at 1 the network is the static one; what it adds is so many layers."""
    torch.manual_seed(0)
    model = build_model(name, conv="se", num_classes=4, width=0.25).eval()
    static = build_model(name, conv="static", num_classes=4, width=0.25).eval()
    assert sum(isinstance(module, SqueezeExcitation) for module in model.modules()) == blocks
    state = model.state_dict()
    static.load_state_dict({key: value for key, value in state.items() if "excitation" not in key})
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(model(x), static(x))
    for key, value in state.items():
        if key.endswith("excitation.fc2.weight"):
            value.zero_()
        elif key.endswith("excitation.fc2.bias"):
            value.fill_(100.0)
    torch.testing.assert_close(model(x), static(x))


def test_a_layer_by_hand() -> None:
    cost = model_cost(nn.Sequential(SqueezeExcitation(32)), (32, 4, 6))
    assert cost.macs_by_kind == Macs(attention=2 * 32 * 2 + 32 * 24)
    assert cost.parameters == 2 * 32 * 2 + 32 + 2
    assert not cost.generic


def test_a_network_without_blocks_refuses_it() -> None:
    @register("network", "no-blocks")
    def network(*, num_classes: int, conv: Any) -> nn.Module:
        return nn.Sequential(conv(3, num_classes, 1, 1, 0), nn.Flatten())

    assert build_model("no-blocks", conv="static", num_classes=4)
    with pytest.raises(UserError, match="conv = 'se' needs a network that takes excitation; 'no-blocks'"):
        build_model("no-blocks", conv="se", num_classes=4)


def test_narrow_clients_train_a_part_of_it(tmp_path: Path) -> None:
    result = fedfmd.simulate(
        {
            "data": {"train_samples": 90, "test_samples": 20},
            "partition": {"scheme": "iid", "clients": 3},
            "model": {"conv": "se"},
            "policy": {"kind": "width", "widths": [1.0, 0.5]},
            "budget": {"macs_fraction": 0.5},
            "server": {"rounds": 1, "cohort": 2},
            "backend": {"kind": "inline"},
        },
        out=tmp_path / "run",
    )
    assert set(result.clients["status"]) == {"completed"}
    assert set(result.clients["plan.width"]) == {0.5}
