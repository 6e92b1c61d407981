"""One result, to the bit, wherever a config runs: nothing in it says how many threads, workers or cores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedfmd.records.rows import repeatable

ROOT = Path(__file__).parents[2]
QUICK: dict[str, dict[str, Any]] = {
    "data": {"train_samples": 400, "test_samples": 100},
    "partition": {"clients": 8, "min_size": 2},
    "model": {"width": 0.25},
    "server": {"rounds": 2, "cohort": 4},
    "evaluation": {"batch_size": 32},
}
DEVICES: dict[str, dict[str, Any]] = {"devices": {"kind": "lognormal"}}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "quickstart": {},
    "odconv-gn-diagnostics": {"model": {"conv": "odconv", "norm": "gn"}, "diagnostics": {"enabled": True}},
    "dyconv-sgd": {"model": {"conv": "dyconv"}, "client": {"optimizer": "sgd", "learning_rate": 0.05}},
    "condconv-fedadam": {
        "model": {"conv": "condconv"},
        "server": {"strategy": "fedadam", "learning_rate": 0.01},
    },
    "static-ln-augmented": {"model": {"conv": "static", "norm": "ln"}, "client": {"augment": True}},
    "width": {"model": {"norm": "gn"}, "policy": {"kind": "width"}, "budget": {"macs_fraction": 0.3}},
    "kernels": {"policy": {"kind": "kernels"}, "budget": {"bytes_fraction": 0.6}},
    "depth": {"model": {"exits": True}, "policy": {"kind": "depth"}, "budget": {"macs_fraction": 0.8}},
    "buffered": {**DEVICES, "server": {"mode": "buffered", "buffer": 2}},
    "private": {
        "model": {"norm": "gn"},
        "server": {"weighting": "uniform"},
        "selection": {"kind": "poisson"},
        "privacy": {"dp": "central", "noise_multiplier": 1.0, "clip_quantile": 0.5},
    },
    "int8": {"compression": {"uplink": "int8"}},
    "secure": {"privacy": {"secure": "secagg"}},
    "secure-width": {
        "model": {"norm": "gn"},
        "policy": {"kind": "width", "widths": [1.0, 0.5], "rates": "drawn", "classifier_rows": "holders"},
        "privacy": {"secure": "secagg", "min_holders": 2},
    },
    "fedbn-clients": {"model": {"norm": "fedbn"}, "evaluation": {"clients": 3}},
}
CI = ("quickstart", "width")
ELSEWHERE = {
    "one worker": ["--backend", "ray", "--workers", "1"],
    "two workers": ["--backend", "ray", "--workers", "2"],
    "three workers": ["--backend", "ray", "--workers", "3"],
}


def command(variant: str, out: Path, *options: str) -> list[str]:
    sections: dict[str, dict[str, Any]] = {name: dict(values) for name, values in QUICK.items()}
    for section, values in VARIANTS[variant].items():
        sections[section] = sections.get(section, {}) | values
    settings = [
        f"{section}.{key}={json.dumps(value)}"
        for section, keys in sections.items()
        for key, value in keys.items()
    ]
    sets = [part for setting in settings for part in ("--set", setting)]
    run = [sys.executable, "-m", "fedfmd", "simulate", str(ROOT / "configs" / "quickstart.toml"), *sets]
    return [*run, "--out", str(out), *options]


def finish(arguments: list[str]) -> None:
    # Not the suite's own single thread: the default has to hold where the environment says nothing.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def assert_same(one: Path, other: Path) -> None:
    """Compare every tensor of the model, and the ledgers but for what is measured anew in every run."""
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    for ledger in ("rounds.jsonl", "clients.jsonl"):
        rows = [[repeatable(json.loads(line)) for line in (run / ledger).open()] for run in (one, other)]
        assert rows[0] == rows[1]


def killed_and_resumed(variant: str, out: Path) -> None:
    process = subprocess.Popen(
        command(variant, out, "--backend", "inline"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ledger, deadline = out / "rounds.jsonl", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if ledger.exists() and len(ledger.read_bytes().splitlines()) >= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    process.wait()
    if not (out / "summary.json").exists():
        finish([sys.executable, "-m", "fedfmd", "simulate", "--resume", str(out)])


@pytest.mark.parametrize(
    "variant", [v if v in CI else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]
)
def test_a_config_gives_the_same_bits_on_one_core_and_on_two_workers(tmp_path: Path, variant: str) -> None:
    finish(command(variant, tmp_path / "inline", "--backend", "inline"))
    finish(["taskset", "-c", "0", *command(variant, tmp_path / "core", "--backend", "inline")])
    finish(command(variant, tmp_path / "two", "--backend", "ray", "--workers", "2"))
    for other in ("core", "two"):
        assert_same(tmp_path / "inline", tmp_path / other)


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_config_gives_the_same_bits_with_any_workers_and_after_a_kill(tmp_path: Path, variant: str) -> None:
    finish(command(variant, tmp_path / "inline", "--backend", "inline"))
    for name, options in ELSEWHERE.items():
        finish(command(variant, tmp_path / name, *options))
        assert_same(tmp_path / "inline", tmp_path / name)
    killed_and_resumed(variant, tmp_path / "killed")
    assert_same(tmp_path / "inline", tmp_path / "killed")
