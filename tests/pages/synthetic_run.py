"""Write run directories with made-up figures that obey the contract: fixtures, results of nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfmd.costs.scores import inverse_efficiency, rate_correct
from fedfmd.pages.run.page import render_page
from fedfmd.pages.run.tables import write_tables
from fedfmd.results.runs import load_run

RATED = ("macs", "bytes", "client_train_seconds", "device_seconds", "energy_joules")
SUMS = (
    "macs",
    "downlink_bytes",
    "uplink_bytes",
    "downlink_wire_bytes",
    "uplink_wire_bytes",
    "device_seconds",
    "energy_joules",
)
TEST_SAMPLES = 10_000
TIERS = ("server", "phone", "sensor <i>")
LAYERS = ("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2")
KERNELS = 4
FULL_PLAN = {"width": 1.0, "kernels": KERNELS, "epochs": 1, "batch_size": 32}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What varies between made-up runs."""

    name: str = "made-up"
    conv: str = "fmdconv"
    clients: int = 100
    cohort: int = 10
    rounds: int = 30
    classes: int = 10
    seed: int = 7
    forward_macs: int = 12_400_000
    payload_bytes: int = 1_240_000
    ceiling: float = 0.86
    every: int = 1
    simulated: bool = True
    finished: bool = True
    limited: bool = False
    """Devices in tiers, with plans and limits."""
    dynamic: bool = False
    """Diagnostics of the dynamic layers."""


def write_run(folder: Path, made: Made) -> Path:
    """Write the run directory of ``made`` to ``folder`` and return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(made.seed)
    counts = _label_counts(made, rng)
    rounds, clients = _ledgers(made, counts, rng)
    (folder / "config.toml").write_text(_config(made))
    _json(folder / "environment.json", _ENVIRONMENT)
    _json(folder / "partition.json", _partition(made, counts))
    _lines(folder / "rounds.jsonl", rounds)
    _lines(folder / "clients.jsonl", clients)
    if made.finished:
        _json(folder / "summary.json", _summary(made, rounds))
    return folder


def _label_counts(made: Made, rng: np.random.Generator) -> np.ndarray:
    shares = rng.dirichlet([0.5] * made.clients, size=made.classes)
    return np.maximum(np.round(shares.T * 60_000 / made.classes), 0).astype(int)


def _ledgers(made: Made, counts: np.ndarray, rng: np.random.Generator) -> tuple[list[dict], list[dict]]:
    speed = rng.lognormal(0.0, 0.6, made.clients)
    total = dict.fromkeys((*SUMS, "bytes", "client_train_seconds", "host_seconds", "device_clock_seconds"), 0)
    rounds, clients = [_round(made, 0, [], total, rng)], []
    for number in range(1, made.rounds + 1):
        cohort = sorted(rng.choice(made.clients, made.cohort, replace=False).tolist())
        rows = [_client(made, number, c, int(counts[c].sum()), speed[c], rng) for c in cohort]
        clients += rows
        rounds.append(_round(made, number, rows, total, rng))
    return rounds, clients


def _client(made: Made, number: int, client: int, examples: int, speed: float, rng) -> dict:
    status = str(rng.choice(["completed", "partial", "dropped", "failed"], p=[0.9, 0.05, 0.03, 0.02]))
    reason = {"dropped": "deadline of 40 s passed", "failed": "RuntimeError: loss is <NaN>"}.get(status)
    share = {"completed": 1.0, "partial": 0.5, "dropped": 1.0, "failed": 0.3}[status]
    planned = 3 * made.forward_macs * examples
    macs, sent = int(planned * share), status != "failed"
    device = macs / (2e9 * speed) + 2 * made.payload_bytes / 1e6
    return {
        "round": number,
        "attempt": 0,
        "client": client,
        "status": status,
        "reason": reason,
        "examples": examples,
        "steps": int(np.ceil(examples * share / 32)),
        "plan": _plan(client)
        if made.limited
        else {"width": 1.0, "kernels": 4, "epochs": 1, "batch_size": 32},
        "budget": _budget(planned, made, macs) if made.limited else {},
        "macs_planned": planned,
        "macs": macs,
        "downlink_bytes": made.payload_bytes,
        "uplink_bytes": made.payload_bytes * sent,
        "downlink_wire_bytes": made.payload_bytes + 812,
        "uplink_wire_bytes": (made.payload_bytes + 640) * sent,
        "train_seconds": macs / 3e10 * float(rng.uniform(0.9, 1.2)),
        "device_seconds": device if made.simulated else None,
        "energy_joules": 2.1 * device if made.simulated else None,
        "memory_bytes": 92_000_000,
        "train_loss": None if status == "failed" else 2.3 * float(np.exp(-number / 9)) + 0.3,
    }


def _plan(client: int) -> dict:
    tier = client % len(TIERS)
    plan = FULL_PLAN | {"width": (1.0, 0.5, 0.25)[tier], "kernels": (4, 2, 2)[tier]}
    return plan | {"device": TIERS[tier], "why": "<b>it fits</b>"} | ({"steps": 5} if client % 5 == 0 else {})


def _budget(planned: int, made: Made, macs: int) -> dict:
    limits = {"macs": int((0.9 if planned % 3 else 1.25) * planned), "uplink_bytes": 2 * made.payload_bytes}
    return limits | ({"violations": ["macs"]} if macs > limits["macs"] else {})


def _dynamics(number: int, rng: np.random.Generator) -> dict:
    usage = {name: rng.dirichlet([5.0] * KERNELS).tolist() for name in LAYERS}
    entropy = {name: float(np.exp(-number / (20 + i))) for i, name in enumerate(LAYERS)}
    return {
        "attention_entropy": {name: share * float(np.log(KERNELS)) for name, share in entropy.items()},
        "relative_entropy": entropy,
        "kernel_usage": usage,
        "kernel_update_cosine": {name: float(rng.uniform(-0.1, 0.6)) for name in LAYERS},
    }


def _round(made: Made, number: int, rows: list[dict], total: dict, rng) -> dict:
    cost = {name: _sum(rows, name) for name in SUMS}
    cost["client_train_seconds"] = sum(r["train_seconds"] for r in rows)
    cost["host_seconds"] = cost["client_train_seconds"] / 2 + 0.4 if rows else 0.0
    cost["device_clock_seconds"] = max((r["device_seconds"] or 0 for r in rows), default=0)
    if not made.simulated:
        cost |= dict.fromkeys(("device_seconds", "energy_joules", "device_clock_seconds"))
    spent = cost | {"bytes": cost["downlink_bytes"] + cost["uplink_bytes"]}
    for name in total:
        total[name] = None if spent[name] is None else total[name] + spent[name]
    top1 = None if number % made.every else _accuracy(made, number, rng)
    lost = [r for r in rows if r["status"] in ("dropped", "failed")]
    return {
        "round": number,
        "cohort": len(rows),
        **{s: sum(r["status"] == s for r in rows) for s in ("completed", "partial", "dropped", "failed")},
        "train_loss": 2.3 * float(np.exp(-number / 9)) + 0.3 if rows else None,
        "test_loss": None if top1 is None else 2.3 * float(np.exp(-number / 10)) + 0.45,
        "top1": top1,
        "top5": None if top1 is None else 1 - (1 - top1) ** 2 * 0.6,
        "validation_top1": None if top1 is None else round(0.98 * top1, 4),
        "validation_loss": None if top1 is None else 2.3 * float(np.exp(-number / 10)) + 0.5,
        "client_top1": None,
        **cost,
        "wasted_macs": sum(r["macs"] for r in lost),
        "wasted_bytes": sum(r["downlink_bytes"] + r["uplink_bytes"] for r in lost),
        **({"diagnostics": _dynamics(number, rng)} if made.dynamic and rows else {}),
        **({"violations": sum(len(r["budget"].get("violations", [])) for r in rows)} if made.limited else {}),
        "learning_rate": 0.05,
        "temperature_kernel": max(34.0 - 3 * number, 1.0),
        "temperature_channel": max(34.0 - 3 * number, 1.0),
        "cumulative": dict(total),
        "ies": {a: inverse_efficiency(total[a], top1) for a in RATED},
        "rcs": {a: rate_correct(top1, TEST_SAMPLES, total[a]) for a in RATED},
        "ies_round": {a: inverse_efficiency(spent[a], top1) for a in RATED},
        "rcs_round": {a: rate_correct(top1, TEST_SAMPLES, spent[a]) for a in RATED},
    }


def _accuracy(made: Made, number: int, rng: np.random.Generator) -> float:
    chance = 1 / made.classes
    clean = chance + (made.ceiling - chance) * (1 - np.exp(-number / 8))
    wobble = rng.normal(0, 0.018) * bool(number)
    return round(float(np.clip(clean + wobble, 0, 1)), 4)


def _sum(rows: list[dict], name: str) -> float:
    return sum(row[name] or 0 for row in rows)


def _summary(made: Made, rounds: list[dict]) -> dict:
    known = [row for row in rounds if row["top1"] is not None]
    last, best = known[-1], max(known, key=lambda row: row["validation_top1"])
    return {
        "name": made.name,
        "status": "finished",
        "rounds": rounds[-1]["round"],
        "final_top1": last["top1"],
        "best_top1": best["top1"],
        "best_round": best["round"],
        "final_top5": last["top5"],
        "cumulative": last["cumulative"],
        "ies": last["ies"],
        "rcs": last["rcs"],
        "seconds": 412.5,
        "parameters": made.payload_bytes // 4,
        "forward_macs": made.forward_macs,
        "test_samples": TEST_SAMPLES,
        "num_classes": made.classes,
    }


def _partition(made: Made, counts: np.ndarray) -> dict:
    return {
        "scheme": "dirichlet",
        "parameters": {"alpha": 0.5, "min_size": 10},
        "seed": made.seed,
        "clients": made.clients,
        "sha256": "0" * 64,
        "sizes": counts.sum(axis=1).tolist(),
        "label_counts": counts.tolist(),
    }


def _config(made: Made) -> str:
    return f"""name = {json.dumps(made.name)}
seed = {made.seed}

[data]
name = "fashion-mnist"

[partition]
scheme = "dirichlet"
clients = {made.clients}
alpha = 0.5

[model]
name = "resnet8"
conv = {json.dumps(made.conv)}
width = 1.0
kernels = 4

[client]
epochs = 1
batch_size = 32

[server]
rounds = {made.rounds}
cohort = {made.cohort}
strategy = "fedavg"
{_devices() if made.limited else ""}"""


def _devices() -> str:
    return "".join(f"\n[[devices.tiers]]\nname = {json.dumps(name)}\n" for name in TIERS)


_ENVIRONMENT = {
    "fedfmd": "0.1.0",
    "commit": "0123456789abcdef",
    "python": "3.11.9",
    "packages": {"torch": "2.15.0", "flwr": "1.41.0", "ray": "2.55.1"},
    "system": "Linux-6.1-x86_64",
    "processor": "A made-up processor",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "gpus": [],
}


def _json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, allow_nan=False))


def _lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def page_and_tables(folder: Path) -> str:
    """Write a run's tables beside it and return its page: a report without its figures for print."""
    run = load_run(folder)
    write_tables([run], folder / "tables")
    return render_page([run])
