"""KernelWarehouse: the authors' figures, who shares which cells, the assignment that tau begins with."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedfmd
from fedfmd.config.experiment import parse_config
from fedfmd.costs.macs import Macs, model_cost
from fedfmd.costs.memory import training_bytes
from fedfmd.errors import UserError
from fedfmd.nn import KernelWarehouse2d, Temperatures, Warehouse, build_model, set_temperature
from fedfmd.nn import kernels as compiled_kernels
from fedfmd.nn.functional import Formulation, convolve_each
from fedfmd.nn.kernelwarehouse import warehouses
from fedfmd.nn.vector import Layout

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [c for c in json.loads((GOLDEN / "index.json").read_text()) if c["layer"] == "KernelWarehouse"]
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
PAPER = {"1x": (1.0, 1.0, 1.0), "1/2x": (0.5, 0.5, 0.5), "2x": (2.0, 1.0, 1.0), "4x": (4.0, 1.0, 1.0)}


def ratios(number: float = 1.0, inplane: float = 1.0, outplane: float = 1.0) -> dict[str, Any]:
    return {
        "cell_num_ratio": number,
        "cell_inplane_ratio": inplane,
        "cell_outplane_ratio": outplane,
    }


class ThreeLayers(nn.Module):
    """The network of the golden files: a and b share one warehouse, c has its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.a = KernelWarehouse2d(8, 8, 3, 1, 1, **options)
        self.b = KernelWarehouse2d(8, 16, 3, 2, 1, **options)
        self.c = KernelWarehouse2d(16, 8, 1, **options)
        self.shared = warehouses([[self.a, self.b], [self.c]])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return y


def ours(name: str) -> str:
    """Return our name of an entry of the authors' state."""
    return (
        name.replace("warehouse_manager.weights.0", "shared.0.cells")
        .replace("warehouse_manager.weights.1", "shared.1.cells")
        .replace("norm1", "norm")
    )


def golden(case: dict[str, Any]) -> tuple[dict[str, Tensor], ThreeLayers]:
    values = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / case["file"]).items()}
    sizes = ratios(case["cell_num_ratio"], case["cell_inplane_ratio"], case["cell_outplane_ratio"])
    model = ThreeLayers(attention_norm="bn", **sizes).double().eval()
    state = {ours(key.removeprefix("state/")): v for key, v in values.items() if key.startswith("state/")}
    model.load_state_dict({k: v[..., 0, 0] if "cells" in k else v for k, v in state.items()})
    set_temperature(model, Temperatures(tau=case["temperature"]))
    return values, model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def test_output_and_every_gradient_are_the_authors(case: dict[str, Any]) -> None:
    values, model = golden(case)
    x = values["x"].requires_grad_()
    y = model(x)
    y.backward(values["grad_y"])
    torch.testing.assert_close(y, values["y"], **EXACT)
    torch.testing.assert_close(x.grad, values["grad_x"], **EXACT)
    expected = {ours(key.removeprefix("grad/")): v for key, v in values.items() if key.startswith("grad/")}
    parameters = dict(model.named_parameters())
    assert expected.keys() == parameters.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(parameters[name].grad, gradient.view_as(parameters[name]), **EXACT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def test_the_assignment_is_the_authors(case: dict[str, Any]) -> None:
    values, model = golden(case)
    for name in "abc":
        layer = model.get_submodule(name)
        assert isinstance(layer, KernelWarehouse2d)
        places, cells = layer.attention.shape
        theirs = values[f"temp_bias/{name}.attention"].view(places, cells)
        assert torch.equal(
            layer.assignment(torch.empty(places, cells - 1, dtype=torch.float64)), theirs[:, :-1]
        )


def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return build_model(name, conv="kernelwarehouse", num_classes=10, **options)


@pytest.mark.parametrize(
    ("size", "cells", "parameters", "mixing"),
    [
        ("1x", [56, 47, 47, 27], "11.42", "384.9"),
        ("1/2x", [112, 94, 94, 54], "6.92", "769.8"),
        ("4x", [224, 188, 188, 108], "45.35", "1539.6"),
    ],
)
def test_warehouses_and_costs_of_resnet18_are_the_published_ones(
    size: str, cells: list[int], parameters: str, mixing: str
) -> None:
    """Their module's 940 and 1325 MMAC at 1x and 1/2x are those of convolving and mixing."""
    model = on_meta("resnet18", norm="bn", attention_norm="bn", **ratios(*PAPER[size]))
    assert [len(warehouse.cells) for warehouse in model.shared] == cells
    cost = model_cost(model, (3, 32, 32))
    assert f"{cost.parameters / 1e6:.2f}" == parameters
    assert f"{cost.macs_by_kind.aggregation / 1e6:.1f}" == mixing
    assert f"{cost.macs_by_kind.conv / 1e6:.1f}" == "555.4"
    assert cost.macs_by_kind.attention < 0.001 * cost.forward_macs
    assert not cost.generic


@pytest.mark.parametrize(("name", "static"), [("resnet18", ["conv1"]), ("preresnet12", ["conv1"])])
def test_what_is_static(name: str, static: list[str]) -> None:
    model = on_meta(name)
    assert [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)] == static


def test_a_bottlenecks_first_convolution_and_first_shortcut_are_static() -> None:
    model = on_meta("resnet50")
    static = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert static == ["conv1", "layer1.0.conv1", "layer1.0.downsample.0"]


def test_a_stage_hands_its_first_convolution_and_shortcut_to_the_one_before() -> None:
    model = on_meta("resnet14")
    found: list[list[str]] = [[] for _ in model.shared]
    for path, module in model.named_modules():
        if isinstance(module, KernelWarehouse2d):
            found[list(model.shared).index(module.warehouse)].append(path)
    assert found[0][-2:] == ["layer2.0.conv1", "layer2.0.downsample.0"]
    assert [len(paths) for paths in found] == [4 + 2, 3 + 2, 3]


def test_a_layer_by_hand() -> None:
    layer = KernelWarehouse2d(8, 12, 3, 1, 1)
    model = nn.Sequential(layer, warehouses([[layer]])[0])
    cost = model_cost(model[0], (8, 9, 9))
    assert cost.macs_by_kind == Macs(conv=864 * 81, aggregation=9 * 864, attention=16 * 8 + 16 * 9 * 10)
    # A layer's cells are the warehouse's: counted there, once.
    assert cost.parameters == 16 * 8 + 16 + 2 * 16 + (16 + 1) * 9 * 10
    assert model[1].cells.shape == (9, 12, 8)


def test_with_the_assignment_alone_a_layer_is_a_static_convolution_of_its_cells() -> None:
    layer = KernelWarehouse2d(4, 6, 3, 2, 1)
    warehouse = Warehouse([layer])
    set_temperature(layer, Temperatures(tau=1.0))
    x = torch.randn(3, 4, 7, 7)
    kernel = warehouse.cells.unflatten(0, (3, 3)).permute(2, 3, 0, 1)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, None, 2, 1))


def test_cells_are_drawn_for_the_layer_that_takes_them() -> None:
    torch.manual_seed(0)
    layers = [KernelWarehouse2d(64, 64, 3), KernelWarehouse2d(64, 128, 3)]
    cells = Warehouse(layers).cells.detach()
    for first, count in ((0, 9), (9, 18)):
        drawn = cells[first : first + count]
        assert float(drawn.std()) == pytest.approx((2 / (count * 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("number", [0.25, 1 / 3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
def test_every_place_that_takes_a_cell_finds_one(name: str, number: float) -> None:
    model = build_model(name, conv="kernelwarehouse", num_classes=3, width=0.25, **ratios(number))
    for layer in model.modules():
        if isinstance(layer, KernelWarehouse2d):
            places, cells = layer.attention.shape
            taken = layer.assignment(torch.empty(places, cells - 1))
            assert set(taken.sum(1).tolist()) <= {0.0, 1.0}
            assert taken.sum() >= places * min(1.0, number) - 1


def test_ratios_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"cell_inplane_ratio = 0.5: does not divide the 5 channels"):
        Warehouse([KernelWarehouse2d(5, 10, 3, **ratios(inplane=0.5))])
    with pytest.raises(
        UserError, match=r"model.cell_num_ratio = 1.5: must be a whole number, or one over it"
    ):
        parse_config({"model": {"conv": "kernelwarehouse", "cell_num_ratio": 1.5}})
    with pytest.raises(UserError, match=r"model.cell_num_ratio"):
        parse_config({"model": {"conv": "fmdconv", "cell_num_ratio": 2.0}})


@pytest.mark.parametrize("kind", ["width", "kernels", "smallest", "auto", "depth"])
def test_policies_that_slice_refuse_it(kind: str) -> None:
    document: dict[str, Any] = {"model": {"conv": "kernelwarehouse", "exits": True}, "policy": {"kind": kind}}
    with pytest.raises(UserError, match=r"model\.conv"):
        parse_config(document)
    if kind != "kernels":
        with pytest.raises(UserError, match="share cells that no part of a layer has alone"):
            parse_config(document)


@pytest.mark.parametrize("key", ["start", "end", "step", "curve", "held"])
def test_temperatures_that_divide_are_refused_beside_it(key: str) -> None:
    value = {"curve": "linear", "held": 2.0}.get(key, 20.0)
    mode = "fixed" if key == "held" else "both"
    with pytest.raises(UserError, match=f"temperature.{key}"):
        parse_config({"model": {"conv": "kernelwarehouse"}, "temperature": {"mode": mode, key: value}})


def test_every_copy_has_its_own_cells() -> None:
    model = build_model("resnet8", conv="kernelwarehouse", num_classes=4).eval()
    x = torch.randn(2, 3, 16, 16)
    y = model(x)
    other: Any
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), y)
        with torch.no_grad():
            for warehouse in other.shared:
                warehouse.cells.zero_()
        assert not torch.equal(other(x), y)
    assert torch.equal(model(x), y)
    assert sum("cells" in name for name in Layout.of(model).names) == 3


def test_a_clients_memory_holds_every_samples_kernels() -> None:
    cost = model_cost(on_meta("resnet18"), (3, 32, 32))
    with_one, with_two = (training_bytes(cost, batch) for batch in (1, 2))
    assert with_two - with_one > 4 * cost.kernel_elements


def tiny(**sections: dict[str, Any]) -> dict[str, Any]:
    document = {
        "data": {"train_samples": 90, "test_samples": 20},
        "partition": {"scheme": "iid", "clients": 3},
        "model": {"conv": "kernelwarehouse", "width": 0.5},
        "server": {"rounds": 3, "cohort": 2},
        "client": {"batch_size": 15},
        "backend": {"kind": "inline"},
    }
    return {**document, **sections}


def test_tau_falls_with_the_rounds_and_is_in_the_model_file(tmp_path: Path) -> None:
    slow = {"anneal_rounds": 4}
    result = fedfmd.simulate(tiny(temperature=slow), out=tmp_path / "run")
    assert set(result.clients["status"]) == {"completed"}
    assert list(result.rounds["temperature_tau"]) == pytest.approx([1.0, 1.0, 0.75, 0.5])
    model = fedfmd.load_model(tmp_path / "run")
    assert {m.tau for m in model.modules() if isinstance(m, KernelWarehouse2d)} == {0.5}
    images = torch.randn(2, 3, 32, 32)
    measured = model(images)
    set_temperature(model, Temperatures())
    assert not torch.allclose(model(images), measured)


@pytest.mark.parametrize(
    ("kind", "budget", "status", "steps", "batch"),
    [
        ("partial", {"macs_fraction": 0.6}, "partial", 1, 15),
        ("batch", {"memory_bytes": 15_000_000}, "completed", 5, 7),
        ("drop", {"macs_fraction": 1.0}, "completed", 2, 15),
    ],
)
def test_policies_that_keep_the_model_whole_work(
    kind: str, budget: dict[str, float], status: str, steps: int, batch: int, tmp_path: Path
) -> None:
    one_round = {"rounds": 1, "cohort": 2}
    document = tiny(policy={"kind": kind}, budget=budget, server=one_round)
    clients = fedfmd.simulate(document, out=tmp_path / "run").clients
    assert set(zip(clients["status"], clients["steps"], clients["plan.batch_size"], strict=True)) == {
        (status, steps, batch)
    }


def test_a_number_in_memory_is_as_good_a_tau() -> None:
    """As a captured step on a GPU reads it."""
    layer = KernelWarehouse2d(4, 8, 3, 1, 1)
    Warehouse([layer])
    x = torch.randn(2, 4, 6, 6)
    for tau in (0.0, 0.4, 1.0):
        set_temperature(layer, Temperatures(tau=tau))
        expected = layer(x)
        layer.tau = torch.tensor(tau)
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), (1, 0, 2)], ids=str)
def test_every_formulation_convolves_each_sample_with_its_own_kernel(
    geometry: tuple[int, int, int], channels_last: bool
) -> None:
    stride, padding, groups = geometry
    options: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups}
    x, kernels = torch.randn(3, 4, 7, 6), torch.randn(3, 6, 4 // groups, 3, 3)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    expected = torch.cat([F.conv2d(x[b : b + 1], kernels[b], None, **options) for b in range(3)])
    formulations: list[Formulation] = ["auto", "plain", "unfold", "kfold"]
    formulations += ["compiled"] if compiled_kernels.available() else []
    for formulation in formulations:
        y = convolve_each(x, kernels, formulation=formulation, **options)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
