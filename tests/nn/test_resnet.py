"""The network: its shape for every convolution, what is dynamic in it, its norms, and what training needs."""

import copy
import pickle
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models as reference

from fedfmd.errors import UserError
from fedfmd.nn import (
    DynamicConv2d,
    Temperatures,
    build_model,
    dynamic_layers,
    freeze_statistics,
    local_state_names,
    set_temperature,
)
from fedfmd.nn.norm import BatchNorm, group_norm
from fedfmd.nn.part_norm import keep_groups, take_window
from fedfmd.nn.resnet import ARCHITECTURES, scaled
from fedfmd.nn.submodel import window

DYNAMIC = ["condconv", "dyconv", "odconv", "fmdconv"]
CONVS = ["static", "se", *DYNAMIC, "kernelwarehouse"]
NORMS = ["gn", "bn", "ln", "fixbn", "fedbn"]


def on_meta(*args: Any, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        return build_model(*args, **kwargs)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_static_network_has_the_shape_of_torchvisions(name: str) -> None:
    ours = on_meta(name, conv="static", num_classes=1000, norm="bn", stem="imagenet")
    with torch.device("meta"):
        theirs = getattr(reference, name)()
    shapes = [tuple(p.shape) for p in ours.parameters()]
    assert sorted(shapes) == sorted(tuple(p.shape) for p in theirs.parameters())
    x = torch.empty(2, 3, 224, 224, device="meta")
    assert ours(x).shape == theirs(x).shape


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 3), ("resnet14", 6), ("resnet20", 9)])
def test_the_cifar_family(name: str, blocks: int) -> None:
    model = on_meta(name, num_classes=10)
    assert len(list(dynamic_layers(model))) == 2 * blocks
    assert model.get_submodule("fc").in_features == 64
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("conv", ["static", "se", *DYNAMIC])
def test_what_is_dynamic(name: str, conv: str) -> None:
    model = on_meta(name, conv=conv, num_classes=10)
    for path, module in model.named_modules():
        in_block = path.startswith("layer") and path.rpartition(".")[2].startswith("conv")
        if in_block and conv in DYNAMIC:
            assert isinstance(module, DynamicConv2d), path
        elif isinstance(module, nn.Conv2d):
            assert path == "conv1" or in_block or "downsample" in path
            assert module.bias is None


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("norm", ["gn", "ln"])
def test_a_batch_of_one_trains(conv: str, norm: str) -> None:
    model = build_model("resnet8", conv=conv, num_classes=4, in_channels=1, norm=norm).train()
    model(torch.randn(1, 1, 16, 16)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("conv", CONVS)
def test_a_few_steps_learn(conv: str) -> None:
    torch.manual_seed(0)
    model = build_model("resnet8", conv=conv, num_classes=2, width=0.5).train()
    set_temperature(model, Temperatures(kernel=10.0, channel=10.0))
    x, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 2
    x[labels == 1, 0] += 1.0
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("conv", CONVS)
def test_splitting_a_batch_changes_nothing_in_evaluation(conv: str) -> None:
    model = build_model("resnet8", conv=conv, num_classes=4, norm="bn", attention_norm="bn").double().eval()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention_norm", ["ln", "bn", "none"])
def test_the_state_is_floating_point(norm: str, attention_norm: str) -> None:
    model = build_model("resnet8", num_classes=4, norm=norm, attention_norm=attention_norm).train()
    model(torch.randn(4, 3, 16, 16))
    assert all(value.is_floating_point() for value in model.state_dict().values())
    other = build_model("resnet8", num_classes=4, norm=norm, attention_norm=attention_norm)
    # A plain dictionary, as it comes off a wire, has no metadata beside its tensors.
    other.load_state_dict(dict(model.state_dict()), strict=True)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_batch_norm_is_torchs() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    for _ in range(3):
        x = torch.randn(4, 5, 3, 3)
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with pytest.raises(ValueError, match="2 or 4 dimensions"):
        ours(torch.randn(4, 5, 3))


@given(st.integers(1, 600))
def test_group_norm_fits_any_number_of_channels(channels: int) -> None:
    norm = group_norm(channels)
    size = channels // norm.num_groups
    assert size * norm.num_groups == channels
    assert size >= min(channels, 8)


def test_group_norm_of_a_slice_is_the_slice_of_group_norm() -> None:
    wide, narrow = group_norm(64), group_norm(16)
    x = torch.randn(2, 64, 5, 5)
    torch.testing.assert_close(narrow(x[:, :16]), wide(x)[:, :16])


@given(whole=st.integers(1, 64), held=st.integers(1, 64), first=st.integers(0, 80))
def test_channels_of_a_part_keep_the_groups_of_the_whole(whole: int, held: int, first: int) -> None:
    """Each group is normalised over those of its channels that are present, whatever the window."""
    held = min(held, whole)
    wide, part = nn.Sequential(group_norm(whole)), nn.Sequential(group_norm(held))
    keep_groups(part, wide)
    take_window(part, first)
    channels = window(whole, held, first)
    x = torch.randn(2, held, 3, 3, generator=torch.Generator().manual_seed(whole))
    out, size = part(x), whole // cast(Any, wide[0]).num_groups
    for group in set((channels // size).tolist()):
        mine = channels // size == group
        own = x[:, mine]
        mean, variance = own.mean((1, 2, 3), keepdim=True), own.var((1, 2, 3), correction=0, keepdim=True)
        torch.testing.assert_close(
            out[:, mine], (own - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-5
        )


def test_a_part_with_whole_groups_computes_what_the_whole_does() -> None:
    wide, part = nn.Sequential(group_norm(32)), nn.Sequential(group_norm(16))
    keep_groups(part, wide)
    take_window(part, 24)
    x = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    held = window(32, 16, 24)
    assert held.tolist() == [*range(24, 32), *range(8)]
    torch.testing.assert_close(part(x[:, held]), wide(x)[:, held])


def test_fedbn_names_what_stays_on_the_client() -> None:
    model = build_model("resnet8", num_classes=4, norm="fedbn")
    local = local_state_names(model)
    backbone = {
        key for key in model.state_dict() if "norm" in key.split(".")[-2] or "downsample.1" in key
    } - {key for key in model.state_dict() if "attention" in key}
    assert local == backbone
    assert "norm1.running_mean" in local
    assert not local_state_names(build_model("resnet8", num_classes=4, norm="bn"))


def test_fixbn_keeps_its_statistics_once_frozen() -> None:
    model = build_model("resnet8", num_classes=4, norm="fixbn").train()
    norm: Any = model.get_submodule("norm1")
    x = torch.randn(4, 3, 16, 16) + 3
    model(x)
    assert norm.running_mean.any()
    freeze_statistics(model)
    before = copy.deepcopy(model.state_dict())
    logits = model.train()(x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    torch.testing.assert_close(model.eval()(x), logits)
    logits.sum().backward()
    assert norm.weight.grad is not None
    freeze_statistics(model.train(), frozen=False)
    model(x)
    assert not torch.equal(before["norm1.running_mean"], norm.running_mean)


@given(st.integers(1, 512), st.sampled_from([1.0, 0.5, 0.25, 0.125, 1 / 16, 0.07, 0.3, 2.0]))
def test_width_rounds_channels_up(channels: int, width: float) -> None:
    assert -1e-6 < scaled(channels, width) - width * channels < 1 + 1e-6
    assert scaled(100, 0.07) == 7
    assert scaled(3, 1e-9) == 1


@pytest.mark.parametrize("width", [0.01, 0.3, 1.5])
@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
def test_any_width_runs(name: str, width: float) -> None:
    model = build_model(name, num_classes=4, width=width, kernels=2) if width < 1 else None
    model = model or on_meta(name, num_classes=4, width=width)
    x = torch.randn(2, 3, 16, 16).to(next(model.parameters()).device)
    assert model(x).shape == (2, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet19"}, "name = 'resnet19' is not known; allowed: 'cnn', 'resnet8'"),
        ({"conv": "conv"}, "conv = 'conv'"),
        ({"norm": "in"}, "norm = 'in'"),
        ({"attention_norm": "gn"}, "attention_norm = 'gn'"),
        ({"stem": "patch"}, "stem = 'patch'"),
        ({"kernels": 0}, "kernels = 0"),
        ({"num_classes": 0}, "num_classes = 0"),
        ({"in_channels": -1}, "in_channels = -1"),
        ({"width": 0.0}, "width = 0"),
        ({"width": float("nan")}, "width = nan"),
    ],
)
def test_impossible_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(**{"name": "resnet8", "num_classes": 10, **change})


@pytest.mark.parametrize("conv", CONVS)
def test_copies_and_functional_calls_agree(conv: str) -> None:
    model = build_model("resnet8", conv=conv, num_classes=4, width=0.5).eval()
    x = torch.randn(2, 3, 16, 16)
    y = model(x)
    assert torch.equal(copy.deepcopy(model)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    assert torch.equal(torch.func.functional_call(model, model.state_dict(), (x,)), y)


@pytest.mark.slow
def test_a_compiled_model_follows_the_temperature() -> None:
    model = build_model("resnet8", num_classes=4, width=0.5).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 16, 16)
    for temperature in (34.0, 7.0, 1.0):
        set_temperature(model, Temperatures(kernel=temperature, channel=temperature))
        torch.testing.assert_close(compiled(x), model(x))


def test_a_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build_model("resnet8", num_classes=4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
