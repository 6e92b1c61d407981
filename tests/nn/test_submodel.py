"""Parts of the network: which elements they are, and what aggregation over their holders does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.algorithms.fjord import NestedWidths
from fedfmd.algorithms.heterofl import scale_activations
from fedfmd.nn import ResNet, build_model, kernel_state_names
from fedfmd.nn.submodel import WHOLE, Share, share_index, window
from fedfmd.nn.vector import Layout, bind

KERNELS = 4


def build(share: Share = WHOLE, conv: str = "fmdconv", name: str = "resnet8", **options) -> ResNet:
    torch.manual_seed(1)
    built = build_model(
        name,
        conv=conv,
        num_classes=5,
        width=0.5 * share.width,
        kernels=len(share.kernels) or KERNELS,
        exits=True,
        stages=share.depth or None,
        **options,
    )
    assert isinstance(built, ResNet)
    return built


def places_of(key: str) -> torch.Tensor | None:
    """Return the places of a part by its name, as a sum asks for them; null for the whole."""
    share = Share.from_key(key)
    return None if share.whole else index_of(share)


def index_of(share: Share, conv: str = "fmdconv", name: str = "resnet8") -> torch.Tensor:
    whole, part = build(conv=conv, name=name), build(share, conv, name)
    return share_index(Layout.of(whole), Layout.of(part), share, kernel_state_names(whole))


@settings(max_examples=15)
@given(
    conv=st.sampled_from(["static", "se", "condconv", "dyconv", "odconv", "fmdconv"]),
    name=st.sampled_from(["resnet8", "resnet18", "resnet50"]),
    width=st.sampled_from([1.0, 0.5, 0.25, 0.125]),
    kernels=st.sets(st.integers(0, KERNELS - 1), min_size=1, max_size=KERNELS),
    depth=st.integers(1, 3),
    rotation=st.integers(0, 100),
)
def test_every_share_of_every_network_is_a_set_of_its_elements(
    conv: str, name: str, width: float, kernels: set[int], depth: int, rotation: int
) -> None:
    chosen = () if conv in ("static", "se") else tuple(sorted(kernels))
    share = Share(width, chosen, depth, rotation)
    places = index_of(share, conv, name)
    assert len(places) == Layout.of(build(share, conv, name)).elements
    assert len(places.unique()) == len(places)
    assert 0 <= int(places.min()) <= int(places.max()) < Layout.of(build(conv=conv, name=name)).elements


def test_the_whole_is_all_elements_in_order() -> None:
    elements = Layout.of(build()).elements
    assert torch.equal(index_of(WHOLE), torch.arange(elements))


@given(held=st.integers(1, 12), channels=st.integers(1, 12))
def test_a_rolling_window_visits_every_channel_equally_often(held: int, channels: int) -> None:
    held = min(held, channels)
    visits = torch.zeros(channels)
    for round in range(channels):
        places = window(channels, held, round)
        assert len(places.unique()) == held
        visits[places] += 1
    assert set(visits.tolist()) == ({float(held)} if held < channels else {float(channels)})


@pytest.mark.parametrize("conv", ["static", "condconv", "dyconv", "odconv", "fmdconv"])
def test_a_part_computes_what_the_whole_does_when_the_rest_is_silent(conv: str) -> None:
    """Kernels the softmax cannot choose, and channels that are zero, change nothing but for the norms."""
    share = Share(kernels=() if conv == "static" else (0, 2))
    whole, part = build(conv=conv, norm="bn").eval(), build(share, conv, norm="bn").eval()
    vector, own = bind(whole), bind(part)
    for name, entry in whole.state_dict().items():
        if name.endswith(("kernel_attention.fc2.bias", "kernel_attention.bias", "kernel_fc.bias")):
            entry[[1, 3]] = -1e4
    places = share_index(Layout.of(whole), Layout.of(part), share, kernel_state_names(whole))
    own.copy_(vector[places])
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part(x), whole(x), rtol=1e-4, atol=1e-5)


def test_a_rotated_part_is_a_permuted_network() -> None:
    """With all channels of a static network held, no rotation changes anything."""
    share = Share(width=0.5, rotation=5)
    places, first = index_of(share, "static"), index_of(Share(width=0.5), "static")
    assert len(places) == len(first)
    assert not torch.equal(places, first)


def scatter(parts: list[tuple[torch.Tensor, int, Share]]) -> tuple[torch.Tensor, torch.Tensor]:
    elements = Layout.of(build()).elements
    total = ExactSum.zero(elements, Scale.for_round(torch.ones(1), sum(w for _, w, _ in parts)))
    for update, weight, share in parts:
        total.add(update, weight, share.key, None if share.whole else index_of(share))
    holders = total.holders(places_of)
    return total.mean(holders), holders


def update_of(share: Share, seed: int) -> torch.Tensor:
    elements = Layout.of(build(share)).elements
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def test_each_element_is_the_mean_over_its_holders() -> None:
    shares = [WHOLE, Share(width=0.5), Share(width=0.5, rotation=3), Share(kernels=(1, 3), depth=2)]
    weights = [2, 3, 5, 7]
    parts = [(update_of(s, i), w, s) for i, (s, w) in enumerate(zip(shares, weights, strict=True))]
    mean, holders = scatter(parts)
    sums = torch.zeros(len(mean), dtype=torch.float64)
    held = torch.zeros(len(mean), dtype=torch.float64)
    for update, weight, share in parts:
        places = index_of(share)
        sums[places] += weight * update.double()
        held[places] += weight
    assert torch.equal(holders, held)
    torch.testing.assert_close(mean, sums / held, rtol=0, atol=1e-13)


def test_what_nobody_holds_does_not_move_and_disjoint_shares_do_not_meet() -> None:
    one, two = Share(kernels=(0,)), Share(kernels=(1,))
    mean, holders = scatter([(update_of(one, 1), 1, one), (update_of(two, 2), 1, two)])
    alone, _ = scatter([(update_of(one, 1), 1, one)])
    assert bool((holders == 0).any())
    assert torch.equal(mean[holders == 0], torch.zeros(int((holders == 0).sum()), dtype=torch.float64))
    own = torch.zeros(len(mean), dtype=torch.bool)
    own[index_of(one)] = True
    own[index_of(two)] = False
    assert int(own.sum()) > 0
    assert torch.equal(mean[own], alone[own])


@settings(max_examples=10)
@given(order=st.permutations(range(4)), cut=st.integers(0, 4))
def test_any_order_and_grouping_of_shares_gives_the_same_bits(order: list[int], cut: int) -> None:
    shares = [WHOLE, Share(width=0.5), Share(width=0.25, rotation=3), Share(kernels=(2,))]
    parts = [(update_of(s, i), i + 1, s) for i, s in enumerate(shares)]
    scale = Scale.for_round(torch.ones(1), 10)
    elements = Layout.of(build()).elements
    groups = [ExactSum.zero(elements, scale), ExactSum.zero(elements, scale)]
    for place, number in enumerate(order):
        update, weight, share = parts[number]
        groups[place < cut].add(update, weight, share.key, None if share.whole else index_of(share))
    groups[0].merge(groups[1])
    expected, _ = scatter(parts)
    assert torch.equal(groups[0].mean(groups[0].holders(places_of)), expected)


def test_whole_clients_reduce_to_federated_averaging() -> None:
    updates = [update_of(WHOLE, seed) for seed in range(3)]
    mean, holders = scatter([(u, w, WHOLE) for u, w in zip(updates, (1, 2, 3), strict=True)])
    assert len(holders) == 1
    expected = sum(w * u.double() for u, w in zip(updates, (1, 2, 3), strict=True)) / 6
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-13)


def test_names_of_shares_come_back() -> None:
    for share in (WHOLE, Share(0.5, (0, 2), 2, 7)):
        assert Share.from_key(share.key) == share


def test_the_scaler_divides_in_training_only() -> None:
    plain, scaled = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    scaled.load_state_dict(plain.state_dict())
    scale_activations(scaled, 0.25)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(scaled.train()(x), 4 * plain(x))
    torch.testing.assert_close(scaled.eval()(x), plain(x))


def test_the_scaler_reaches_every_convolution_once() -> None:
    model = build(conv="fmdconv")
    scale_activations(model, 0.5)
    hooked = [m for m in model.modules() if m._forward_hooks]
    assert len(hooked) == 1 + 6 + 2
    assert all(len(m._forward_hooks) == 1 for m in hooked)


def test_a_nested_width_is_the_network_of_its_prefix() -> None:
    """FjORD: the same logits as the network cut out of it; gradients only where it is."""
    share = Share(width=0.5)
    whole, part = build(), build(share)
    vector, own = bind(whole), bind(part)
    places = index_of(share)
    own.copy_(vector[places])
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = NestedWidths(whole, {0.5: build(share).to("meta")})(0.5, x)
    torch.testing.assert_close(logits, part(x))
    logits.sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in whole.parameters()])
    outside = torch.ones(len(gradient), dtype=torch.bool)
    outside[places[places < len(gradient)]] = False
    assert not gradient[outside].any()
    assert gradient[~outside].any()


def test_heterofls_network_has_its_published_size() -> None:
    model = build_model("preresnet12", conv="static", num_classes=10, norm="bn")
    assert sum(p.numel() for p in model.parameters()) == 9_622_090
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "preresnet12"])
def test_exits_train_together_and_answer_as_an_ensemble(name: str) -> None:
    """A part of fewer stages is an ensemble of fewer: its state is the whole's, tensor by tensor."""
    model = build(name=name)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    each = model.train()(x)
    assert each.shape == (model.stages, 2, 5)
    torch.testing.assert_close(model.eval()(x), each.mean(0))
    part = build(Share(depth=2), name=name)
    whole = model.state_dict()
    assert set(part.state_dict()) <= set(whole)
    part.load_state_dict({key: whole[key] for key in part.state_dict()})
    torch.testing.assert_close(part.train()(x), each[:2])
