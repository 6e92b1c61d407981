"""A device card: one machine's figures, measured, as a tier of an experiment can be like them.

The section ``[device]`` has the keys of ``devices.tiers``, and ``like`` in it names the profile that answers
for what was not measured. The rest says how the figures came about: the rates by shape with their spread, the
memory's bound, the start of a process, what a validation on other networks gave, and the machine.

A training step takes longer than its MACs: norms and activations go over what layers put out, and a layer's
calls take their time however small it is. So the seconds of whole steps are split, by least squares of
relative errors without negative parts, into those of a MAC of a convolution, of a MAC of attention, of a byte
that is put out, and of a layer. Mixing and linear layers, which take little of a step, are as fast as the
operator of their middle shape.

Power is taken from RAPL's counters where they can be read, or from the log of a plug, without what the
machine takes at rest.

Each part is written as soon as it is known, and a card that is there already is continued.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tomli_w
import torch
from scipy.optimize import nnls

from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.config.sections.model import ModelConfig
from fedfmd.costs.conventions import FLOAT32_BYTES, TRAINING_MACS_PER_FORWARD
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.devices.profiles import RATE_SUFFIX, Device, Rates, device_from
from fedfmd.devices.simulation import overhead_seconds
from fedfmd.errors import UserError
from fedfmd.files import check_file, write_atomic
from fedfmd.machine.children import module_command
from fedfmd.machine.energy import NoEnergyError
from fedfmd.machine.environment import describe_environment
from fedfmd.machine.plug import Plug
from fedfmd.machine.process import prepare_process
from fedfmd.profiling.calibrate import clock, measured_rates, shapes
from fedfmd.profiling.card_file import Card, check_same_machine, read_card
from fedfmd.profiling.link import measure_link
from fedfmd.profiling.measure import Bench
from fedfmd.profiling.power import measured_power
from fedfmd.profiling.variants import Task, label

BATCH, REPEATS, STEPS = 16, 20, 15
CALIBRATION = (
    ModelConfig(name="resnet8", conv="static"),
    ModelConfig(name="resnet8", width=2, conv="static"),
    ModelConfig(name="resnet18", width=0.125, conv="static"),
    ModelConfig(name="resnet18", width=0.375, conv="static"),
    ModelConfig(name="resnet8", kernels=2),
    ModelConfig(name="resnet8", width=0.5, kernels=4),
    ModelConfig(name="resnet18", width=0.25, kernels=2),
    ModelConfig(name="resnet18", width=0.125, kernels=4),
)
"""Wide and narrow, shallow and deep, static and dynamic networks, so that the parts of a step differ."""
VALIDATION = (
    ModelConfig(name="resnet8", width=0.5, conv="static"),
    ModelConfig(name="resnet14", conv="static"),
    ModelConfig(name="resnet18", width=0.5, conv="static"),
    ModelConfig(name="resnet8", kernels=4),
    ModelConfig(name="resnet14", kernels=2),
    ModelConfig(name="resnet18", width=0.25, kernels=4),
)
"""Other depths, widths and numbers of kernels than those that the rates were fitted to."""
FITTED = ("conv", "attention")
"""Kinds of MACs whose rates come from whole steps."""
Tell = Callable[[str], None]
MEMORY_LIMIT = 4_000_000_000
"""Bytes that the search for memory may ask for."""


def measure_card(
    path: Path,
    *,
    like: str,
    memory_limit: int | None,
    share: float,
    tell: Tell,
    plug: Plug | None = None,
    server: tuple[str, int] | None = None,
) -> Card:
    """Measure what the card at ``path`` lacks, with one thread, and write it part by part.

    ``like`` is the profile of what cannot be measured, ``memory_limit`` the most bytes that the search for
    memory may ask for (by default `MEMORY_LIMIT`), ``share`` the part of a processor that this process may
    use. Another limit than the card's, the log of a ``plug``, and a ``server`` (host, port) have memory,
    power and link measured again. Raises ``UserError`` for a file that is no card, one that another machine
    has begun, and where that memory is too little to begin with.
    """
    prepare_process(1)
    check_file("--device-card", path)
    card: Card = read_card(path) if path.exists() else {}
    card.setdefault("device", {"name": path.stem, "like": like})
    here = _provenance(share)
    begun = card.setdefault("provenance", here)
    limit = memory_limit or MEMORY_LIMIT
    links = [("link", "the link", lambda card: _add_link(card, *server))] if server else []
    parts: Sequence[tuple[str, str, Callable[[Card], None]]] = (
        ("memory", "memory", lambda card: _add_memory(card, limit)),
        *links,
        ("operators", "operators", lambda card: _add_operators(card, share)),
        ("calibration", "steps of eight networks", lambda card: _add_rates(card, share)),
        ("start", "the start of a process", lambda card: _add_start(card, share)),
        ("power", "power", lambda card: _add_power(card, plug)),
        ("validation", "steps of other networks", lambda card: _add_validation(card, share)),
    )
    wider = memory_limit is not None and memory_limit != card.get("memory", {}).get("limit_bytes")
    asked = {name for name, given in (("memory", wider), ("power", plug), ("link", server)) if given}
    due = [part for part in parts if part[0] not in card or part[0] in asked]
    if due:
        check_same_machine(path, begun, here)
    for _, what, add in due:
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
    """Split the steps of some networks into what MACs, activations and calls take."""
    middle = {
        kind: median([row["macs_per_second"] for row in card["operators"] if row["kind"] == kind])
        for kind in shapes()
    }
    fitted = split(step_parts(CALIBRATION, Rates(**middle)), step_seconds(CALIBRATION, share))
    rates = middle | {kind: 1 / fitted[kind] for kind in FITTED if fitted[kind]}
    card["device"] |= {f"{kind}{RATE_SUFFIX}": rate for kind, rate in rates.items()}
    if fitted["activation"]:
        card["device"]["activation_bytes_per_second"] = 1 / fitted["activation"]
    card["device"]["layer_seconds"] = fitted["layer"]
    card["calibration"] = {"seconds": fitted, "networks": [label(m) for m in CALIBRATION]}


@dataclass(frozen=True)
class StepParts:
    """What a training step consists of."""

    known_seconds: float
    """Of the MACs whose rates are known."""
    counts: Mapping[str, float]
    """MACs of the fitted kinds, bytes of activations, layers."""


def step_parts(models: Sequence[ModelConfig], rates: Rates) -> list[StepParts]:
    """Return what a training step of each network consists of; ``rates`` are for what is not fitted."""
    return [_parts(_cost(model), rates) for model in models]


def _parts(cost: ModelCost, rates: Rates) -> StepParts:
    macs = cost.macs_by_kind * (TRAINING_MACS_PER_FORWARD * BATCH)
    counts = {kind: float(getattr(macs, kind)) for kind in FITTED}
    counts["activation"] = float(BATCH * cost.activation_elements * FLOAT32_BYTES)
    counts["layer"] = float(len(cost.layers))
    return StepParts(rates.seconds(replace(macs, **dict.fromkeys(FITTED, 0))), counts)


def split(parts: Sequence[StepParts], seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of one of each count, none below zero, with the least relative errors of the steps.

    A count that no step needs for its length gets 0.
    """
    measured = np.array(seconds)
    rows = np.array([list(part.counts.values()) for part in parts])
    scale = rows.max(axis=0).clip(min=1)
    rest = 1 - np.array([part.known_seconds for part in parts]) / measured
    found, _ = nnls(rows / scale / measured[:, None], rest.clip(min=0))
    return dict(zip(parts[0].counts, (found / scale).tolist(), strict=True))


def _add_memory(card: Card, limit: int) -> None:
    command = [*module_command("fedfmd.profiling.memory_probe"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left, taken = map(int, done.stdout.split())
    if not left:
        raise UserError(
            f"memory: of {limit // 1_000_000} MB nothing is left for training where PyTorch is imported, "
            f"which takes {taken // 1_000_000} MB of data here; give a larger --memory-limit, or the "
            "process a larger RLIMIT_DATA (ulimit -d)"
        )
    card["memory"] = {"limit_bytes": limit, "bound": "RLIMIT_DATA of a process of its own"}
    card["device"]["memory_bytes"] = left


def _add_start(card: Card, share: float) -> None:
    """Take the processor time of a process that imports what a client needs."""
    before = os.times()
    command = [sys.executable, "-P", "-c", "import fedfmd.flower.client"]
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    spent = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    card["start"] = {"seconds": spent / share}


def _add_power(card: Card, plug: Plug | None) -> None:
    """Take the power of training beyond the machine's at rest, or say why there is none."""
    try:
        found = measured_power(lambda: step_seconds(CALIBRATION, 1.0), plug)
    except NoEnergyError as error:
        card["power"] = {"source": "none", "reason": str(error)}
        return
    card["device"] |= {"compute_watts": found.compute_watts, "watts_source": found.source}
    card["power"] = asdict(found)


def _add_link(card: Card, host: str, port: int) -> None:
    """Take the round trip, its jitter and the bandwidth either way from transfers with a server."""
    found = measure_link(host, port)
    card["link"] = {
        "server": f"{host}:{port}",
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "wall clock, over TCP; bandwidth is of payload, beyond a round trip",
        **asdict(found),
    }
    card["device"] |= {
        "downlink_bits_per_second": found.downlink.bits_per_second,
        "uplink_bits_per_second": found.uplink.bits_per_second,
        "link": {
            "round_trip_seconds": found.round_trip_seconds,
            "jitter_seconds": found.jitter_seconds,
        },
    }


def _add_validation(card: Card, share: float) -> None:
    device = device_from(DeviceConfig.model_validate(card["device"]))
    rows: list[dict[str, Any]] = [
        {"model": label(model), "step_seconds": seconds, "ratio": predicted(device, model) / seconds}
        for model, seconds in zip(VALIDATION, step_seconds(VALIDATION, share), strict=True)
    ]
    ratios = [row["ratio"] for row in rows]
    card["validation"] = {
        "median_ratio": median(ratios),
        "worst_ratio": max(ratios, key=lambda ratio: max(ratio, 1 / ratio)),
        "batch_size": BATCH,
        "networks": rows,
    }


def predicted(device: Device, model: ModelConfig) -> float:
    """Return the seconds of a training step that a device's figures say."""
    cost = _cost(model)
    macs = cost.macs_by_kind * (TRAINING_MACS_PER_FORWARD * BATCH)
    return device.rates.seconds(macs) + overhead_seconds(device, macs, cost, BATCH)


def _cost(model: ModelConfig) -> ModelCost:
    return model_cost(Bench(model, Task(), 1, torch.device("cpu")).network, Task().input_shape)


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
