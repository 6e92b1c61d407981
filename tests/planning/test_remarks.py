"""What is said of a config that can run, but may not be meant."""

import tomllib
from typing import Any

import pytest

from fedfmd.config.experiment import parse_config
from fedfmd.planning.remarks import remarks

LAPTOPS = "[devices]\nkind = 'tiers'\ntiers = [{ name = 'a', like = 'laptop' "
CARD = "[device]\nname = 'board'\nlike = 'laptop'\n[device.budget]\njoules = 9.0\n"


@pytest.mark.parametrize(
    ("document", "idle"),
    [
        ("policy.kind = 'width'", True),
        ("policy.kind = 'drop'\n" + LAPTOPS + "}]", True),
        ("policy.kind = 'drop'\nbudget.device_memory = false\n" + LAPTOPS + "}]", True),
        ("policy.kind = 'none'", False),
        ("policy.kind = 'smallest'", False),
        ("policy.kind = 'width'\npolicy.rates = 'drawn'", False),
        ("policy.kind = 'width'\nbudget.macs_fraction = 0.5", False),
        ("policy.kind = 'drop'\nbudget.device_memory = true\n" + LAPTOPS + "}]", False),
        ("policy.kind = 'partial'\n" + LAPTOPS + ", budget = { uplink_bytes = 9 } }]", False),
        ("policy.kind = 'partial'\n" + LAPTOPS.replace("laptop", "CARD") + "}]", False),
    ],
)
def test_a_policy_that_nobody_needs_is_told(document: str, idle: bool, tmp_path: Any) -> None:
    """None without limits; one of a device, or of its card, is a limit."""
    card = tmp_path / "board.toml"
    card.write_text(CARD)
    config = parse_config(tomllib.loads(document.replace("CARD", str(card))))
    said = [one for one in remarks(config) if "because no client has a limit" in one]
    assert [one.split(" changes")[0] for one in said] == [f"policy.kind = '{config.policy.kind}'"] * idle
