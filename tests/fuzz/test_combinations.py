"""Any combination of keys that the config takes is an experiment that runs.

Seeded combinations of every key, on a handful of images and clients, for a round or two in this process: a
run finishes, or stops for a reason that its own settings give; no client fails, and nothing else is raised.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fedfmd import registry, simulate
from fedfmd.config.conditions import Unmet
from fedfmd.config.documents import drop_key, has_key, set_key
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import Named
from fedfmd.errors import RunError, UserError

QUICK, MANY, BLOCK = 12, 1500, 48
PATIENCE = 60
"""Draws before a key that lacks something is left out."""
ALLOWED_STOPS = ("over budget", "nobody was available", "late: needs", "diverges", "secure sum: ")
"""Reasons that settings give themselves: limits, absences, deadlines, step sizes."""

TINY: dict[str, Any] = {
    "data": {"train_samples": 90, "test_samples": 20},
    "partition": {"clients": 5, "min_size": 1},
    "model": {"width": 0.25, "kernels": 2},
    "server": {"rounds": 1, "cohort": 3},
    "client": {"batch_size": 16},
    "backend": {"kind": "inline"},
    "logging": {"tensorboard": False},
}
APART = ("backend.", "logging.", "train", "faults.", "name", "data.root", "devices.trace", "devices.states")
"""Keys of the machine, of folders and files, and faults, which are failures on purpose."""
CHOSEN: dict[str, list[Any]] = {
    "data.name": ["embedded"],
    "data.resized_crop": [8, 16, 40],
    "data.train_samples": [60, 90, 150],
    "data.test_samples": [1, 20],
    "partition.clients": [1, 3, 5, 9],
    "partition.min_size": [1, 2],
    "partition.samples_per_client": [1, 2, 17],
    "partition.validation": [0.0, 0.1, 0.5],
    "partition.holdout": [0.0, 0.01, 0.2, 0.5],
    "model.name": ["resnet8", "resnet8", "resnet14", "preresnet12", "resnet18", "resnet50"],
    "model.width": [0.02, 0.1, 0.25],
    "model.cell_num_ratio": [0.5, 1.0, 2.0],
    "model.cell_inplane_ratio": [0.5, 1.0],
    "model.cell_outplane_ratio": [0.5, 1.0],
    "model.kernels": [1, 2, 3],
    "model.outputs": [10, 11, 100],
    "server.rounds": [1, 2],
    "server.cohort": [1, 2, 3, 5],
    "server.buffer": [1, 2, 3],
    "server.learning_rate": [0.01, 1.0],
    "server.min_completed": [1, 2],
    "client.learning_rate": [1e-3, 0.05],
    "client.epochs": [1, 2],
    "client.batch_size": [1, 2, 7, 16, 1000],
    "client.proximal_mu": [0.0, 0.1],
    "client.weight_decay": [0.0, 1e-3],
    "client.deadline_seconds": [600.0],
    "privacy.min_holders": [2, 3],
    "privacy.threshold": [0.51, 0.66, 1.0],
    "policy.widths": [[1.0], [1.0, 0.5], [0.5, 0.3], [1.0, 0.03]],
    "evaluation.batch_size": [1, 7, 250],
    "evaluation.clients": [0, 1, 3, "all"],
    "evaluation.models": [["global"], ["affordable", "local"], ["global", "finetuned", "affordable"]],
    "evaluation.finetune_epochs": [1, 2],
    "devices.tiers": [
        [{"name": "a", "like": "phone-low"}, {"name": "b", "like": "server", "share": 2.0}],
        [{"name": "a", "budget": {"macs_fraction": 0.4}}, {"name": "b", "availability": 0.5}],
    ],
    "devices.median": [{"name": "m", "like": "raspberry-pi"}],
    "budget.macs": [10**6, 10**9],
    "budget.downlink_bytes": [10**4, 10**6],
    "budget.uplink_bytes": [10**4, 10**6],
    "budget.memory_bytes": [10**6, 10**8],
    "budget.joules": [1e-2, 1e3],
    "budget.device_seconds": [1e-2, 1e3],
    "selection.deadline_seconds": [0.1, 100.0],
    "selection.preferred_seconds": [0.1],
    "selection.over_selection": [1.0, 1.5],
    "seed": [0, 1, 2],
}
"""Values of keys whose type does not say what is small, and of those that would take long."""


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted keys with their fields."""
    for name, field in model.model_fields.items():
        kind, key = field.annotation, prefix + name
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key not in CHOSEN:
            yield from keys_of(kind, f"{key}.")
        else:
            yield key, field


def values_of(key: str, field: FieldInfo) -> list[Any]:
    """Return the values of a key that are tried: all of a choice and of the built-in parts, a few numbers."""
    if key in CHOSEN:
        return CHOSEN[key]
    for mark in field.metadata:
        if type(mark) is Named:
            return [name for name in registry.names(mark.kind) if registry.origin(mark.kind, name) is None]
    kind = field.annotation
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if kind is bool or bool in get_args(kind):
        return [True, False]
    return [1, 2, 0.3, 0.9, 1.0, 5.0]


SPACE = {key: values_of(key, field) for key, field in keys_of(ExperimentConfig) if not key.startswith(APART)}


def combination(seed: int) -> dict[str, Any]:
    """Return a document of tiny size with random keys that all count, and have what they need."""
    rng = random.Random(seed)
    document: dict[str, Any] = {name: dict(section) for name, section in TINY.items()}
    for key in rng.sample(sorted(SPACE), rng.choice((2, 4, 8, 16))):
        set_key(document, key, rng.choice(SPACE[key]), key)
    for turn in itertools.count():
        found: list[Unmet] = []
        try:
            config = ExperimentConfig.model_validate(document, context=found)
        except ValidationError as error:
            for fault in error.errors():
                drop_key(document, fault["loc"][:2])  # type: ignore[arg-type]
            continue
        if not found:
            return document
        mend(document, rng.choice(found), config, rng, give_up=turn > PATIENCE)
    raise AssertionError


def mend(
    document: dict[str, Any], one: Unmet, config: ExperimentConfig, rng: random.Random, *, give_up: bool
) -> None:
    """Draw one of the keys that ``one`` lacks anew, or leave ``one`` out."""
    lacking = [key for part in one.rule.condition.failing(config) for key in part.keys]
    deciding = [key for key in lacking if key in SPACE and key != one.key]
    if deciding and not give_up:
        key = rng.choice(deciding)
        set_key(document, key, rng.choice(SPACE[key]), key)
        return
    path = one.path
    while not has_key(document, path):  # a part of a value that was given as a whole
        path = path[:-1]
    drop_key(document, path)


def outcome(document: dict[str, Any], out: Path) -> str:
    """Run it; returns how it ended: ``finished``, ``refused: ...`` or ``stopped: ...``."""
    try:
        result = simulate(document, out=out)
    except UserError as error:
        assert not out.exists(), "a refusal leaves nothing"
        return f"refused: {error}"
    except RunError as error:
        return f"stopped: {error}"
    failed = result.clients.query("status == 'failed'")["reason"] if len(result.clients) else []
    assert not len(failed), f"clients fail: {next(iter(failed))}"
    return "finished"


def check(seed: int, out: Path) -> str:
    document = combination(seed)
    try:
        found = outcome(document, out)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}\n{document}") from error
    stopped = found.startswith("stopped") and not any(word in found for word in ALLOWED_STOPS)
    assert not stopped, f"seed {seed}: {found}\n{document}"
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(QUICK))
def test_any_combination_of_keys_runs(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(QUICK, MANY, BLOCK))
def test_many_combinations_of_keys_run(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + BLOCK, MANY)):
        check(seed, tmp_path / f"run-{seed}")
