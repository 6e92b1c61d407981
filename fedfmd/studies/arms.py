"""The arms of a study: what its file names, its axes cross and its controls add, each experiment once."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fedfmd.config.conditions import applied
from fedfmd.config.documents import Keys, flat_keys
from fedfmd.config.experiment import Control, ExperimentConfig
from fedfmd.config.study import StudyConfig
from fedfmd.errors import UserError
from fedfmd.planning.controls import POLICIES, with_policy
from fedfmd.results.design import Levels
from fedfmd.units import of_key

ARM = "arm"
"""Key of the factor whose levels are the arms that the file names."""
CONTROLS: tuple[str, ...] = tuple(name for name in get_args(Control) if name != "none")
POLICY = "policy.kind"


@dataclass(frozen=True)
class Arm:
    """One line of the tables: a name, the keys that differ from the base, its level of each factor."""

    name: str
    keys: Keys
    levels: Levels

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.name).strip("-._") or "arm"


def arms_of(config: StudyConfig) -> Iterator[Arm]:
    """Yield the arms of a study in the order of its file, without those that ``skip`` leaves out."""
    named = [(arm.name, flat_keys(arm.set)) for arm in config.arms] or [("", {})]
    varied = dict(named)[config.controls_of] if config.controls_of else named[0][1]
    named += [(name, varied | _control_keys(name)) for name in _controls(config)]
    names = _axis_names(list(config.axes))
    for name, keys in named:
        axes = {key: values for key, values in config.axes.items() if key not in keys}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            place = {ARM: name or "base"} if name or len(named) > 1 or not config.axes else {}
            place |= {key: _level((keys | chosen)[key]) for key in config.axes}
            if any(skips(rule, place) for rule in config.skip):
                continue
            parts = [name, *(f"{names[key]}={_text(key, value)}" for key, value in chosen.items())]
            yield Arm(" ".join(part for part in parts if part) or "base", keys | chosen, place)


def skips(rule: Keys, levels: Levels) -> bool:
    """Return whether a rule of ``skip`` leaves out the combination of these levels."""
    return all(key in levels and levels[key] == _level(value) for key, value in rule.items())


def _level(value: Any) -> Any:
    """Return the value of an axis as a level of a factor: a number or a text."""
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _controls(config: StudyConfig) -> Sequence[str]:
    if isinstance(config.controls, bool):
        return CONTROLS if config.controls else ()
    return config.controls


def _control_keys(name: str) -> Keys:
    """Return the keys of a control; one that is a policy is tried with no other."""
    return {"control": name} | ({POLICY: POLICIES[name]} if name in POLICIES else {})


def distinct(
    path: Path, config: StudyConfig, arms: Sequence[tuple[Arm, ExperimentConfig]]
) -> tuple[tuple[Arm, ...], tuple[tuple[str, str], ...]]:
    """Return the arms, each experiment once, and the controls that other arms are already, with these.

    Raises ``UserError`` for other arms that differ in nothing which counts: they would be paid for, and
    compared, twice.
    """
    first: dict[str, Arm] = {}
    twice: list[tuple[Arm, Arm]] = []
    standing: list[tuple[str, str]] = []
    for arm, experiment in arms:
        made = arm.levels.get(ARM) in _controls(config)
        if made and experiment.control not in POLICIES and experiment.model.layer == "static":
            continue  # it is its own static control
        same = first.setdefault(_identity(experiment), arm)
        if same is not arm and made:
            standing.append((arm.name, same.name))
        elif same is not arm:
            twice.append((same, arm))
    if twice:
        one, other = twice[0]
        cure = ", ".join(_rule(arm) for _, arm in twice) if config.axes else ""
        raise UserError(
            f"{path}: arms {one.name!r} and {other.name!r} are the same experiment, since the keys that they "
            f"differ in do not count there; {f'give skip = [{cure}]' if cure else 'leave one out'}"
        )
    kept = tuple(first.values())
    for name in config.controls if isinstance(config.controls, list) else ():
        if name not in POLICIES and name not in {arm.levels[ARM] for arm in kept}:
            raise UserError(
                f"{path}: controls = {name!r}: every network that it would vary is static already"
            )
    return kept, tuple(standing)


def _identity(experiment: ExperimentConfig) -> str:
    """Return all that makes an experiment what it is, as text; its seed is the same in every arm."""
    document = applied(with_policy(experiment))
    if document["control"] in POLICIES:
        document["control"] = "none"  # beyond its policy there is nothing to it
    return json.dumps(document | {"name": ""}, sort_keys=True)


def _rule(arm: Arm) -> str:
    """Write the combination of an arm as ``skip`` takes it."""
    return "{ " + ", ".join(f'"{key}" = {json.dumps(level)}' for key, level in arm.levels.items()) + " }"


def _axis_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each key, or all of it where two would share it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _text(key: str, value: Any) -> str:
    return of_key(key, value) if isinstance(value, int | float) else str(value)
