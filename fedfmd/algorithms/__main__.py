"""Write what goes with what into its page: ``python -m fedfmd.algorithms docs/reference/combinations.md``.

Every pair of switches is tried as a config, so the table says what the checks say.
"""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfmd.algorithms import check_algorithms
from fedfmd.config.documents import set_key
from fedfmd.config.experiment import parse_config
from fedfmd.config.reference import remade
from fedfmd.errors import UserError

BASE: Mapping[str, Any] = {"devices.kind": "lognormal"}
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "FedProx": {"client.proximal_mu": 0.1},
    "FedNova": {"server.normalisation": "fednova"},
    "SCAFFOLD": {"client.scaffold": True, "client.scaffold_variant": "paper", "client.momentum": 0.0},
    "SCAFFOLD, NIID-Bench's": {"client.scaffold": True, "client.scaffold_variant": "niid-bench"},
    "FedDyn": {"algorithms.feddyn": {}},
    "FedBN": {"model.norm": "fedbn"},
    "static BatchNorm": {"model.norm": "bn", "evaluation.static_norms": True},
    "HeteroFL": {"policy.kind": "width", "policy.width_mode": "static"},
    "FedRolex": {"policy.kind": "width", "policy.width_mode": "rolling"},
    "FjORD": {"policy.kind": "width", "policy.width_mode": "ordered"},
    "kernels": {"policy.kind": "kernels"},
    "DepthFL": {"policy.kind": "depth", "model.exits": True},
    "partial work": {"policy.kind": "partial"},
    "FedAdam, FedYogi": {"server.strategy": "fedyogi"},
    "robust means": {"server.aggregation": "median"},
    "FedBuff": {"server.mode": "buffered", "server.buffer": 5},
    "FedAsync": {"server.mode": "buffered", "server.buffer": 1, "algorithms.fedasync": {}},
    "Oort": {"selection.kind": "oort"},
    "TiFL": {"selection.kind": "tifl"},
    "compression": {"compression.uplink": "topk"},
    "secure sums": {"privacy.secure": "secagg"},
    "central DP": {"privacy.dp": "central", "privacy.noise_multiplier": 1.0, "server.weighting": "uniform"},
}
"""What a config has for each, alone."""


def verdict(one: str, other: str) -> str | None:
    """Return why two switches do not go together: empty where they do, null where both are the same key."""
    first, second = SWITCHES[one], SWITCHES[other]
    if any(first[key] != second[key] for key in first.keys() & second.keys()):
        return None
    document: dict[str, Any] = {}
    for key, value in {**BASE, **first, **second}.items():
        set_key(document, key, copy.deepcopy(value), key)
    try:
        check_algorithms(parse_config(document))
    except UserError as error:
        return str(error).splitlines()[0].removeprefix("config: ").strip()
    return ""


def table() -> str:
    """Return the pairs as a Markdown table, and the reasons of those that are refused as a list."""
    names = list(SWITCHES)
    lines = [
        "| | " + " | ".join(str(number) for number in range(1, len(names) + 1)) + " |",
        "| --- |" + " :-: |" * len(names),
    ]
    reasons: dict[str, list[str]] = {}
    for row, one in enumerate(names):
        cells = []
        for other in names[:row]:
            found = verdict(one, other)
            cells.append({None: "/", "": "yes"}.get(found, "no"))
            if found:
                reasons.setdefault(found, []).append(f"{other} with {one}")
        cells += ["·"] + [""] * (len(names) - row - 1)
        lines.append(f"| {row + 1} {one} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {'; '.join(pairs)}: `{reason}`" for reason, pairs in reasons.items())]
    return "\n".join(lines)


def with_combinations(page: str) -> str:
    """Return the page with the table made anew."""
    return remade(page, f"{table()}\n")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_combinations(file.read_text(encoding="utf-8")), encoding="utf-8")
