"""A name of something that is no part of its kind is refused in one line, before anything is written."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfmd import registry
from fedfmd.aggregation import stepped
from fedfmd.config.experiment import make_config
from fedfmd.contracts import CONTRACTS, check_part
from fedfmd.errors import RunError, UserError
from fedfmd.rounds.lifecycle import check_makes, start_run

NO_PARTS = """
import torch


def nothing(*places, **named):
    return None


def fails(*places, **named):
    raise KeyError("of mine")


class Strategy:
    def __init__(self):
        self.state = {}

    def step(self, weights, mean_update):
        return weights + mean_update


class NoStep(Strategy):
    step = None


class OddStep(Strategy):
    def step(self):
        return None


class Short(Strategy):
    def step(self, weights, mean_update):
        return weights[:3]


class Listed(Strategy):
    def __init__(self):
        self.state = []


class Closure:
    def __init__(self, parameters):
        pass

    def restart(self, learning_rate):
        pass

    def step(self, closure):
        pass


class NoRestart(Closure):
    restart = property()

    def step(self):
        pass


class Whole:
    def form(self, elements):
        return {"values": (torch.float32, elements)}

    def compress(self, update, rng):
        return {"values": update}

    def restore(self, tensors, elements):
        return tensors["values"]


class Less(Whole):
    def compress(self, update, rng):
        return {"values": update[:2]}


class Lost(Whole):
    def restore(self, tensors, elements):
        return None


def ragged(labels, clients):
    return [[0], [[1], [2, 3]]] * (clients // 2)


def chosen(draw):
    return [0, 1]
"""
KEYS = {kind: contract.key for kind, contract in CONTRACTS.items() if kind != "logger"}
NO_PART = ("os:getcwd", "builtins:dict", "no_parts:nothing", "no_parts:fails")
OFFERS_NOBODY = ("selection", "no_parts:nothing")
"""All places are then filled uniformly: that is a selection."""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "no_parts.py").write_text(NO_PARTS)
    registry.look_in(folder)
    return "no_parts"


def tiny(key: str, name: str) -> dict[str, Any]:
    """Return a small experiment that names a part."""
    config: dict[str, Any] = {
        "data": {"train_samples": 80, "test_samples": 20},
        "partition": {"scheme": "iid", "clients": 4},
        "model": {"name": "resnet8", "width": 0.25},
        "server": {"rounds": 1, "cohort": 2},
        "logging": {"tensorboard": False},
    }
    section, _, last = key.partition(".")
    if not last:
        return config | {section: {name: {}}}
    config.setdefault(section, {})[last] = [name] if key == "logging.loggers" else name
    return config


@pytest.mark.parametrize("kind", registry.HOMES)
def test_every_built_in_part_can_be_called_as_its_kind_is(kind: str) -> None:
    for name in registry.names(kind):
        if registry.origin(kind, name) is None:
            check_part(kind, name, ["source"] if name == "huggingface" else ())


@pytest.mark.parametrize(
    ("kind", "named"), [pair for pair in product(KEYS, NO_PART) if pair != OFFERS_NOBODY]
)
def test_what_is_no_part_of_its_kind_starts_no_run(
    kind: str, named: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        start_run(make_config(tiny(KEYS[kind], named)), tmp_path / "run")
    message = str(caught.value)
    assert KEYS[kind] in message
    assert named in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("server.strategy", "NoStep", "its step is called with .*cannot be called"),
        (
            "server.strategy",
            "OddStep",
            r"its step is called with \(weights, mean_update\): it is OddStep.step",
        ),
        ("server.strategy", "Short", r"a tensor of shape \(3,\), where the next state has the shape"),
        ("server.strategy", "Listed", "its state is a list, and must be a dictionary"),
        ("client.optimizer", "Closure", "its step is called with .*missing a required argument: 'closure'"),
        ("client.optimizer", "NoRestart", r"has no restart\(learning_rate\)"),
        ("client.optimizer", "nothing", "makes None, which is no optimizer: it has no step"),
        ("compression.uplink", "Less", "compress makes .* and its form says"),
        ("compression.uplink", "Lost", "compressed update of shape NoneType; needs"),
        ("compression.uplink", "fails", r"fails when it is called: KeyError: 'of mine' \(.*no_parts.py:10\)"),
    ],
)
def test_what_a_part_makes_is_tried_before_a_run(key: str, name: str, message: str, module: str) -> None:
    with pytest.raises(UserError, match=f"{key} = '{module}:{name}': .*{message}"):
        check_makes(make_config(tiny(key, f"{module}:{name}")))


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("partition.scheme", "ragged", "each client must get a list"),
        ("selection.kind", "chosen", "returns a list, where a selection offers clients to its drawing"),
        ("policy.kind", "nothing", "gives a NoneType, where a policy gives a ClientPlan or OverBudget"),
        ("model.norm", "nothing", "makes None, which is no norm: it has no forward, parameters"),
    ],
)
def test_what_comes_of_a_part_is_looked_at(
    key: str, name: str, message: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{key} = '{module}:{name}': {message}"):
        start_run(make_config(tiny(key, f"{module}:{name}")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_optimiser_that_fails_later_stops_the_run_with_the_reason() -> None:
    class Late:
        def __init__(self) -> None:
            self.state: dict[str, torch.Tensor] = {}

        def step(self, weights: torch.Tensor, mean_update: torch.Tensor) -> torch.Tensor:
            del mean_update
            raise ZeroDivisionError(f"{len(weights)} weights")

    weights = torch.zeros(5)
    with pytest.raises(
        RunError, match=r"Late: step fails: ZeroDivisionError: 5 weights \(.*test_contracts.py"
    ):
        stepped(Late(), weights, weights.double())
