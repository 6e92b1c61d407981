"""A device card: one machine's figures, measured, as a tier of an experiment can be like them.

The section ``[device]`` has the keys of ``devices.tiers``, and ``like`` in it names the profile that answers
for what was not measured. The rest says how the figures came about: the rates by shape with their spread, the
memory's bound, the start of a process, what a validation on other networks gave, and the machine.

The rates of the four kinds are those of the middle shape times a factor that makes whole steps come out
right, since norms, activations and the optimiser are no MACs and a step has them all the same: one for
convolutions and linear layers by static networks, one for mixing and attention by dynamic ones. One rate per
kind knows nothing of shapes: a narrow network comes out too fast, a wide one too slow, and the validation
says by how much.

Power is taken from RAPL's counters where they can be read, without what the machine takes at rest.

Each part is written as soon as it is known, and a card that is there already is continued.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import tomli_w
import torch

from fedfmd.config.documents import read_toml
from fedfmd.config.sections import ModelConfig
from fedfmd.costs.macs import TRAINING_MACS_PER_FORWARD, model_cost
from fedfmd.devices.profiles import RATE_SUFFIX, Rates
from fedfmd.files import write_atomic
from fedfmd.machine.children import module_command
from fedfmd.machine.energy import POWERCAP, net_joules, read_energy
from fedfmd.machine.environment import describe_environment
from fedfmd.machine.process import prepare_process
from fedfmd.profiling.calibrate import clock, measured_rates, shapes
from fedfmd.profiling.measure import Bench
from fedfmd.profiling.variants import Task, label

BATCH, REPEATS, STEPS = 16, 20, 4
STATIC = (
    ModelConfig(name="resnet8", conv="static"),
    ModelConfig(name="resnet18", conv="static", width=0.375),
)
DYNAMIC = (ModelConfig(name="resnet8", kernels=2), ModelConfig(name="resnet18", width=0.25, kernels=2))
IDLE_SECONDS = 2.0
VALIDATION = (
    ModelConfig(name="resnet8", width=0.5, conv="static"),
    ModelConfig(name="resnet14", conv="static"),
    ModelConfig(name="resnet18", width=0.5, conv="static"),
    ModelConfig(name="resnet8", kernels=4),
    ModelConfig(name="resnet14", kernels=2),
    ModelConfig(name="resnet18", width=0.25, kernels=4),
)
"""Other depths, widths and numbers of kernels than those that the rates were fitted to."""
MIXING = ("aggregation", "attention")
LEAST_EXCESS = 0.05
"""Part of a dynamic network's step that is at least its mixing and attention, however noisy the machine."""
Tell = Callable[[str], None]
Card = dict[str, Any]


def measure_card(path: Path, *, like: str, memory_limit: int, share: float, tell: Tell) -> Card:
    """Measure what the card at ``path`` lacks, with one thread, and write it part by part.

    ``like`` is the profile of what cannot be measured, ``memory_limit`` the most bytes that the search for
    memory may ask for, ``share`` the part of a processor that this process may use.
    """
    prepare_process(1)
    card: Card = dict(read_toml(path, "device card")) if path.exists() else {}
    card.setdefault("device", {"name": path.stem, "like": like})
    card.setdefault("provenance", _provenance(share))
    parts: Sequence[tuple[str, str, Callable[[Card], None]]] = (
        ("operators", "operators", lambda card: _add_operators(card, share)),
        ("calibration", "steps of two networks", lambda card: _add_rates(card, share)),
        ("memory", "memory", lambda card: _add_memory(card, memory_limit)),
        ("start", "the start of a process", lambda card: _add_start(card, share)),
        ("power", "power", _add_power),
        ("validation", "steps of other networks", lambda card: _add_validation(card, share)),
    )
    for name, what, add in parts:
        if name not in card:
            tell(what)
            add(card)
            write_atomic(path, tomli_w.dumps(card))
    return card


def _provenance(share: float) -> Card:
    environment = describe_environment()
    kept = {key: environment[key] for key in ("fedfmd", "python", "system", "processor", "cores")}
    return {
        **{key: value for key, value in kept.items() if value is not None},
        "torch": torch.__version__,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
        "processor_share": share,
        "command": shlex.join(["fedfmd", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "processor time of the thread over its share; the fastest of repeated turns",
    }


def _add_operators(card: Card, share: float) -> None:
    operators = [operator for kind in shapes().values() for operator in kind]
    card["operators"] = [asdict(rate) for rate in measured_rates(operators, repeats=REPEATS, share=share)]


def _add_rates(card: Card, share: float) -> None:
    """Take each kind's middle shape, and fit a factor for static kinds and one for the others to steps."""
    middle = {
        kind: median([row["macs_per_second"] for row in card["operators"] if row["kind"] == kind])
        for kind in shapes()
    }
    steps = step_seconds([*STATIC, *DYNAMIC], share)
    alike = [predicted(Rates(**middle), m) / s for m, s in zip(STATIC, steps, strict=False)]
    factors = dict.fromkeys(middle, geometric_mean(alike))
    static_only = Rates(
        **{kind: factors[kind] * rate for kind, rate in middle.items()} | dict.fromkeys(MIXING, inf)
    )
    mixing_only = Rates(**middle | dict.fromkeys(("conv", "linear"), inf))
    excess = [
        predicted(mixing_only, m) / max(s - predicted(static_only, m), LEAST_EXCESS * s)
        for m, s in zip(DYNAMIC, steps[len(STATIC) :], strict=True)
    ]
    factors |= dict.fromkeys(MIXING, geometric_mean(excess))
    card["device"] |= {f"{kind}{RATE_SUFFIX}": factors[kind] * rate for kind, rate in middle.items()}
    card["calibration"] = {"factors": factors, "networks": [label(m) for m in (*STATIC, *DYNAMIC)]}


def _add_memory(card: Card, limit: int) -> None:
    command = [*module_command("fedfmd.profiling.ceiling"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    card["memory"] = {"limit_bytes": limit, "bound": "RLIMIT_DATA of a process of its own"}
    card["device"]["memory_bytes"] = int(done.stdout)


def _add_start(card: Card, share: float) -> None:
    """Take the processor time of a process that imports what a client needs."""
    before = os.times()
    command = [sys.executable, "-P", "-c", "import fedfmd.flower.client"]
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    spent = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    card["start"] = {"seconds": spent / share}


def _add_power(card: Card, root: Path = POWERCAP) -> None:
    """Take the power of training beyond the machine's at rest, or say why there is none."""
    first = read_energy(root)
    if isinstance(first, str):
        card["power"] = {"source": "none", "reason": first}
        return
    time.sleep(IDLE_SECONDS)
    before, start = read_energy(root), time.perf_counter()
    step_seconds(STATIC, 1.0)
    after, seconds = read_energy(root), time.perf_counter() - start
    if isinstance(before, str) or isinstance(after, str):
        card["power"] = {"source": "none", "reason": f"{root}: the counters went away"}
        return
    idle_watts = first.joules_until(before) / IDLE_SECONDS
    card["device"]["compute_watts"] = net_joules(before.joules_until(after), seconds, idle_watts) / seconds
    card["power"] = {"source": "RAPL", "idle_watts": idle_watts}


def _add_validation(card: Card, share: float) -> None:
    rates = card_rates(card)
    rows: list[dict[str, Any]] = [
        {"model": label(model), "step_seconds": seconds, "ratio": predicted(rates, model) / seconds}
        for model, seconds in zip(VALIDATION, step_seconds(VALIDATION, share), strict=True)
    ]
    ratios = [row["ratio"] for row in rows]
    card["validation"] = {
        "median_ratio": median(ratios),
        "worst_ratio": max(ratios, key=lambda ratio: max(ratio, 1 / ratio)),
        "batch_size": BATCH,
        "networks": rows,
    }


def card_rates(card: Card) -> Rates:
    """Return the rates of a card's device."""
    return Rates(**{kind: card["device"][f"{kind}{RATE_SUFFIX}"] for kind in shapes()})


def predicted(rates: Rates, model: ModelConfig) -> float:
    """Return the seconds of a training step that the rates say."""
    cost = model_cost(Bench(model, Task(), 1, torch.device("cpu")).network, Task().input_shape)
    return rates.seconds(cost.macs_by_kind * (TRAINING_MACS_PER_FORWARD * BATCH))


def step_seconds(models: Sequence[ModelConfig], share: float) -> list[float]:
    """Time training steps in interleaved turns after a warm-up; the fastest of each counts."""
    benches = [Bench(model, Task(), BATCH, torch.device("cpu")) for model in models]
    fastest = [float("inf")] * len(models)
    for turn in range(STEPS + 1):
        for i, bench in enumerate(benches):
            start = clock()
            bench.train_step()
            if turn:
                fastest[i] = min(fastest[i], (clock() - start) / share)
    return fastest
