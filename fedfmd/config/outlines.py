"""Writes down what a config's check asks of the built-in parts: ``python -m fedfmd.config.outlines``.

With that a config is checked without importing them, and so without PyTorch. A test compares what is written
with what the parts say. Whatever else they are asked, ``fedfmd.registry`` asks the parts themselves.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fedfmd import registry
from fedfmd.config.parts import WITH_OPTIONS
from fedfmd.contracts import CONTRACTS, check_itself
from fedfmd.errors import UserError
from fedfmd.registry import OUTLINES, Outline

ASKED = {
    "data": ("classes",),
    "conv": ("dynamic", "tempered", "assigns", "share", "slices"),
    "norm": ("over_batch", "local", "freezes"),
    "network": ("stages", "slices"),
    "strategy": ("step_size",),
    "policy": ("axes",),
    "algorithm": ("switch",),
    "selection": ("timed", "judges", "looks_at_losses", "tiered", "independent", "learns"),
}
"""What checks ask the parts of a kind to state."""


def as_written() -> str:
    """Return the file's content, a line for each part, from the parts themselves."""
    kinds = []
    for kind in registry.HOMES:
        names = [name for name, part in registry.registered(kind).items() if registry.is_ours(part.module)]
        lines = [f"  {json.dumps(name)}: {_line(kind, name)}" for name in names]
        kinds.append(f" {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _line(kind: str, name: str) -> str:
    part = registry.find(kind, name)
    states = {key: registry.stated(kind, name, key) for key in ASKED.get(kind, ())}
    plain = {key: _plain(value) for key, value in states.items() if not callable(value)}
    return json.dumps(asdict(Outline(sorted(_arguments(kind, part)), plain, _fits(kind, name))))


def _fits(kind: str, name: str) -> bool:
    try:
        check_itself(kind, name)
    except UserError:
        return False
    return True


def _arguments(kind: str, part: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a part's arguments; without options, those that its kind is called with."""
    found = registry.parameters(part)
    return found if kind in WITH_OPTIONS else found & {*CONTRACTS[kind].places, *CONTRACTS[kind].offered}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value


if __name__ == "__main__":
    OUTLINES.write_text(as_written(), encoding="utf-8")
