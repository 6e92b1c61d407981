"""Algorithms together: what is refused, and what travels for an algorithm that sends nothing back."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from federation import Federation
from torch import Tensor

from fedfmd.algorithms import Algorithm, Collected, check_algorithms
from fedfmd.algorithms.__main__ import verdict, with_combinations
from fedfmd.algorithms.table import BUILT_IN
from fedfmd.config.documents import set_key, split_override
from fedfmd.config.experiment import parse_config
from fedfmd.errors import UserError
from fedfmd.nn.vector import Layout
from fedfmd.registry import register


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"algorithms": {"fedmagic": {}}}, "'fedmagic' is not known; allowed: 'fjord'"),
        ({"algorithms": {"feddyn": {"alpha": 0}}}, "algorithms.feddyn: alpha = 0: must be greater than 0"),
        ({"algorithms": {"feddyn": {"beta": 1}}}, "algorithms.feddyn: unknown key beta"),
        (
            {"algorithms": {"scaffold": {}}},
            "algorithms.scaffold: is switched on by client.scaffold = true, not here",
        ),
        (
            {"algorithms": {"feddyn": {}}, "server": {"strategy": "fedyogi"}},
            "algorithms.feddyn: server.strategy = 'fedyogi': needs 'fedavg'",
        ),
        (
            {"client": {"scaffold": True}},
            "algorithms.scaffold: client.momentum = 0.9: needs 0, or client.scaffold_variant = 'niid-bench'",
        ),
        (
            {"client": {"scaffold": True, "momentum": 0.0}, "compression": {"uplink": "topk"}},
            "algorithms.scaffold: compression.uplink = 'topk': the controls would drift",
        ),
    ],
)
def test_what_does_not_go_is_refused_by_its_key(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="algorithms") as caught:
        check_algorithms(parse_config(document))
    assert message in str(caught.value)


def test_the_page_of_combinations_says_what_the_checks_say() -> None:
    """`make docs` writes it."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "combinations.md").read_text()
    assert with_combinations(page) == page
    assert verdict("SCAFFOLD", "HeteroFL") == ""
    assert verdict("HeteroFL", "FedRolex") is None
    assert "needs 'none'" in str(verdict("SCAFFOLD", "FedNova"))


@register("algorithm", "counting")
class Counting(Algorithm):
    """Sends the number of rounds along, and nothing back."""

    name = "counting"

    def extra_elements(self, layout: Layout) -> int:
        return 2

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        assert torch.equal(mean_extra, torch.zeros(2, dtype=torch.float64))
        return extra + 1


def test_each_algorithm_gets_its_own_part_of_what_travels() -> None:
    """Beside SCAFFOLD, whose control is as it is alone; what nobody sends back counts as zeros."""
    alone = Federation(client={"scaffold": True})
    alone.run()
    together = Federation(client={"scaffold": True}, algorithms={"counting": {}})
    together.run()
    assert torch.equal(together.vector[:-2], alone.vector)
    assert together.vector[-2:].tolist() == [3, 3]


COMPANIONS: dict[str, dict[str, Any]] = {
    "fjord": {"policy": {"kind": "width"}},
    "fedrolex": {"policy": {"kind": "width"}},
    "label-rows": {"policy": {"kind": "width"}},
    "depthfl": {"client": {"distillation": 1.0}},
    "fedbuff": {"devices": {"kind": "lognormal"}},
    "fedasync": {"devices": {"kind": "lognormal"}, "server": {"mode": "buffered", "buffer": 1}},
    "dp-fedavg": {"server": {"weighting": "uniform"}, "privacy": {"noise_multiplier": 1.0}},
}
"""Keys that the one which switches an algorithm on needs."""


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_an_algorithm_is_switched_on_by_the_key_that_it_names(kind: type[Algorithm]) -> None:
    document = copy.deepcopy(COMPANIONS.get(kind.name, {}))
    key, value = split_override(kind.switch or f"algorithms.{kind.name}={{}}")
    set_key(document, key, value, "test")
    assert kind.active(parse_config(document))
    assert not kind.active(parse_config({}))
